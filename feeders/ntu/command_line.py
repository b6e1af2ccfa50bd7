"""What the commands of `data/` share: options, refusals in one line, progress bars."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from tqdm import tqdm

from common.words import did_you_mean
from feeders.errors import DataError, why

REFUSED, INTERRUPTED = 2, 130
SECONDS_BETWEEN_LINES = 30
"""Where the output is no terminal."""


class Parser(argparse.ArgumentParser):
    """Refuses with `DataError` in one line, and names the nearest option to a misspelt one."""

    def error(self, message: str) -> NoReturn:
        """Raise the refusal instead of printing the usage."""
        raise DataError(f"{message}; --help lists the options")

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The options; an unknown one is refused."""
        options, unknown = self.parse_known_args(argv)
        if unknown:
            known = re.findall(r"--[a-z][\w-]+", self.format_help())
            self.error(f"unknown option {unknown[0]}{did_you_mean(unknown[0], known)}")
        return options


def positive(text: str) -> int:
    """An option that is a whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


class Bars:
    """A bar with the remaining time for each stage of a command; where there is no terminal, a line now and then."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` clips are through this stage."""
        if self.bar is None or stage != self.stage:
            self.close()
            pause = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
            self.stage = stage
            self.bar = tqdm(desc=stage, total=total, initial=done, unit=" clips", dynamic_ncols=True, mininterval=pause)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """End the bar that is shown."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def run_command(name: str, command: Callable[[Bars], int], resumable: bool = False) -> int:
    """The exit code of a command; refusals and Ctrl-C become one line on stderr."""
    bars = Bars()
    try:
        code = command(bars)
    except DataError as error:
        bars.close()
        print(f"{name}: {error}", file=sys.stderr)
        return REFUSED
    except OSError as error:
        bars.close()
        where = f"{error.filename}: " if error.filename else ""
        print(f"{name}: {where}{why(error)}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        bars.close()
        rest = "the same command goes on from here" if resumable else "nothing was written"
        print(f"{name}: interrupted; {rest}", file=sys.stderr)
        return INTERRUPTED
    return code
