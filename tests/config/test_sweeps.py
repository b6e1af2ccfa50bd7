"""Every grid of sweeps is made of cells that main.py would run, each with a folder of its own."""

from __future__ import annotations

import pytest

from common.yaml_files import read_yaml
from tests.documents import REPOSITORY
from tools.sweep import cells_of

GRIDS = sorted((REPOSITORY / "config/sweep").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_grid_resolves(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    cells = cells_of(read_yaml(path))
    assert len({cell.folder for cell in cells}) == len(cells) >= 5
