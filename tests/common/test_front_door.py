"""How commands end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from common.errors import UserError
from common.front_door import run_command
from tests.documents import REPOSITORY


class _Three(UserError):
    exit_code = 3


class _Silent(UserError):
    silent = True
    exit_code = 4


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such clip"), 2, "tool.py: no such clip\n"),
        (_Three("NaN"), 3, "tool.py: NaN\n"),
        (_Silent("said elsewhere"), 4, ""),
        (PermissionError(13, "x", "/locked"), 2, "tool.py: /locked: Permission denied\n"),
        (OSError(36, "x", "/long"), 2, "tool.py: /long: File name too long\n"),
        (KeyboardInterrupt(), 130, "tool.py: interrupted\n"),
    ],
    ids=["user", "code", "silent", "permission", "long", "ctrl-c"],
)
def test_ending(capsys, error, code, line):
    assert run_command("tool.py", lambda: _raise(error)) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("lines", [1, 100_000], ids=["found at the end", "found while it prints"])
def test_a_reader_that_has_enough_is_no_error(lines):
    program = f"""
import sys
from common.front_door import run_command

def command():
    sys.stdin.readline()
    for _ in range({lines}):
        print("a line")

sys.exit(run_command("tool.py", command))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=REPOSITORY, text=True
    ) as process:
        process.stdout.close()
        process.stdin.write("go on\n")
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141


def test_output_that_the_disk_refuses_is_one_line():
    program = (
        "import sys; from common.front_door import run_command; sys.exit(run_command('tool.py', lambda: print(1)))"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=PIPE, cwd=REPOSITORY, text=True, env=buffered
        )
    assert (done.returncode, done.stderr) == (2, "tool.py: the system: No space left on device\n")


def test_bugs_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command("tool.py", lambda: 1 / 0)
