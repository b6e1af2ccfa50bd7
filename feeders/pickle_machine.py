"""Reads a pickle without running what else a pickle may hold.

A pickle is a program for a stack machine, and the machine of the standard library also runs harmful ones: it calls
whatever the file names, hashes tuples nested until the process crashes, and reserves what memory the file asks for. So
the standard library only decodes the instructions. They are carried out here, by a machine that knows just those that
dictionaries and lists of arrays need (protocols 0 to 5), with stand-ins for the names that occur. Every value stays a
plain string, number, bytes, tuple, list, dictionary or stand-in, and memory stays in proportion to the file.
"""

from __future__ import annotations

import pickletools
import reprlib
from collections.abc import Callable
from typing import IO, Any

from feeders.pickled_arrays import STAND_INS, Array, Call, NumberType, PickleRefusedError


class PickleMachine:
    """Carries out the instructions of one pickle on a stack of plain values and stand-ins.

    data: the bytes, or a binary file at their start; size: how many there are. A subclass says what kind of file it
    expects by `kind` (how messages call it), by how deep its values nest, and by overriding what it wants stricter.
    """

    kind = "a file of arrays"
    max_nesting = 16
    """Open marks at a time."""

    def __init__(self, data: bytes | IO[bytes], size: int) -> None:
        self.data = data
        self.size = size
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the open marks
        self.memo: dict[int, Any] = {}
        self.encoded = 0  # bytes produced from text so far

    def run(self) -> Any:
        """The value that the pickle holds; `PickleRefusedError` for what does not belong in one of this kind."""
        name, position = "the start", 0
        try:
            for opcode, argument, start in pickletools.genops(self.data):
                name, position = opcode.name, start or 0
                if name in _PUSHED:
                    self.stack.append(argument)
                elif name in _INSTRUCTIONS:
                    _INSTRUCTIONS[name](self, argument)
                elif name not in _WITHOUT_EFFECT:
                    raise PickleRefusedError(f"the instruction {name} does not belong in {self.kind}")
            return self.stack.pop()
        except PickleRefusedError as error:
            raise PickleRefusedError(f"{error} (byte {position} of the pickle)") from None
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            # What the decoder says of damaged bytes, and a stack or memo that lacks what an instruction takes from it.
            raise PickleRefusedError(f"truncated or damaged after {name} at byte {position} of the pickle") from error

    def open_mark(self, _: None) -> None:
        if len(self.outer) == self.max_nesting:
            raise PickleRefusedError(f"values nested deeper than in {self.kind}")
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

    def push_list(self, _: None) -> None:
        self.stack.append([])

    def push_marked_list(self, _: None) -> None:
        items = self.close_mark()
        self.push_list(None)
        self.extend(items)

    def append_item(self, _: None) -> None:
        self.extend([self.stack.pop()])

    def append_items(self, _: None) -> None:
        self.extend(self.close_mark())

    def extend(self, items: list[Any]) -> None:
        """Put values at the end of the list on top of the stack."""
        if type(self.stack[-1]) is not list:
            raise LookupError
        self.stack[-1].extend(items)

    def push_dictionary(self, _: None) -> None:
        self.stack.append({})

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
        """Put alternating keys and values into the dictionary on top of the stack."""
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise LookupError
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.enter_one(self.stack[-1], key, value)

    def enter_one(self, entries: dict[str, Any], key: Any, value: Any) -> None:
        """Put one entry into a dictionary; keys are text."""
        if type(key) is not str:
            raise PickleRefusedError("a key that is no text")
        entries[key] = value

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
                f"it asks for {reprlib.repr(spelled)}; {self.kind} needs no more than numpy's arrays"
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
            if self.encoded > self.size:  # one text over and over; a writer encodes each of its arrays once
                raise PickleRefusedError("more bytes of arrays than the file has room for")
        self.stack.append(result)

    def build(self, _: None) -> None:
        """Give the type or array on top of the stack the state that follows it in the pickle."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) not in (NumberType, Array):
            raise PickleRefusedError("a state for something that is none of numpy's types or arrays")
        target.set_state(state)


_WITHOUT_EFFECT = frozenset({"PROTO", "FRAME", "STOP"})

# Instructions that push the argument which follows them in the file, as the decoder returns it.
_PUSHED = frozenset(
    {"NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)

_INSTRUCTIONS: dict[str, Callable[[Any, Any], None]] = {
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_DICT": lambda machine, _: machine.push_dictionary(None),
    "DICT": PickleMachine.push_marked_dictionary,
    "SETITEM": PickleMachine.set_item,
    "SETITEMS": PickleMachine.set_items,
    "EMPTY_LIST": lambda machine, _: machine.push_list(None),
    "LIST": PickleMachine.push_marked_list,
    "APPEND": PickleMachine.append_item,
    "APPENDS": PickleMachine.append_items,
    "MARK": PickleMachine.open_mark,
    "TUPLE": PickleMachine.push_marked_tuple,
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "PUT": PickleMachine.put,
    "BINPUT": PickleMachine.put,
    "LONG_BINPUT": PickleMachine.put,
    "MEMOIZE": PickleMachine.memoize,
    "GET": PickleMachine.get,
    "BINGET": PickleMachine.get,
    "LONG_BINGET": PickleMachine.get,
    "GLOBAL": PickleMachine.push_global,
    "STACK_GLOBAL": PickleMachine.push_stack_global,
    "REDUCE": PickleMachine.call,
    "BUILD": PickleMachine.build,
}
