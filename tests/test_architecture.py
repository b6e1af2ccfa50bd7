"""docs/architecture.md: imports point one way only, and every package that the page names exists."""

from __future__ import annotations

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.documents import REPOSITORY, read, section

PAGE = read("docs/architecture.md")
MAY_IMPORT = {
    "common": set(),
    "csre": set(),
    "graph": {"common"},
    "model": {"common", "graph"},
    "feeders": {"common", "graph"},
    "heads": {"common", "graph", "csre", "model"},
    "fusion": {"common", "graph", "feeders"},
    "engine": {"common", "graph", "feeders", "model", "heads", "fusion"},
}
"""What each package may import from besides itself; main.py, ensemble.py, data and tools may import all."""
DOORS = {"main", "ensemble", "data", "tools"}
"""What nothing in a package may import."""


def imports_of(path: Path) -> set[str]:
    """The top-level names that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    forbidden = (MAY_IMPORT.keys() | DOORS | {"tests"}) - MAY_IMPORT[package] - {package}
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(REPOSITORY)): sorted(imports_of(path) & forbidden) for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_no_modules_import_each_other_in_a_circle():
    modules = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path
        for package in MAY_IMPORT
        for path in (REPOSITORY / package).rglob("*.py")
        if path.name != "__init__.py"  # a package's front door knows its modules
    }
    imports = {
        name: {
            imported
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
            for imported in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
            if imported in modules
        }
        for name, path in modules.items()
    }
    assert sum(map(len, imports.values())) > len(modules)
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_csre_needs_torch_alone():
    names = set().union(*(imports_of(path) for path in (REPOSITORY / "csre").glob("*.py")))
    assert names - sys.stdlib_module_names == {"csre", "torch"}


def test_nothing_imports_a_front_door():
    for package in ("tools", "data"):
        for path in (REPOSITORY / package).rglob("*.py"):
            assert not imports_of(path) & {"main", "ensemble"}, path


def test_the_engine_knows_no_head_by_name():
    from heads.registry import HEADS

    for path in (REPOSITORY / "engine").glob("*.py"):
        if path.name not in ("schema.py", "settings_pages.py", "config.py"):  # what the configuration consists of
            text = path.read_text(encoding="utf-8").lower().replace("csre-run", "")  # the format of checkpoints
            words = set(re.findall(r"\w+", text))
            assert not words & HEADS.keys(), path


def test_the_page_shows_every_folder_and_only_folders():
    folders = set(re.findall(r"^\| `(\w+)/` \|", section(PAGE, "Folders"), flags=re.MULTILINE))
    assert folders == MAY_IMPORT.keys() | {"data", "tools", "config", "tests"}
    assert all((REPOSITORY / folder).is_dir() for folder in folders)


def test_the_drawing_has_the_arrows_of_the_code():
    drawn = set(re.findall(r"^  (\w+) --> (\w+)$", PAGE, flags=re.MULTILINE))
    reachable = {package: {right for left, right in drawn if left == package} for package in MAY_IMPORT}
    for _ in MAY_IMPORT:
        reachable = {
            package: set().union(near, *(reachable[far] for far in near)) for package, near in reachable.items()
        }
    for package, allowed in MAY_IMPORT.items():
        assert allowed <= reachable[package], package
    assert all(right in MAY_IMPORT[left] for left, right in drawn if left in MAY_IMPORT)


def test_every_file_that_the_page_names_exists():
    names = re.findall(r"`([\w/]+\.(?:py|md|yaml))`", PAGE)
    assert len(names) > 10
    for name in names:
        assert (REPOSITORY / name).exists(), name
