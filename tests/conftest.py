"""What every test may ask for: the folder of reference material, which tests skip without, saying so."""

from __future__ import annotations

import os
from pathlib import Path

# Threads that spin while they wait make tests many times slower on a busy machine; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Keep timings of the suite comparable between machines; two threads is what the smallest one has."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published fixtures and real clips beside the checkout (or at $CSRE_SHARED)."""
    folder = Path(os.environ.get("CSRE_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder} (set CSRE_SHARED to its place)")
    return folder
