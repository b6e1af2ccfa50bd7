"""Checkpoints: whole or not there, readable without running code, refused in one line when damaged."""

from __future__ import annotations

import os
import pickle
import resource

import pytest
import torch

from common.files import WriteError
from engine.checkpoint import load_checkpoint, name_also, prune, save_checkpoint
from engine.errors import RunError


def test_round_trip(tmp_path):
    content = {"encoder": {"w": torch.arange(3.0)}, "epoch": 4, "config": {"optim.lr": 0.1, "list": [1, 2]}}
    save_checkpoint(tmp_path / "a.pt", content)
    read = load_checkpoint(tmp_path / "a.pt")
    assert read["epoch"] == 4
    assert read["config"] == content["config"]
    assert torch.equal(read["encoder"]["w"], content["encoder"]["w"])


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "a.pt", {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device"):
        save_checkpoint(tmp_path / "a.pt", {"epoch": 2})
    assert load_checkpoint(tmp_path / "a.pt")["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


class Harmful:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch harmed",))


@pytest.mark.parametrize(
    "damage",
    ["missing", "empty", "truncated", "flipped", "text", "pickle", "foreign", "version", "versions", "no version"],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"encoder": {"w": torch.randn(1000)}, "epoch": 1})
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        middle = whole.index(b"PK\x01\x02") + 3  # in the directory of the archive
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    elif damage == "text":
        path.write_text("not a checkpoint\n")
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    elif damage == "foreign":
        torch.save({"w": torch.zeros(1)}, path)
    elif damage == "version":
        torch.save({"format": "csre-run", "version": 99}, path)
    elif damage == "versions":
        torch.save({"format": "csre-run", "version": torch.zeros(2)}, path)
    elif damage == "no version":
        torch.save({"format": "csre-run"}, path)
    with pytest.raises(RunError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_replaces_what_had_it_and_survives_pruning(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_: object) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    for epoch in range(1, 5):
        path = tmp_path / f"epoch_{epoch:04d}.pt"
        save_checkpoint(path, {"epoch": epoch})
        name_also(path, tmp_path / "last.pt")
        if epoch == 2:
            name_also(path, tmp_path / "best.pt")
        prune(tmp_path, keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.pt", "epoch_0003.pt", "epoch_0004.pt", "last.pt"]
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 4
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 2


def test_any_changed_byte_is_noticed(tmp_path):
    """Also in the directory of the archive, where torch's reader would take a part for a folder and read nothing."""
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"encoder": {"w": torch.randn(50)}, "epoch": 1})
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(RunError):
            load_checkpoint(path)
    path.write_bytes(whole)
    assert load_checkpoint(path)["epoch"] == 1


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    """A limit on the size of files refuses within torch's writer, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RunError, match="cannot be written"):
            save_checkpoint(tmp_path / "a.pt", {"encoder": {"w": torch.randn(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
