"""A small raw tree, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from feeders.ntu.names import get_dataset
from tools.ntu_clips import generate_tree

CLIPS = 24


@pytest.fixture(scope="session")
def raw_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen clips of NTU120 in the two official folders."""
    place = tmp_path_factory.mktemp("raw")
    generate_tree(place, get_dataset("ntu120"), CLIPS, seed=3)
    return place


@pytest.fixture(scope="session")
def raw_archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips in the two official archives."""
    place = tmp_path_factory.mktemp("archives")
    generate_tree(place, get_dataset("ntu120"), CLIPS, seed=3, archives=True)
    return place
