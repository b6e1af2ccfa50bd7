"""docs/tables.md: its commands name configurations that are there, and cover every table and figure."""

from __future__ import annotations

import re

import pytest

from engine.config import resolve
from engine.schema import leaves
from tests.documents import REPOSITORY, read

PAGE = read("docs/tables.md")


def test_every_table_and_figure_has_a_section():
    headings = " ".join(re.findall(r"^## (.*)$", PAGE, flags=re.MULTILINE))
    assert re.findall(r"Tables 1, 2 and 3|Table [4-8]|Figure 5|Figures 2 and 6", headings) == [
        *("Tables 1, 2 and 3", "Table 4", "Table 5", "Table 6", "Table 7", "Figure 5", "Table 8", "Figures 2 and 6")
    ]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"config/[\w./${}-]+\.yaml", PAGE))))
def test_the_configurations_are_there(name):
    found = list(REPOSITORY.glob(re.sub(r"(\$\w+|\$\{\w+\})+", "*", name)))
    assert found
    for path in found[:3]:
        assert resolve(["--config", str(path)]) is not None


def test_the_rows_of_the_loops_are_files():
    for loop, file in re.findall(r"for rows in (.*?); do\n.*?--config config/ablation/(\w+)\$rows", PAGE, re.DOTALL):
        for row in loop.replace("\\", "").split():
            assert (REPOSITORY / "config" / "ablation" / f"{file}{row}.yaml").is_file()


def test_the_settings_exist():
    assert set(re.findall(r"--([a-z_]+\.[a-z_]+)", PAGE)) <= leaves().keys()
