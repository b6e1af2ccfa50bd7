"""Reading the score files that published training codes pickle, without running what else a pickle may hold.

Such a file is a dictionary from clip name (text, or a numpy integer in NW-UCLA files) to the clip's raw logits, a numpy
vector. `feeders.pickle_machine` says why and how it is read.

Letters: n clips, K classes.
"""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feeders.pickle_machine import PickleMachine
from feeders.pickled_arrays import Array, PickleRefusedError


def read_pickled_scores(data: bytes) -> tuple[list[str], NDArray[np.float32]]:
    """Clip names and raw logits of a pickled score file.

    Args:
        data: the whole content of the file.

    Returns:
        The names (n), integers as their decimal digits, and the logits, float32 (n, K), in the file's order.

    Raises:
        PickleRefusedError: truncated or damaged pickle, a name other than the six, forged arrays, two clips of
            one name, rows of different lengths, no clip at all.
    """
    rows = _ScoreMachine(data, len(data)).run()
    if not rows:
        raise PickleRefusedError("the dictionary holds no clip")
    values = [row.values for row in rows.values()]
    if any(row is not None and row.ndim != 1 for row in values):
        raise PickleRefusedError("an array that is not one row of scores")
    lengths = {0 if row is None else len(row) for row in values}
    if len(lengths) > 1:
        raise PickleRefusedError(f"rows of different lengths, from {min(lengths)} to {max(lengths)} scores")
    if 0 in lengths:
        raise PickleRefusedError("an array without scores")
    # One array may be entered under many names: then the table could exceed by far what the file has of numbers.
    if sum(row.nbytes for row in values if row is not None) > len(data):
        raise PickleRefusedError("more scores than the file has room for")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which whoever uses the scores refuses
        return list(rows), np.array(values, dtype=np.float32)


class _ScoreMachine(PickleMachine):
    """Knows one dictionary, from clip names to arrays, and no list."""

    kind = "a score file"
    max_nesting = 8  # the dictionary, an array's state and its type's state nest less deep

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data, size)
        self.rows: dict[str, Array] | None = None

    def run(self) -> dict[str, Array]:
        if super().run() is not self.rows or self.rows is None:
            raise PickleRefusedError("it holds no dictionary of scores")
        return self.rows

    def push_dictionary(self, _: None) -> None:
        if self.rows is not None:
            raise PickleRefusedError("a second dictionary")
        self.rows = {}
        self.stack.append(self.rows)

    def push_list(self, _: None) -> None:
        raise PickleRefusedError("a list does not belong in a score file")

    def enter_one(self, entries: dict[str, Any], key: Any, value: Any) -> None:
        if type(key) is not str and not (type(key) is int and -(2**63) <= key < 2**63):
            raise PickleRefusedError("a clip name that is neither text nor a 64-bit integer")
        if type(value) is not Array:
            raise PickleRefusedError(f"the entry of clip {reprlib.repr(key)} is no vector of scores")
        if str(key) in entries:
            raise PickleRefusedError(f"two entries for clip {reprlib.repr(key)}")
        entries[str(key)] = value
