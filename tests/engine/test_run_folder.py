"""The folder of a run: paths, setting aside, and one user at a time."""

from __future__ import annotations

import os

import pytest

from engine.errors import RunError
from engine.run_folder import FolderLock, RunFolder


def test_names_of_checkpoints_and_scores(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.checkpoint(3).name == "epoch_0003.pt"
    assert folder.checkpoint(3, step=120).name == "epoch_0003_step_000120.pt"
    assert folder.scores("best") == tmp_path / "scores_best.npz"
    assert folder.of_tests.path == tmp_path / "test"


def test_setting_aside_takes_the_next_free_name(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for number in (1, 2):
        folder.create()
        assert folder.set_aside() == tmp_path / f"run.old-{number}"
        assert not folder.path.exists()


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(RunError, match=f"in use by process {os.getpid()} on "):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="choose another --work_dir"):
        FolderLock(tmp_path / "file" / "absent")
