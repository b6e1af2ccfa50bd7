"""The commands of `data/` as users run them: exit codes, one-line refusals, kill, Ctrl-C and a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.export_npz import main as export
from data.prepare_ntu import main as prepare
from feeders.ntu import names
from feeders.ntu.names import ClipName, get_dataset
from tools.ntu_clips import generate_clip, generate_tree

REPOSITORY = Path(__file__).resolve().parents[2]
CLIPS = 3600


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("few")
    generate_tree(place, get_dataset("ntu60"), 6, seed=2)
    return place


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many clips that a run can be ended while it is at work."""
    place = tmp_path_factory.mktemp("many")
    for action in range(3):
        (place / f"text {action}").write_bytes(generate_clip(action, 0, action))
    for number in range(CLIPS):
        name = ClipName(1 + number % 17, 1 + number % 3, 1 + number % 40, 1 + number % 2, 1 + number // 60)
        (place / f"{name}.skeleton").hardlink_to(place / f"text {number % 3}")
    assert len(list(place.glob("*.skeleton"))) == CLIPS
    return place


def command(raw: Path, out: Path, jobs: int = 2) -> list[str]:
    words = ["data/prepare_ntu.py", "--raw", str(raw), "--dataset", "ntu60", "--output", str(out), "--jobs", str(jobs)]
    return [sys.executable, *words]


def start(raw: Path, out: Path, **options) -> subprocess.Popen[str]:
    """A run in a process group of its own, ended at the latest with the test."""
    return subprocess.Popen(
        command(raw, out),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def wait_for_first_clips(process: subprocess.Popen[str], out: Path) -> None:
    part = out.with_name(f".{out.name}.{process.pid}.partial")
    while process.poll() is None and not (part.exists() and part.stat().st_size > 50_000):
        time.sleep(0.005)
    assert process.poll() is None, "it was done before it could be ended"


def wait_for_the_end_of_group(group: int) -> None:
    """Of all processes of the run; those that are gone but not yet waited for do not count."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        states = [s.rsplit(")", 1)[1].split() for s in map(_stat, Path("/proc").glob("[0-9]*/stat")) if s]
        if not [state for state in states if int(state[2]) == group and state[0] != "Z"]:
            return
        time.sleep(0.1)
    raise AssertionError("worker processes outlive a killed run")


def _stat(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_a_killed_run_leaves_no_store_and_no_process(many, tmp_path):
    out = tmp_path / "store.h5"
    process = start(many, out)
    wait_for_first_clips(process, out)
    process.kill()
    process.communicate()
    wait_for_the_end_of_group(process.pid)
    assert not out.exists()


def test_an_interrupt_is_one_line_and_leaves_nothing(many, tmp_path):
    out = tmp_path / "store.h5"
    process = start(many, out)
    wait_for_first_clips(process, out)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers too
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "prepare_ntu.py: interrupted; no store was written"
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(many, tmp_path):
    out = tmp_path / "store.h5"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # noqa: E731
    process = start(many, out, preexec_fn=limit)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "store.h5: cannot be written (File too large)" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_exit_codes_and_what_is_said(few, tmp_path, capsys, monkeypatch):
    words = ["--raw", str(few), "--dataset", "ntu60", "--output", str(tmp_path / "store.h5"), "--jobs", "1"]
    assert prepare(words) == 3
    said = capsys.readouterr().out
    assert "6 of 56,578 usable clips of ntu60" in said
    assert "not complete: 56,572 usable clips are not in the store" in said
    monkeypatch.setattr(names.Dataset, "usable", property(lambda _: 6))
    assert prepare(words) == 0
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "S001C001P001R001A001.skeleton").write_bytes(b"1\n0\n")
    capsys.readouterr()
    assert prepare([*words[:2], str(bad), *words[2:]]) == 3
    said = capsys.readouterr().out
    assert f"skipped: {bad}/S001C001P001R001A001.skeleton: no body in any frame" in said
    assert f"report: {tmp_path}/store_report.csv (1 skipped)" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--raw", "nowhere", "--dataset", "ntu60"], "nowhere: not there"),
        (["--raw", ".", "--dataset", "ntu6"], "ntu60"),
        (["--raw", ".", "--dataset", "ntu60", "--job", "2"], "--jobs"),
        (["--raw", ".", "--dataset", "ntu60", "--jobs", "0"], "must be an integer >= 1"),
        (["--dataset", "ntu60"], "--raw"),
    ],
)
def test_refusals_are_one_line(words, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare([*words, "--output", "store.h5"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("prepare_ntu.py: ")
    assert reason in error


def test_what_the_system_refuses_is_one_line(few, tmp_path, capsys, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr("data.prepare_ntu.prepare", refuse)
    assert prepare(["--raw", str(few), "--dataset", "ntu60", "--output", str(tmp_path / "store.h5")]) == 2
    assert capsys.readouterr().err == "prepare_ntu.py: somewhere: Permission denied\n"


def test_export(few, tmp_path, capsys):
    store, out = tmp_path / "store.h5", tmp_path / "NTU60_CS.npz"
    prepare(["--raw", str(few), "--dataset", "ntu60", "--output", str(store), "--jobs", "1"])
    capsys.readouterr()
    words = [str(store), "--protocol", "xsub", "--output", str(out)]
    assert export([*words, "--frames", "64"]) == 0
    said = capsys.readouterr().out
    with np.load(out) as arrays:
        train, test = len(arrays["x_train"]), len(arrays["x_test"])
        assert arrays["x_test"].shape == (test, 64, 150)
    assert train + test == 6
    assert f"{train} training and {test} test clips of 64 frames" in said
    assert export(words) == 2
    assert capsys.readouterr().err == f"export_npz.py: {out}: exists; remove it or name another file with --output\n"
