"""Opens the data of a benchmark, whatever their format, and reports everything wrong with them at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from feeders.benchmarks import Benchmark
from feeders.choices import ON_BAD_CLIP, PLACEMENTS, SPLITS, OnBadClip, Placement
from feeders.demo import open_demo
from feeders.errors import BadClip, BadClipsError, DataError, describe_bad_clips, unknown_choice
from feeders.readers.nw_ucla import read_nw_ucla
from feeders.split import split_clips
from feeders.store import PackedStore

Reader = Callable[[Path], tuple[PackedStore | None, list[BadClip]]]

FOLDER_READERS: dict[str, tuple[Reader, str]] = {
    "nw-ucla": (read_nw_ucla, "the folder all_sqe with its 1484 JSON clips"),
}
"""Benchmarks that are read from a folder of clips, and what that folder is."""

GPU_SHARE = 4
"""With placement `auto` a store goes to the GPU if it takes less than one part in four of the free memory."""


class OpenedStore(NamedTuple):
    """A store that fits its benchmark, the clips that were left out, and remarks a user should see."""

    store: PackedStore
    skipped: tuple[BadClip, ...]
    remarks: tuple[str, ...]


def open_store(benchmark: Benchmark, path: str | Path | None = None, on_bad_clip: OnBadClip = "error") -> OpenedStore:
    """The clips at `path` (`data.path`; the benchmark's default place when None): a folder of clips or a packed store.

    The demo's clips are generated at the first call and kept in that place. Clips that cannot be used are all named in
    one `BadClipsError`, or with on_bad_clip "skip" left out and returned. Raises `DataError` when nothing is there,
    the data do not fit the benchmark, or one side of its split is empty.
    """
    if on_bad_clip not in ON_BAD_CLIP:
        raise unknown_choice("data.on_bad_clip", on_bad_clip, ON_BAD_CLIP)
    place = benchmark.data_path(path)
    store, bad_clips = _read(benchmark, place)
    if bad_clips and (store is None or on_bad_clip == "error"):
        raise BadClipsError(str(place), len(bad_clips) + (len(store) if store else 0), bad_clips)
    assert store is not None  # readers return None only together with the clips that are to blame
    remarks = _remark_on_counts(store, benchmark)
    if bad_clips:
        remarks.insert(0, f"{place}: {len(bad_clips)} clips left out:\n{describe_bad_clips(bad_clips)}")
    return OpenedStore(store, tuple(bad_clips), tuple(remarks))


def place_store(store: PackedStore, placement: Placement, device: torch.device) -> PackedStore:
    """The store in host memory or on `device` (`data.placement`).

    "auto" chooses the device if it is a GPU and the coordinates take less than a quarter of its free memory.
    """
    if placement not in PLACEMENTS:
        raise unknown_choice("data.placement", placement, PLACEMENTS)
    if placement == "auto":
        fits = device.type == "cuda" and store.nbytes * GPU_SHARE < torch.cuda.mem_get_info(device)[0]
        placement = "device" if fits else "host"
    return store.to(device) if placement == "device" else store


def _read(benchmark: Benchmark, place: Path) -> tuple[PackedStore | None, list[BadClip]]:
    if benchmark.name == "demo":
        return open_demo(place), []
    reader, content = FOLDER_READERS[benchmark.name]
    if place.is_dir():
        return reader(place)
    if place.is_file():
        return PackedStore.load(place), []
    raise DataError(
        f"{place.absolute()}: no data there; benchmark {benchmark.name} expects {content}, or a packed store (.h5); "
        f"put them there or name their place with data.path"
    )


def _remark_on_counts(store: PackedStore, benchmark: Benchmark) -> list[str]:
    """A remark per side that has other than the known number of clips; `DataError` for a side that has none."""
    remarks = []
    for split in SPLITS:
        found, expected = len(split_clips(store, benchmark, split)), benchmark.expected_clips[split]
        if found != expected:
            remarks.append(f"benchmark {benchmark.name}: {found} {split} clips, {expected} expected")
    return remarks
