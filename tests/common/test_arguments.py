"""Command lines: what is taken, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import arguments
from common.arguments import Parser, count, duration, processors, share
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


def test_a_subject_has_options_of_its_own():
    parser = Parser(prog="tool.py")
    parser.add_argument("--threads", type=count)
    subject = parser.add_subparsers(dest="subject", required=True).add_parser("speed")
    subject.add_argument("--absent", type=share)
    assert vars(parser.parse(["--threads", "2", "speed", "--absent", "1"])) == {
        "threads": 2,
        "subject": "speed",
        "absent": 1.0,
    }
    for words, said in ((["speed", "--absnt", "1"], "unknown option --absnt"), (["sped"], "invalid choice: 'sped'")):
        with pytest.raises(UserError, match=said):
            parser.parse(words)


def test_processors_are_counted_on_every_system(monkeypatch):
    monkeypatch.setattr(arguments.os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert processors() == 2
    monkeypatch.delattr(arguments.os, "sched_getaffinity")  # as on macOS and Windows
    monkeypatch.setattr(arguments.os, "cpu_count", lambda: 5)
    assert processors() == 5
