"""Small stores and the published numbers, for all tests of the feeders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from feeders import OpenedStore, PackedStore, get_benchmark, open_store

MakeStore = Callable[..., PackedStore]


@pytest.fixture(scope="session")
def published(shared: Path) -> dict[str, np.ndarray]:
    """The arrays that the published feeders gave."""
    with np.load(shared / "parity" / "feeders.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def published_clips(published: dict[str, np.ndarray]) -> PackedStore:
    """The thirteen clips that the NTU numbers were made from; odd ones have a second person."""
    ends = published["lengths"].cumsum()
    padded = [rows.reshape(-1, 2, 25, 3) for rows in np.split(published["clips"], ends[:-1])]
    clips = [clip if number % 2 else clip[:, :1] for number, clip in enumerate(padded)]
    return PackedStore.from_clips(clips, [0] * 13, [f"clip {i}" for i in range(13)], ["any"], "ntu")


@pytest.fixture(scope="session")
def real_clips(shared: Path) -> OpenedStore:
    """The whole of NW-UCLA."""
    return open_store(get_benchmark("nw-ucla"), shared / "data" / "NW-UCLA" / "all_sqe")


@pytest.fixture(scope="session")
def make_store() -> MakeStore:
    """Builds a store of random clips that fits the benchmark demo: subject 1 trains, subject 11 tests."""

    def make(lengths: list[int], subjects: list[int] | None = None) -> PackedStore:
        rng = np.random.default_rng(5)
        count = len(lengths)
        return PackedStore.from_clips(
            [rng.standard_normal((frames, 1 + i % 2, 25, 3)).astype(np.float32) for i, frames in enumerate(lengths)],
            labels=[i % 12 for i in range(count)],
            names=[f"clip {i}" for i in range(count)],
            class_names=[f"class {i}" for i in range(12)],
            skeleton="ntu",
            metadata={"subject": subjects or [1] * count},
        )

    return make
