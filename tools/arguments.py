"""Types of command-line arguments."""

from __future__ import annotations

import argparse
import math


def count(word: str) -> int:
    """An integer >= 1; refused otherwise, naming the argument."""
    try:
        number = int(word)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {word!r}")
    return number


def duration(word: str) -> float:
    """Seconds, >= 0; refused otherwise, naming the argument."""
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds >= 0, got {word!r}")
    return seconds
