"""The page of promises names tests that exist."""

from __future__ import annotations

import re

from tests.documents import REPOSITORY, read


def test_every_promise_names_a_test_that_exists():
    found = 0
    for row in re.findall(r"^\| [^|]+ \| (`.+`) \|$", read("docs/reliability.md"), flags=re.MULTILINE):
        file = ""
        for name in re.findall(r"`([^`]+)`", row):
            path, _, test = name.partition("::")
            file = path or file
            place = REPOSITORY / (file if file.startswith("tests/") else f"tests/engine/{file}")
            assert not test or f"def {test}(" in place.read_text(), name
            found += 1
    assert found > 20
