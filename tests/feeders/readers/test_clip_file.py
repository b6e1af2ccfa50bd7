"""Single clips from files, as a feeder takes them from the data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from feeders import Feeder, get_benchmark
from feeders.readers.clip_file import as_clip, pack_clips, read_clip
from tests.feeders.ntu.oracle import Track, frames_of, text_of

LONE = [Track(1, start=0, samples=40, motion=1.0)]
FOLLOWING = [Track(1, start=0, samples=20, motion=1.0), Track(2, start=25, samples=20, motion=1.0)]
"""One after the other: the published pipeline makes one actor of them, and leaves the second one empty."""
TOGETHER = [Track(1, start=0, samples=40, motion=1.0), Track(2, start=0, samples=40, motion=0.5)]


@pytest.mark.parametrize(
    ("tracks", "copied", "second"), [(LONE, True, True), (FOLLOWING, False, False), (TOGETHER, False, True)]
)
def test_only_a_lone_actor_is_copied(tmp_path, tracks, copied, second):
    path = tmp_path / "S001C001P001R001A001.skeleton"
    path.write_bytes(text_of(frames_of(*tracks)))
    store = pack_clips([read_clip(path)], ["clip"], get_benchmark("ntu120-xsub"))
    x = Feeder(store, get_benchmark("ntu120-xsub"), "test").feed(torch.arange(1), epoch=0).x[0]
    assert x[..., 0].any()
    assert bool(x[..., 1].any()) == second
    assert torch.equal(x[..., 0], x[..., 1]) == copied


@pytest.mark.parametrize("tracks", [LONE, FOLLOWING])
def test_an_absent_person_is_none_too_many(tmp_path, tracks):
    path = tmp_path / "S001C001P001R001A001.skeleton"
    path.write_bytes(text_of(frames_of(*tracks)))
    assert pack_clips([read_clip(path)], ["clip"], replace(get_benchmark("ntu60-xsub"), num_persons=1)).persons == 1


def test_persons_behind_the_last_one_there_are_dropped():
    clip = np.zeros((4, 3, 25, 3), np.float32)
    clip[:, 1] = 1
    np.testing.assert_array_equal(as_clip(clip), clip[:, :2])
