"""Keeps the generated demo clips in a file, so that they are made once."""

from __future__ import annotations

from pathlib import Path

from feeders.demo.generator import generate_demo
from feeders.demo.image import filmed
from feeders.errors import DataError
from feeders.store.packed import PackedStore

SEED = 0
VERSION = 1
"""Of what the generator makes: a change of its results needs another number, or old files would be taken for new."""


def open_demo(place: Path, benchmark: str = "demo") -> PackedStore:
    """The clips of `demo` or `demo-2d` from the cache at `place`, generated and kept there first if need be.

    `place` is a folder, or a file name that ends in .h5. A damaged cache in a folder is generated anew; a file that
    was named is never overwritten. Raises `DataError` when it is not readable or the place not writable.
    """
    if place.suffix == ".h5":
        return PackedStore.load(place) if place.exists() else _generate(place, benchmark)
    file = place / f"{benchmark.replace('-', '_')}_v{VERSION}_seed{SEED}.h5"
    try:
        return PackedStore.load(file)
    except DataError:
        return _generate(file, benchmark)


def _generate(file: Path, benchmark: str) -> PackedStore:
    store = generate_demo(SEED)
    if benchmark == "demo-2d":
        store = filmed(store, SEED)
    store.save(file)
    return store
