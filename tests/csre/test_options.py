"""The options: their defaults are the paper's, their errors name the fix."""

import math

import pytest

from csre import ContrastOptions, Counts, CSREError


def test_defaults_are_the_papers():
    options = ContrastOptions()
    assert (options.positives, options.negatives) == (Counts(128, 0), Counts(512, 512))
    assert (options.denominator, options.temperature) == ("joint", 0.8)


def test_counts_from_a_pair():
    assert Counts.of((3, 4)) == Counts.of([3, 4]) == Counts.of(Counts(3, 4)) == Counts(hard=3, random=4)


@pytest.mark.parametrize("value", [(1,), 5, "12", None])
def test_counts_from_anything_else_are_refused(value):
    with pytest.raises(CSREError, match="pair"):
        Counts.of(value)


@pytest.mark.parametrize(
    ("counts", "message"),
    [((-1, 3), "count of hard"), ((3, 1.5), "count of random"), ((True, 1), "count of hard"), ((0, 0), "both 0")],
)
def test_bad_counts_are_named(counts, message):
    with pytest.raises(CSREError, match=message):
        Counts(*counts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "0.8"}, "temperature is '0.8'"),
        ({"denominator": "splitt"}, "did you mean 'split'"),
        ({"positive_reduction": "max"}, "choose one of mean, sum"),
        ({"repeated_negatives": 2}, "choose one of twice, once"),
        ({"own_row": "excluded"}, "did you mean 'exclude'"),
        ({"too_few": "drop"}, "choose one of use, skip"),
        ({"denominator": "split", "repeated_negatives": "once"}, "has no meaning"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(CSREError, match=message):
        ContrastOptions(**changes)


@pytest.mark.parametrize(
    ("changes", "least", "greatest"),
    [
        ({}, 1024 * math.exp(-2.5), 1024 * math.exp(2.5)),
        ({"repeated_negatives": "once"}, 512 * math.exp(-2.5), 1024 * math.exp(2.5)),
        ({"denominator": "split"}, 512 * math.exp(-2.5), 512 * math.exp(2.5)),
        ({"negatives": Counts(0, 16), "temperature": 0.5}, 16 * math.exp(-4), 16 * math.exp(4)),
    ],
)
def test_bounds_of_the_loss(changes, least, greatest):
    expected = (math.log1p(least), math.log1p(greatest))
    assert ContrastOptions(**changes).loss_bounds() == pytest.approx(expected)
    total = ContrastOptions(**changes, positive_reduction="sum").loss_bounds()
    assert total == pytest.approx([128 * bound for bound in expected])


def test_bounds_at_a_temperature_that_would_overflow():
    assert ContrastOptions(temperature=0.001).loss_bounds() == pytest.approx((0.0, 2000 + math.log(1024)))
