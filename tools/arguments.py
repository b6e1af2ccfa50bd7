"""Types of command-line arguments."""

from __future__ import annotations

import argparse
import math


def count(word: str) -> int:
    """A whole number from 1 on; refused otherwise, naming the argument."""
    try:
        number = int(word)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1 on")
    return number


def duration(word: str) -> float:
    """Seconds, from 0 on; refused otherwise, naming the argument."""
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds from 0 on")
    return seconds
