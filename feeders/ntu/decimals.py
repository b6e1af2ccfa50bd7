"""Decimal numbers in a text to float64, many at once.

`float` takes one number at a time, which is most of the time that a raw clip takes. Nearly all numbers of such a file
look like -1.234567: their digits are read eight at a time, as the bytes of one 64-bit integer, for all numbers
together. The result is the one of `float`, bit for bit: digits and power of ten are both exact in float64 (below 2^53
and up to 10^22), so their quotient is the correctly rounded value. Everything else goes to `float`.

Shapes: K numbers.
"""

from __future__ import annotations

import numpy as np

_MOST_DIGITS = 15
"""Digits whose integer is below 2^53 whatever they are."""
_POWERS = 10.0 ** np.arange(_MOST_DIGITS + 1)
_MINUS, _POINT, _ZERO = b"-.0"

_EIGHT_ZEROS = np.uint64(0x3030303030303030)
_HIGH_HALVES = np.uint64(0xF0F0F0F0F0F0F0F0)
_ABOVE_NINE = np.uint64(0x0606060606060606)
_KEEP_LAST = np.array([(1 << 64) - (1 << (8 * (8 - digits))) for digits in range(9)], dtype=np.uint64)
"""Masks that keep the last 0 .. 8 bytes of eight, the first of which is the lowest of the integer."""


def parse_decimals(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers at text[start:end], (K,) float64; NaN for what is no number, which "nan" itself is neither.

    text: (bytes,) uint8, contiguous, with 16 bytes before the end of the first number, since sixteen digits are read
    backwards from there. starts, ends: (K,) int64, blanks around a number do no harm.
    """
    negative = text[starts] == _MINUS
    point = starts + negative + 1
    digits = ends - point - 1
    usual = (digits > 0) & (digits < _MOST_DIGITS) & (text[np.minimum(point, len(text) - 1)] == _POINT)
    whole = text[point - 1] - np.uint8(_ZERO)
    usual &= whole <= 9
    digits = np.where(usual, digits, 0)
    words = np.ndarray(len(text) - 7, dtype="<u8", buffer=text, strides=(1,))
    last, good = _eight_digits(words[ends - 8], np.minimum(digits, 8))
    usual &= good
    fraction = last.astype(np.float64)
    if len(long := np.flatnonzero(digits > 8)):
        first, good = _eight_digits(words[ends[long] - 16], digits[long] - 8)
        usual[long] &= good
        fraction[long] += first * 1e8
    power = _POWERS[digits]
    numbers = (whole * power + fraction) / power
    np.negative(numbers, out=numbers, where=negative)
    for i in np.flatnonzero(~usual):
        numbers[i] = _parse_one(text[starts[i] : ends[i]].tobytes())
    return numbers


def _eight_digits(words: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number that the last `digits` of eight bytes spell, (K,) uint64, and whether they are digits at all."""
    words = words ^ _EIGHT_ZEROS
    words &= _KEEP_LAST[digits]
    good = ((words | (words + _ABOVE_NINE)) & _HIGH_HALVES) == 0
    # Neighbours are joined three times: eight numbers of one digit, four of two, two of four, one of eight.
    words = (words * np.uint64(10) + (words >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    words = (words * np.uint64(100) + (words >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    words = (words * np.uint64(10000) + (words >> np.uint64(32))) & np.uint64(0x00000000FFFFFFFF)
    return words, good


def _parse_one(token: bytes) -> float:
    # `float` takes 1_000 for a number, this format does not.
    try:
        return float("nan") if b"_" in token else float(token)
    except ValueError:
        return float("nan")
