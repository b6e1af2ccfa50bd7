"""The generator of raw trees: what it promises about files, names and bodies."""

from __future__ import annotations

from itertools import islice

import numpy as np

from feeders.ntu.names import get_dataset
from feeders.ntu.raw import parse_skeleton
from tests.feeders.ntu.oracle import read_lines
from tools.ntu_clips import generate_bodies, generate_clip, generate_names, generate_tree


def test_a_clip_depends_on_seed_and_number_alone(tmp_path):
    ntu60 = get_dataset("ntu60")
    few, more = (generate_tree(tmp_path / str(clips), ntu60, clips, seed=5) for clips in (2, 4))
    assert more[:2] == few
    for name in few:
        file = f"nturgb+d_skeletons/{name}.skeleton"
        assert (tmp_path / "2" / file).read_bytes() == (tmp_path / "4" / file).read_bytes()
    assert generate_clip(1, 5, 0) != generate_clip(1, 6, 0)


def test_every_second_file_has_the_official_line_ends():
    official, copy = (generate_clip(1, 0, number) for number in (0, 1))
    assert official.count(b"\r\n") == official.count(b"\n") > 0
    assert b"\r" not in copy


def test_names_are_usable_ones_of_the_data_set():
    for dataset in (get_dataset("ntu60"), get_dataset("ntu120")):
        names = list(islice(generate_names(dataset, seed=1), 2000))
        assert len(set(names)) == 2000
        assert all(name in dataset and str(name) not in dataset.missing for name in names)
        assert all((name.setup <= 17) == (name.action <= 60) for name in names)
        assert len({name.subject for name in names}) == dataset.subjects


def test_what_is_written_is_read_back():
    text = generate_clip(7, 0, 3)
    clip, frames = parse_skeleton(text), read_lines(text)
    assert clip.frames == sum(1 for frame in frames if frame)
    assert sum(len(body.joints) for body in clip.bodies) == sum(map(len, frames))


def test_bodies_are_as_varied_as_real_ones():
    clips = [generate_bodies(1 + number % 60, np.random.default_rng(number)) for number in range(150)]
    lengths = np.array([len(clip) for clip in clips])
    assert 70 < lengths.mean() < 90
    assert lengths.min() >= 24
    most = np.array([max(map(len, clip)) for clip in clips])
    assert {1, 2, 3} <= set(most.tolist())
    assert 0.1 < (most >= 2).mean() < 0.5
    assert any(not frame for clip in clips for frame in clip)
    samples = [[sum(body.body_id == i for f in clip for body in f) for i in _ids(clip)] for clip in clips]
    assert any(min(counts) <= 11 for counts in samples)
    close = [np.diff(sorted(_ids(clip))) for clip in clips]
    assert any((gaps < 16).any() for gaps in close)


def _ids(clip) -> set[int]:
    return {body.body_id for frame in clip for body in frame}
