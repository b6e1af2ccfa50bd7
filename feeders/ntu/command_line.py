"""What the commands of `data/` share: options, progress bar."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

from tqdm import tqdm

from common.words import did_you_mean
from feeders.errors import DataError

SECONDS_BETWEEN_LINES = 30
"""Where the output is not a terminal."""


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
    """An option that is an integer >= 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return int(text)


class ClipBar(AbstractContextManager["ClipBar"]):
    """A bar of clips with the remaining time, from the first call on; without a terminal, a line now and then."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` clips are done."""
        if self.bar is None:
            pause = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
            self.bar = tqdm(desc=self.stage, total=total, unit=" clips", dynamic_ncols=True, mininterval=pause)
        self.bar.update(done - self.bar.n)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
