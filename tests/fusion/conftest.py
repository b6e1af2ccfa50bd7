"""A way to call the command that fuses streams."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from ensemble import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Call the command, and see what it returns and prints."""

    def call(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(run):
    """The one line by which a command is refused."""

    def message(*arguments: object) -> str:
        outcome = run(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert re.fullmatch(r"ensemble\.py: [^\n]+\n", outcome.err)
        return outcome.err

    return message
