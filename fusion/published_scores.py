"""Reading the score files that published training codes pickle, without running what else a pickle may hold.

Such a file is a dictionary from clip name (text, or a numpy integer in NW-UCLA files) to the clip's raw logits, a numpy
vector; `common.pickles` reads it.

Letters: n clips, K classes.
"""

from __future__ import annotations

import reprlib

import numpy as np
from numpy.typing import NDArray

from common.pickles import Array, PickleRefusedError, load_arrays


def read_pickled_scores(data: bytes) -> tuple[list[str], NDArray[np.float32]]:
    """Clip names and raw logits of a pickled score file.

    Args:
        data: the whole content of the file.

    Returns:
        The names (n), integers as their decimal digits, and the logits, float32 (n, K), in the file's order.

    Raises:
        PickleRefusedError: truncated or damaged pickle, something else than vectors in it, two clips of one name, rows
            of different lengths, no clip at all.
    """
    rows = load_arrays(data, len(data))
    if type(rows) is not dict:
        raise PickleRefusedError("it holds no dictionary of scores")
    if not rows:
        raise PickleRefusedError("the dictionary holds no clip")
    names, values = [], []
    for name, row in rows.items():
        if type(name) is int and not -(2**63) <= name < 2**63:
            raise PickleRefusedError("a clip name that is neither text nor a 64-bit integer")
        if type(row) is not Array or row.values is None or row.values.ndim != 1:
            raise PickleRefusedError(f"the entry of clip {reprlib.repr(name)} is not a vector of scores")
        names.append(str(name))
        values.append(row.values)
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise PickleRefusedError(f"two entries for clip {reprlib.repr(double)}")
    lengths = {len(row) for row in values}
    if len(lengths) > 1:
        raise PickleRefusedError(f"rows of different lengths, from {min(lengths)} to {max(lengths)} scores")
    if 0 in lengths:
        raise PickleRefusedError("an array without scores")
    # One array may be entered under many names: then the table could exceed by far what the file has of numbers.
    if sum(row.nbytes for row in values) > len(data):
        raise PickleRefusedError("more scores than the file has room for")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which whoever uses the scores refuses
        return names, np.array(values, dtype=np.float32)
