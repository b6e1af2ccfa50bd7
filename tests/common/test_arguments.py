"""Command lines: what is taken, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.arguments import Parser, count, duration
from common.errors import UserError
from common.files import user_path


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="tool.py", description="Two\nlines.")
    parser.add_argument("clips", nargs="+", type=user_path)
    parser.add_argument("--output", type=user_path)
    parser.add_argument("--jobs", type=count, default=1)
    parser.add_argument("--seconds", type=duration)
    return parser


def test_options_stand_before_among_or_after_the_rest(parser, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    options = parser.parse(["a", "--jobs", "2", "~/b", "--output=~/c"])
    assert options.clips == [Path("a"), Path("/home/someone/b")]
    assert (options.output, options.jobs) == (Path("/home/someone/c"), 2)
    assert "Two\nlines." in parser.format_help()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "--ouput", "b"], "unknown option --ouput (did you mean '--output'?); --help lists the options"),
        (["a", "--out", "b"], "unknown option --out (did you mean '--output'"),
        ([], "the following arguments are required: clips"),
        (["a", "--jobs", "0"], "argument --jobs: must be an integer >= 1, got '0'"),
        (["a", "--jobs", "many"], "argument --jobs: must be an integer >= 1, got 'many'"),
        (["a", "--seconds", "nan"], "argument --seconds: must be a number of seconds >= 0, got 'nan'"),
    ],
)
def test_a_mistake_is_refused_in_one_line(parser, words, said):
    with pytest.raises(UserError) as refusal:
        parser.parse(words)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
