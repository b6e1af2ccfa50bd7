"""Types of command-line arguments."""

from __future__ import annotations

import argparse


def count(word: str) -> int:
    """A whole number from 1 on; refused otherwise, naming the argument."""
    try:
        number = int(word)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1 on")
    return number
