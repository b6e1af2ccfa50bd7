"""Imports run one way: no room of the house knows those above it."""

from __future__ import annotations

import ast

import pytest

from tests.documents import REPOSITORY

MAY_IMPORT = {
    "common": set(),
    "csre": set(),
    "graph": {"common"},
    "model": {"common", "graph"},
    "feeders": {"common", "graph"},
    "heads": {"common", "csre", "graph", "model"},
    "fusion": {"common", "feeders"},
    "engine": {"common", "feeders", "fusion", "graph", "heads", "model"},
}
TOP = {"data", "ensemble", "main", "tests", "tools"}


def imported_rooms(source: str) -> set[str]:
    """The first words of all modules that a source file imports, wherever in it."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            rooms.add(str(node.module).partition(".")[0])
    return rooms


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_is_below_it(room):
    files = sorted((REPOSITORY / room).rglob("*.py"))
    assert files
    known = MAY_IMPORT.keys() | TOP
    upwards = {
        str(file.relative_to(REPOSITORY)): found
        for file in files
        if (found := imported_rooms(file.read_text(encoding="utf-8")) & known - MAY_IMPORT[room] - {room})
    }
    assert upwards == {}


def test_the_order_has_no_circle():
    below = dict(MAY_IMPORT)
    while below:
        free = [room for room, others in below.items() if not others & below.keys()]
        assert free
        below = {room: others for room, others in below.items() if room not in free}
