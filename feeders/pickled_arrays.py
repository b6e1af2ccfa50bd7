"""What a pickle of numpy arrays may name, as stand-ins that make plain arrays of numbers and nothing else.

Handing out numpy's own objects would let a crafted file forge them: an array of objects over bytes of the file's choice
crashes the process, a dtype's internal flags can be set by its state. Here a type is one of a few plain numbers with a
byte order, an array is a view of bytes whose count fits its shape, and everything else is refused.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MAX_DIMENSIONS = 4
PLAIN_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


class PickleRefusedError(ValueError):
    """The bytes are no pickle of the kind expected, or ask for more than one needs; the message is one line."""


@dataclass(eq=False)
class NumberType:
    """Stand-in for a numpy.dtype: a plain number and a byte order."""

    code: str
    order: str = "="

    def set_state(self, state: Any) -> None:
        """Take the byte order from a dtype's state, whose fields, sizes and flags plain numbers leave empty."""
        if (
            type(state) is not tuple
            or len(state) != 8
            or state[0] not in (3, 4)
            or state[1] not in ("<", ">", "=", "|")
        ):
            raise PickleRefusedError("an array type with an unknown state")
        if state[2:] != (None, None, None, -1, -1, 0):
            raise PickleRefusedError("an array type with fields or flags; plain numbers have none")
        self.order = state[1]


@dataclass(eq=False)
class Array:
    """Stand-in for a numpy.ndarray of plain numbers; `values` is None until its state has been set."""

    values: NDArray[Any] | None = None

    def set_state(self, state: Any) -> None:
        """Take the numbers from an array's state: version, shape, type, order of dimensions, bytes."""
        if self.values is not None or type(state) is not tuple or len(state) != 5 or state[0] != 1:
            raise PickleRefusedError("an array with an unknown state")
        _, shape, number_type, columns_first, data = state
        if type(columns_first) is not bool:
            raise PickleRefusedError("an array with an unknown state")
        self.values = _numbers(data, number_type, shape, "F" if columns_first else "C")


class ArrayMarker:
    """Stand-in for the class numpy.ndarray, which pickles only pass along; it can be neither called nor changed."""

    __slots__ = ()


@dataclass(frozen=True)
class Call:
    """Stand-in for something that a pickle calls."""

    function: Callable[..., Any]


def _numbers(data: Any, number_type: Any, shape: Any, order: Literal["C", "F"] = "C") -> NDArray[Any]:
    """The numbers in `data`, a view of its bytes, whose count must be the one that the shape says."""
    if type(data) not in (bytes, bytearray) or type(number_type) is not NumberType:
        raise PickleRefusedError("an array whose content is not the bytes of plain numbers")
    if type(shape) is not tuple or not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise PickleRefusedError(f"an array that has not 1 to {MAX_DIMENSIONS} dimensions")
    if any(type(size) is not int or size < 0 for size in shape):
        raise PickleRefusedError("an array whose shape is none")
    count = math.prod(shape)
    if len(data) != count * int(number_type.code[1:]):
        raise PickleRefusedError(f"an array of {reprlib.repr(count)} numbers over {len(data)} bytes")
    return np.frombuffer(data, dtype=np.dtype(number_type.order + number_type.code)).reshape(shape, order=order)


def _dtype(code: Any, align: Any, copy: Any) -> NumberType:
    """numpy.dtype; its flags `align` and `copy` mean nothing for a plain number."""
    if type(code) is not str or code not in PLAIN_NUMBERS or type(align) is not bool or type(copy) is not bool:
        raise PickleRefusedError(f"an array type other than a plain number ({', '.join(PLAIN_NUMBERS)})")
    return NumberType(code)


def _scalar(number_type: Any, data: Any) -> int:
    """numpy.core.multiarray.scalar: an integer that names a clip."""
    value = _numbers(data, number_type, (1,))[0]
    if not isinstance(value, np.integer):
        raise PickleRefusedError("a number with a fraction in the place of a clip name")
    return int(value)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    """numpy.core.multiarray._reconstruct: an array that a state will fill; the arguments are always the same."""
    if type(kind) is not ArrayMarker or shape != (0,) or code != b"b":
        raise PickleRefusedError("an array that is not to be filled by its state")
    return Array()


def _from_buffer(data: Any, number_type: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    """numpy.core.numeric._frombuffer: a whole array, as protocol 5 writes it.

    With the order "K", which numpy writes from version 2.4 on, `shape` is that of the memory, and `axes` says which of
    its dimensions becomes which of the array.
    """
    if order == "K" and axes is not None:
        values = _numbers(data, number_type, shape)
        whole = type(axes) is tuple and all(type(axis) is int for axis in axes)
        if not whole or sorted(axes) != list(range(values.ndim)):
            raise PickleRefusedError("an array whose order of dimensions is none")
        return Array(values.transpose(axes))
    if order not in ("C", "F") or axes is not None:
        raise PickleRefusedError("an array in an unknown memory order")
    return Array(_numbers(data, number_type, shape, order))


def _encode(text: Any, encoding: Any) -> bytes:
    """_codecs.encode: how protocols 0 to 2, which know no bytes, spell them."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise PickleRefusedError("text encoded otherwise than as latin-1")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise PickleRefusedError("text beyond latin-1 in the place of an array's bytes") from None


# By "module name". numpy 2 moved its core; files keep the spelling of the numpy that wrote them.
STAND_INS: dict[str, ArrayMarker | Call] = {
    "numpy ndarray": ArrayMarker(),
    "numpy dtype": Call(_dtype),
    "_codecs encode": Call(_encode),
    **{
        f"numpy.{core}.{name}": Call(function)
        for core in ("core", "_core")
        for name, function in (
            ("multiarray scalar", _scalar),
            ("multiarray _reconstruct", _reconstruct),
            ("numeric _frombuffer", _from_buffer),
        )
    },
}
