"""Numbers read in bulk are those of `float`, bit for bit."""

from __future__ import annotations

import numpy as np

from feeders.ntu.decimals import parse_decimals

FORMATS = ("%.7G", "%.9g", "%.6f", "%.17g", "%.14f", "%d")
ODD = (
    *("-0.0", "0.0", "9.9999999999999", "9.99999999999999", "9.999999999999999", "0.00000000000001", "1.", "-.5"),
    *("7.450581E-09", "-1e5", "12.5", "1e999", "inf", "+1.5"),
)
NO_NUMBERS = ("-", ".", "1.5x", "x1.5", "1:5", "1.:5", "1.5/", "1.2.3", "--1.2", "1.-5", "1_0", "1.234_5678", "0x1.5")


def parse(tokens: list[str]) -> np.ndarray:
    lengths = np.array([len(token) for token in tokens])
    starts = 16 + np.concatenate([[0], (lengths + 1).cumsum()[:-1]])
    text = np.frombuffer((" " * 16 + " ".join(tokens) + "\n").encode(), np.uint8)
    return parse_decimals(text, starts, starts + lengths)


def test_random_numbers():
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(30_000) * 10.0 ** rng.integers(-8, 4, 30_000)
    tokens = [FORMATS[i] % number for i, number in zip(rng.integers(len(FORMATS), size=30_000), numbers, strict=True)]
    np.testing.assert_array_equal(parse(tokens).view(np.int64), np.array([*map(float, tokens)]).view(np.int64))


def test_odd_numbers():
    np.testing.assert_array_equal(parse([*ODD]).view(np.int64), np.array([*map(float, ODD)]).view(np.int64))


def test_what_is_no_number():
    assert np.isnan(parse([*NO_NUMBERS, "nan"])).all()
    # Every byte in the place of a digit, in the whole number and in both halves of a long fraction.
    for place in (0, 2, 6, 14):
        text = list("1.2345678901234")
        tokens = ["".join([*text[:place], chr(c), *text[place + 1 :]]) for c in range(33, 127) if not chr(c).isdigit()]
        refused = np.isnan(parse(tokens))
        kept = {token for token, bad in zip(tokens, refused, strict=True) if not bad}
        assert all(_is_number(token) for token in kept)
        assert not any(_is_number(token) for token, bad in zip(tokens, refused, strict=True) if bad)


def _is_number(token: str) -> bool:
    try:
        return "_" not in token and float(token) == float(token)
    except ValueError:
        return False
