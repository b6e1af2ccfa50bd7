"""From stored clips to batches: packed store, readers, batched transforms, streams, sampling of an epoch.

    from feeders import Feeder, get_benchmark, open_store
    benchmark = get_benchmark("demo")
    opened = open_store(benchmark)
    feeder = Feeder(opened.store, benchmark, split="train", stream="joint", seed=0)
    for batch in feeder.epoch(0, batch_size=16):
        batch.x                                              # float32 (16, 3, 32, 25, 2)

What a configuration is checked against (`get_benchmark`, the choices, the errors) needs no torch; everything else is
imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from feeders.benchmarks import BENCHMARKS, Benchmark, SplitRule, get_benchmark
from feeders.choices import ON_BAD_CLIP, PLACEMENTS, SPLITS, STREAMS, VARIANTS
from feeders.errors import BadClip, BadClipsError, DataError, describe_bad_clips

if TYPE_CHECKING:
    from feeders.feeder import ClipBatch, Feeder
    from feeders.keypoints import normalise_keypoints
    from feeders.open import OpenedStore, open_store, place_store
    from feeders.store.packed import PackedStore

_IMPORTED_WHEN_ASKED_FOR = {
    "ClipBatch": "feeders.feeder",
    "Feeder": "feeders.feeder",
    "OpenedStore": "feeders.open",
    "normalise_keypoints": "feeders.keypoints",
    "PackedStore": "feeders.store.packed",
    "open_store": "feeders.open",
    "place_store": "feeders.open",
}

__all__ = [
    "BENCHMARKS",
    "ON_BAD_CLIP",
    "PLACEMENTS",
    "SPLITS",
    "STREAMS",
    "VARIANTS",
    "BadClip",
    "BadClipsError",
    "Benchmark",
    "ClipBatch",
    "DataError",
    "Feeder",
    "OpenedStore",
    "PackedStore",
    "SplitRule",
    "describe_bad_clips",
    "get_benchmark",
    "normalise_keypoints",
    "open_store",
    "place_store",
]


def __getattr__(name: str) -> object:
    if name not in _IMPORTED_WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_IMPORTED_WHEN_ASKED_FOR[name]), name)
