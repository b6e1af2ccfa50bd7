"""Opens the data of a benchmark, whatever their format, and reports everything wrong with them at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from feeders.benchmarks import Benchmark
from feeders.check import quick_remarks
from feeders.choices import ON_BAD_CLIP, PLACEMENTS, SPLITS, OnBadClip, Placement, Split
from feeders.errors import BadClip, BadClipsError, DataError, counted, describe_bad_clips, unknown_choice
from feeders.formats import find_format
from feeders.store.packed import PackedStore

GPU_SHARE = 4
"""With placement `auto` a store goes to the GPU if it takes less than one part in four of the free memory."""


class OpenedStore(NamedTuple):
    """A store that fits its benchmark, the clips that were skipped, and remarks a user should see."""

    store: PackedStore
    skipped: tuple[BadClip, ...]
    remarks: tuple[str, ...]


def open_store(
    benchmark: Benchmark,
    path: str | Path | None = None,
    on_bad_clip: OnBadClip = "error",
    splits: Sequence[Split] = SPLITS,
) -> OpenedStore:
    """The clips at `path` (`data.path`; the benchmark's default place when None), whatever format they have.

    The demo's clips are generated at the first call and kept in that place. Clips that cannot be used are all named in
    one `BadClipsError`, or with on_bad_clip "skip" skipped and returned. With `splits` only one side is read, where
    the format has them apart. Raises `DataError` when nothing is there, its format is unknown, the data do not fit the
    benchmark, or a side is empty.
    """
    if on_bad_clip not in ON_BAD_CLIP:
        raise unknown_choice("data.on_bad_clip", on_bad_clip, ON_BAD_CLIP)
    place = benchmark.data_path(path)
    store, bad_clips = find_format(place, benchmark).read(place, benchmark, splits)
    if bad_clips and (store is None or on_bad_clip == "error"):
        raise BadClipsError(str(place), len(bad_clips) + (len(store) if store else 0), bad_clips)
    if store is None:
        raise DataError(f"{place}: no clip of the {' and '.join(splits)} side in it; data.path should name other data")
    remarks = quick_remarks(store, benchmark, splits)
    if bad_clips:
        remarks.insert(0, f"{place}: {counted(len(bad_clips), 'clip')} skipped:\n{describe_bad_clips(bad_clips)}")
    return OpenedStore(store, tuple(bad_clips), tuple(remarks))


def place_store(store: PackedStore, placement: Placement, device: torch.device) -> PackedStore:
    """The store where `data.placement` says: in the memory of the host or of `device`.

    "auto" chooses the device if it is a GPU and the coordinates take less than a quarter of its free memory. Raises
    `DataError` when they are to be in the memory of a GPU that has too little.
    """
    if placement not in PLACEMENTS:
        raise unknown_choice("data.placement", placement, PLACEMENTS)
    has_room = device.type == "cuda" and store.nbytes * GPU_SHARE < torch.cuda.mem_get_info(device)[0]
    if placement == "host" or (placement == "auto" and not has_room):
        return store
    try:
        return store.to(device)
    except torch.OutOfMemoryError:
        raise DataError(
            f"data.placement: the clips take {store.nbytes / 1e9:.1f} GB, more than the memory of {device} has left; "
            "set it to host or auto"
        ) from None
