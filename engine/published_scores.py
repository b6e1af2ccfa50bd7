"""Reading the score files that published training codes pickle, without running what else a pickle may hold.

Such a file is a dictionary from clip name (text, or a numpy integer in NW-UCLA files) to the clip's raw logits, a numpy
vector. A pickle is a program for a stack machine, and the machine of the standard library also runs harmful ones: it
calls whatever the file names, hashes tuples nested until the process crashes, and reserves what memory the file asks
for. So the standard library only decodes the instructions. They are carried out here, by a machine that knows just
those that a dictionary of arrays needs (protocols 0 to 5), with stand-ins for the names that occur. Every value stays a
plain string, integer, bytes, tuple or stand-in, and memory stays in proportion to the file.

Letters: n clips, K classes.
"""

from __future__ import annotations

import pickletools
import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.pickled_arrays import STAND_INS, Call, NumberType, PickleRefusedError, Vector

_MAX_NESTING = 8  # open marks at a time; the dictionary, an array's state and its type's state nest less deep


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
    rows = _Machine(data).run()
    if not rows:
        raise PickleRefusedError("the dictionary holds no clip")
    values = [row.values for row in rows.values()]
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


class _Machine:
    """Carries out the instructions of one pickle on a stack of plain values and stand-ins."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the open marks
        self.memo: dict[int, Any] = {}
        self.rows: dict[str, Vector] | None = None  # the one dictionary
        self.encoded = 0  # bytes produced from text so far

    def run(self) -> dict[str, Vector]:
        name, position = "the start", 0
        try:
            for opcode, argument, start in pickletools.genops(self.data):
                name, position = opcode.name, start or 0
                if name in _PUSHED:
                    self.stack.append(argument)
                elif name in _INSTRUCTIONS:
                    _INSTRUCTIONS[name](self, argument)
                elif name not in _WITHOUT_EFFECT:
                    raise PickleRefusedError(f"the instruction {name} does not belong in a score file")
            result = self.stack.pop()
        except PickleRefusedError as error:
            raise PickleRefusedError(f"{error} (byte {position} of the pickle)") from None
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            # What the decoder says of damaged bytes, and a stack or memo that lacks what an instruction takes from it.
            raise PickleRefusedError(f"truncated or damaged after {name} at byte {position} of the pickle") from error
        if result is not self.rows or self.rows is None:
            raise PickleRefusedError("it holds no dictionary of scores")
        return self.rows

    def open_mark(self, _: None) -> None:
        if len(self.outer) == _MAX_NESTING:
            raise PickleRefusedError("values nested deeper than in any score file")
        self.outer.append(self.stack)
        self.stack = []

    def close_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def push_marked_tuple(self, _: None) -> None:
        items = self.close_mark()
        self.stack.append(tuple(items))

    def push_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise LookupError
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.stack.append(items)

    def push_dictionary(self, _: None) -> None:
        if self.rows is not None:
            raise PickleRefusedError("a second dictionary")
        self.rows = {}
        self.stack.append(self.rows)

    def push_marked_dictionary(self, _: None) -> None:
        items = self.close_mark()
        self.push_dictionary(None)
        self.enter(items)

    def set_item(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.enter([key, value])

    def set_items(self, _: None) -> None:
        self.enter(self.close_mark())

    def enter(self, items: list[Any]) -> None:
        """Put alternating names and vectors into the dictionary on top of the stack."""
        if self.rows is None or self.stack[-1] is not self.rows or len(items) % 2:
            raise LookupError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and not (type(key) is int and -(2**63) <= key < 2**63):
                raise PickleRefusedError("a clip name that is neither text nor a 64-bit integer")
            if type(value) is not Vector:
                raise PickleRefusedError(f"the entry of clip {reprlib.repr(key)} is no vector of scores")
            if str(key) in self.rows:
                raise PickleRefusedError(f"two entries for clip {reprlib.repr(key)}")
            self.rows[str(key)] = value

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def push_global(self, spelled: str) -> None:
        """Put the stand-in for "module name" on the stack."""
        if spelled not in STAND_INS:
            raise PickleRefusedError(
                f"it asks for {reprlib.repr(spelled)}; the scores of a network need no more than numpy's arrays"
            )
        self.stack.append(STAND_INS[spelled])

    def push_stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise LookupError
        self.push_global(f"{module} {name}")

    def call(self, _: None) -> None:
        arguments, stand_in = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or type(stand_in) is not Call:
            raise PickleRefusedError("a call of something that is none of numpy's constructors")
        result = stand_in.function(*arguments)
        if type(result) is bytes:
            self.encoded += len(result)
            if self.encoded > len(self.data):  # one text over and over; a writer encodes each of its arrays once
                raise PickleRefusedError("more bytes of arrays than the file has room for")
        self.stack.append(result)

    def build(self, _: None) -> None:
        """Give the type or vector on top of the stack the state that follows it in the pickle."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) not in (NumberType, Vector):
            raise PickleRefusedError("a state for something that is none of numpy's types or arrays")
        target.set_state(state)


_WITHOUT_EFFECT = frozenset({"PROTO", "FRAME", "STOP"})

# Instructions that push the argument which follows them in the file, as the decoder returns it.
_PUSHED = frozenset(
    {"NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_DICT": _Machine.push_dictionary,
    "DICT": _Machine.push_marked_dictionary,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "MARK": _Machine.open_mark,
    "TUPLE": _Machine.push_marked_tuple,
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": _Machine.push_stack_global,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
