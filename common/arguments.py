"""One way to read a command line: what cannot be used is refused in one line, with the nearest known option."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from common.errors import UserError
from common.words import did_you_mean


class Parser(argparse.ArgumentParser):
    """Options by their full names, before or after the positional ones; the description keeps its lines."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The options; UserError for a word that cannot be used."""
        # argparse takes positional words among the options only where none of them chooses a parser of its own.
        read = self.parse_known_args if self._subparsers else self.parse_known_intermixed_args
        options, unknown = read(argv)
        if unknown:
            known = re.findall(r"--[a-z][\w-]+", self.format_help())
            is_setting = "--with" in known and "." in unknown[0]
            hint = ", settings of runs go into --with KEY=VALUE" if is_setting else did_you_mean(unknown[0], known)
            self.error(f"unknown option {unknown[0]}{hint}")
        return options

    def error(self, message: str) -> NoReturn:
        """Raise the refusal instead of printing the usage."""
        raise UserError(f"{message}; --help lists the options")


def count(word: str) -> int:
    """An integer >= 1; refused otherwise, naming the argument."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {word!r}")
    return int(word)


def duration(word: str) -> float:
    """Seconds, >= 0; refused otherwise, naming the argument."""
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds >= 0, got {word!r}")
    return seconds


def share(word: str) -> float:
    """A number from 0 to 1; refused otherwise, naming the argument."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {word!r}")
    return value


def processors() -> int:
    """How many processors this process may use; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
