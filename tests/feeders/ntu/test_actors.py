"""The choice of actors against a plain one: random clips, and the cases that no published number decides."""

from __future__ import annotations

import numpy as np
import pytest

from feeders import DataError
from feeders.ntu.actors import choose_actors
from feeders.ntu.raw import parse_skeleton
from tests.feeders.ntu.oracle import Frames, Track, expected_rows, frames_of, read_lines, text_of

FIRST = 72_057_594_037_900_000


def rows_of(frames: Frames) -> np.ndarray:
    """The chosen actors in the layout of the oracle, after having checked them against it bit for bit."""
    text = text_of(frames)
    actors = choose_actors(parse_skeleton(text))
    expected = expected_rows(read_lines(text))
    assert actors.alone == (expected.shape[1] == 75)
    rows = np.zeros((len(actors.positions), 2, 75), np.float32)
    rows[:, : actors.positions.shape[1]] = actors.positions.reshape(len(rows), -1, 75)
    rows = rows.reshape(len(rows), 150)[:, : expected.shape[1]]
    np.testing.assert_array_equal(rows, expected)
    return rows


def present(frames: Frames, rows: np.ndarray, track: Track) -> list[int]:
    """In which column (0 actor 1, 1 actor 2) each sample of the track is found, -1 for nowhere. Frames are all kept."""
    actors = rows.reshape(len(rows), -1, 25, 3)
    found = []
    for offset, sample in enumerate(track.joints):
        shape = sample - sample[1]
        frame = actors[track.start + offset]
        same = [np.allclose(actor - actor[1], shape, atol=1e-5) for actor in frame]
        found.append(same.index(True) if any(same) else -1)
    assert len(rows) == len(frames)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_random_clips(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(14, 60))
    tracks = []
    for number in range(int(rng.integers(1, 6))):
        start = int(rng.integers(0, length - 1))
        samples = int(rng.integers(1, length - start + 1)) if number else length - start
        track = Track(FIRST + 7 * number, start, samples, rng.uniform(0, 1), seed)
        if rng.random() < 0.5:
            track.widen(np.flatnonzero(rng.random(samples) < rng.random()), 1.2, rng.uniform(1.3, 1.7))
        tracks.append(track)
    frames = frames_of(*tracks)
    for frame in frames:  # losses for some frames shift what comes later
        if len(frame) > 1 and rng.random() < 0.1:
            frame.pop()
    frames[0:0] = [[]] * int(rng.integers(0, 3))
    rows_of(frames)


def test_a_third_track_in_the_hole_between_joined_tracks_goes_to_the_second_actor():
    early, late = Track(FIRST, 0, 15, 0.9), Track(FIRST + 1, 30, 15, 0.8)
    hole, again = Track(FIRST + 2, 14, 16, 0.7), Track(FIRST + 3, 20, 12, 0.6)
    frames = frames_of(early, late, hole, again)
    rows = rows_of(frames)
    assert present(frames, rows, early) == [0] * 15
    assert present(frames, rows, late) == [0] * 15
    assert present(frames, rows, hole) == [1] * 16
    assert present(frames, rows, again) == [-1] * 12


def test_the_span_of_the_first_actor_grows_backwards_too():
    late, early = Track(FIRST, 15, 15, 0.9), Track(FIRST + 1, 0, 15, 0.8)
    over = Track(FIRST + 2, 3, 12, 0.7)
    frames = frames_of(late, early, over)
    assert present(frames, rows_of(frames), over) == [1] * 12


def test_the_smaller_motion_counts_when_clean_samples_move_more():
    # The flat samples lie near the middle of the walk, so without them the body moves more, not less.
    body = Track(FIRST, 0, 40, 0.6).widen(slice(14, 26), 0.5, 0.5)
    clean = np.delete(body.joints, np.s_[14:26], axis=0)
    motion, of_clean = (float(j.reshape(-1, 3).var(axis=0).sum()) for j in (body.joints, clean))
    assert motion < of_clean
    other = Track(FIRST + 1, 0, 40, 0.6)
    scale = np.sqrt((motion + of_clean) / 2 / other.joints.reshape(-1, 3).var(axis=0).sum())
    centre = other.joints.mean(axis=(0, 1))
    other.joints = ((other.joints - centre) * scale + centre).astype(np.float32)
    frames = frames_of(body, other)
    rows = rows_of(frames)
    assert present(frames, rows, other) == [0] * 40
    assert present(frames, rows, body) == [1] * 40


@pytest.mark.parametrize(
    ("width", "height", "noisy"),
    [
        (1.0, 1.25, False),  # exactly the limit
        (1.000001, 1.25, True),
        (0.8, 1.0, True),  # 0.8 as float32 is a little more than 0.8
        (0.7999999, 1.0, False),
    ],
)
def test_limit_of_the_spread(width, height, noisy):
    first = Track(FIRST, 0, 20, 0.3).widen(slice(None), width, height)
    frames = frames_of(first, Track(FIRST + 1, 0, 20, 0.2))
    assert rows_of(frames).shape[1] == (75 if noisy else 150)


@pytest.mark.parametrize(("noisy", "samples", "removed"), [(30, 43, True), (143, 205, True), (83, 119, False)])
def test_limit_of_the_noisy_share(noisy, samples, removed):
    first = Track(FIRST, 0, samples, 0.3).widen(slice(noisy), 1.5, 1.6)
    frames = frames_of(first, Track(FIRST + 1, 0, samples, 0.2))
    assert rows_of(frames).shape[1] == (75 if removed else 150)


def test_equal_motion_keeps_the_order_of_appearance():
    first, second = Track(FIRST + 5, 0, 20, 0.4), Track(FIRST, 0, 20, 0.4)
    second.joints = first.joints + np.float32(0)
    second.joints[:, 2, 1], second.joints[:, 3, 1] = first.joints[:, 3, 1], first.joints[:, 2, 1]
    frames = frames_of(first, second)
    rows = rows_of(frames)
    assert present(frames, rows, first) == [0] * 20
    assert present(frames, rows, second) == [1] * 20


def test_the_spread_rule_goes_by_appearance_and_spares_the_last():
    tracks = [Track(FIRST + i, 0, 20, motion).widen(slice(None), 1.5, 1.6) for i, motion in enumerate((0.1, 0.5, 0.9))]
    rows = rows_of(frames_of(*tracks))
    np.testing.assert_array_equal(rows.reshape(20, 25, 3), tracks[2].joints - tracks[2].joints[0, 1])


@pytest.mark.parametrize("distance", [1, 4, 15])
def test_neighbouring_ids_are_two_persons(distance):
    frames = frames_of(Track(FIRST, 0, 20, 0.4), Track(FIRST + distance, 0, 20, 0.2))
    assert float(FIRST) == float(FIRST + 4)
    assert rows_of(frames).shape[1] == 150


def test_only_short_bodies_keep_the_longest_and_say_so():
    frames = frames_of(Track(FIRST, 0, 5, 0.4), Track(FIRST + 1, 3, 9, 0.2), Track(FIRST + 2, 3, 9, 0.9))
    assert len(rows_of(frames)) == 9
    assert "more than 11" in choose_actors(parse_skeleton(text_of(frames))).remark


def test_joined_tracks_leave_the_second_actor_out_but_are_not_alone():
    actors = choose_actors(parse_skeleton(text_of(frames_of(Track(FIRST, 0, 14, 0.4), Track(FIRST + 1, 15, 14, 0.2)))))
    assert actors.positions.shape == (28, 1, 25, 3)
    assert not actors.alone


def test_nothing_but_zeros_is_refused():
    still = Track(FIRST, 0, 3, 0.4)
    still.joints[:] = 0
    with pytest.raises(DataError, match="zero"):
        choose_actors(parse_skeleton(text_of(frames_of(still))))
