"""The dataclasses of the settings as the only schema: types, ranges, words, and the way to dotted keys and back."""

from __future__ import annotations

import math

import pytest

from engine.schema import EXECUTION_KEYS, RunConfig, contradictions, flatten, instantiate, leaves

LEAVES = leaves()


def test_dotted_keys_and_back():
    config = RunConfig()
    config.optim.lr, config.csre.temperature, config.model.options = 0.3, 0.5, {"dropout": 0.1}
    values = flatten(config)
    assert values.keys() == LEAVES.keys()
    assert (values["optim.lr"], values["csre.temperature"]) == (0.3, 0.5)
    assert instantiate(values) == config


def test_defaults_are_accepted_and_explained():
    for key, leaf in LEAVES.items():
        assert leaf.accepts(leaf.default), key
        assert leaf.help, key
    assert list(contradictions(RunConfig())) == []
    assert LEAVES.keys() >= EXECUTION_KEYS


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("optim.epochs", [1, 65], [0, 1.5, True, "65", None, [65]]),
        ("optim.lr", [0.1, 1], [0, -0.1, math.nan, math.inf, 10**400, "0.1", False]),
        ("optim.name", ["sgd"], ["SGD", 1, None]),
        ("optim.milestones", [[], [35, 55]], [35, [-1], ["35"], [35, None]]),
        ("optim.clip_norm", [None, 1.0], [0.0, "off"]),
        ("csre.branches", [["global"]], ["global", ["joint"]]),
        ("data.validation", [0.0, 0.5], [1.0, -0.1]),
        ("seed", [0, 2**32 - 1], [-1, 2**32]),
        ("deterministic", [True], [1, "true"]),
        ("model.options", [{}, {"a": 1}], [[], "a", None]),
    ],
)
def test_values(key, good, bad):
    assert [value for value in good if not LEAVES[key].accepts(value)] == []
    assert [value for value in bad if LEAVES[key].accepts(value)] == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("optim.epochs", "an integer >= 1"),
        ("optim.lr", "a number > 0"),
        ("optim.name", "one of sgd, adam, adamw"),
        ("optim.milestones", "a list of integers >= 0, such as 10,20 or [10, 20]"),
        ("optim.freeze", "a list of names, such as a,b or [a, b]"),
        ("optim.clip_norm", "a number > 0 or null"),
        ("deterministic", "true or false"),
    ],
)
def test_requirements_in_words(key, words):
    assert LEAVES[key].requirement == words


def test_contradictions_name_the_key_with_its_section():
    config = RunConfig()
    config.csre.positives.hard = 0
    config.optim.patience = 5
    config.optim.cosine = 0.0
    assert {key for key, _ in contradictions(config)} == {"csre.positives.hard", "optim.patience", "optim.cosine"}
