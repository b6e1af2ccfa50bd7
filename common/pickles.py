"""Reads pickles of numpy arrays, and nothing else that a pickle may hold.

A pickle is a program that may call anything. Here the names it asks for are replaced by stand-ins that make plain
arrays of numbers; every other name is refused. Handing out numpy's own objects would not do: a crafted file could
forge them (an array of objects over bytes of the file's choice crashes the process).
"""

from __future__ import annotations

import io
import math
import pickle
import reprlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

MAX_DIMENSIONS = 4
PLAIN_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


class PickleRefusedError(ValueError):
    """The bytes are not a pickle of arrays, or ask for more than one needs; the message is one line."""


def load_arrays(data: bytes | IO[bytes], size: int) -> Any:
    """The value in a pickle (protocols 0 to 5) of dictionaries, lists, tuples, text, numbers and arrays (`Array`).

    Args:
        data: the bytes, or a binary file at their start.
        size: how many bytes there are; arrays may not need more.

    Raises:
        PickleRefusedError: truncated or damaged, or something else in it.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(data) if isinstance(data, bytes) else data, size).load()
    except PickleRefusedError:
        raise
    except OSError:
        raise
    except Exception as error:  # the standard library raises whatever damaged bytes lead to
        reason = " ".join(str(error).split())
        raise PickleRefusedError(f"truncated or damaged pickle ({reason[:100] or type(error).__name__})") from None


class _StandIn:
    """What a pickle gets in place of a name; it cannot be changed by the file."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise PickleRefusedError("a state for something other than a numpy type or array")


class _ArrayMarker(_StandIn):
    """The class numpy.ndarray, which pickles only pass along; it cannot be called."""

    __slots__ = ()


class _Constructor(_StandIn):
    """Something that a pickle calls."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


@dataclass(eq=False)
class NumberType:
    """Stand-in for a numpy.dtype: a plain number and a byte order."""

    code: str
    order: str = "="

    def __setstate__(self, state: Any) -> None:
        """Take the byte order from a dtype's state, whose fields, sizes and flags plain numbers leave empty."""
        if type(state) is not tuple or len(state) != 8 or state[0] not in (3, 4) or state[1] not in tuple("<>=|"):
            raise PickleRefusedError("an array type with an unknown state")
        if state[2:] != (None, None, None, -1, -1, 0):
            raise PickleRefusedError("an array type with fields or flags; plain numbers have none")
        self.order = state[1]


@dataclass(eq=False)
class Array:
    """Stand-in for a numpy.ndarray of plain numbers; `values` is None until its state has been set."""

    values: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        """Take the numbers from an array's state: version, shape, type, whether columns come first, bytes."""
        if self.values is not None or type(state) is not tuple or len(state) != 5 or state[0] != 1:
            raise PickleRefusedError("an array with an unknown state")
        _, shape, number_type, columns_first, data = state
        if type(columns_first) is not bool:
            raise PickleRefusedError("an array with an unknown state")
        self.values = _numbers(data, number_type, shape, "F" if columns_first else "C")


def _numbers(data: Any, number_type: Any, shape: Any, order: Literal["C", "F"] = "C") -> NDArray[Any]:
    """The numbers in `data`, a view of its bytes, whose count must be the one that the shape says."""
    if type(data) not in (bytes, bytearray) or type(number_type) is not NumberType:
        raise PickleRefusedError("an array whose content is not the bytes of plain numbers")
    if type(shape) is not tuple or not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise PickleRefusedError(f"an array that does not have 1 to {MAX_DIMENSIONS} dimensions")
    if any(type(size) is not int or size < 0 for size in shape):
        raise PickleRefusedError("an array with an impossible shape")
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
    """numpy.core.multiarray.scalar: an integer, such as the name of a clip."""
    value = _numbers(data, number_type, (1,))[0]
    if not isinstance(value, np.integer):
        raise PickleRefusedError("a numpy number that is not an integer")
    return int(value)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    """numpy.core.multiarray._reconstruct: an array that a state will fill; the arguments are always the same."""
    if type(kind) is not _ArrayMarker or shape != (0,) or code != b"b":
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
            raise PickleRefusedError("an array whose axes are not a permutation")
        return Array(values.transpose(axes))
    if order not in ("C", "F") or axes is not None:
        raise PickleRefusedError("an array in an unknown memory order")
    return Array(_numbers(data, number_type, shape, order))


# By "module name". numpy 2 moved its core; files keep the spelling of the numpy that wrote them.
_STAND_INS: dict[str, _StandIn] = {
    "numpy ndarray": _ArrayMarker(),
    "numpy dtype": _Constructor(_dtype),
    **{
        f"numpy.{core}.{name}": _Constructor(function)
        for core in ("core", "_core")
        for name, function in (
            ("multiarray scalar", _scalar),
            ("multiarray _reconstruct", _reconstruct),
            ("numeric _frombuffer", _from_buffer),
        )
    },
}

_REFUSED = {
    *(pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS, pickle.PERSID, pickle.BINPERSID),
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
}
"""Instructions for sets, classes and objects from elsewhere."""


class _ArrayUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, not the one in C: there a file of twenty bytes can claim all memory
    for its memo, and a dictionary's key is hashed unseen, which crashes the process for tuples nested deeply enough."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in _REFUSED
    }
    # What the base class works with.
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(file)
        self.bytes_left = size

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; `PickleRefusedError` for all other names."""
        spelled = f"{module} {name}"
        if spelled == "_codecs encode":
            return _Constructor(self._encode)
        if spelled not in _STAND_INS:
            raise PickleRefusedError(f"it asks for {reprlib.repr(spelled)}; only numpy's arrays belong in this file")
        return _STAND_INS[spelled]

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """_codecs.encode: how protocols 0 to 2, which know no bytes, spell them."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise PickleRefusedError("text encoded other than as latin-1")
        self.bytes_left -= len(text)
        if self.bytes_left < 0:  # one text over and over; a writer encodes each of its arrays once
            raise PickleRefusedError("more bytes of arrays than the file has room for")
        return text.encode("latin-1")

    def _fill(self, entries: Any, items: list[Any]) -> None:
        """Put alternating keys and values into a dictionary; keys are text or integers, each there once."""
        if type(entries) is not dict or len(items) % 2:
            raise PickleRefusedError("truncated or damaged pickle (entries without a dictionary)")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise PickleRefusedError("a dictionary key that is neither text nor an integer")
            if key in entries:
                raise PickleRefusedError(f"two entries for {reprlib.repr(key)}")
            entries[key] = value

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(self.stack[-1], items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._fill(self.stack[-1], items)

    def load_bytearray8(self) -> None:
        # The base class reserves, and fills with zeros, as many bytes as the file claims.
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    dispatch |= {
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }
