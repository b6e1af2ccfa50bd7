"""The section `csre` and the package `csre`, which is also used alone, have the same defaults."""

from __future__ import annotations

import inspect

from csre import CSRE, Counts
from heads.csre_options import CSREOptions


def test_the_section_has_the_defaults_of_the_package():
    options = CSREOptions()
    mine = {
        **{name: value for name, value in vars(options).items() if name not in ("enabled", "bank")},
        "branches": tuple(options.branches),
        "positives": Counts(**vars(options.positives)),
        "negatives": Counts(**vars(options.negatives)),
        "bank_dtype": options.bank.dtype,
        "capacity": options.bank.capacity,
    }
    parameters = inspect.signature(CSRE).parameters.values()
    package = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.name not in ("feature_shape", "labels", "shard")
    }
    assert mine == package
