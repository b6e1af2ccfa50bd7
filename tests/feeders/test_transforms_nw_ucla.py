"""The NW-UCLA family against the published numbers and against plain numpy, one clip at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feeders import PackedStore
from feeders.transforms.nw_ucla import NWUCLATransform, even_frames, random_frames, view_rotations
from graph import get_skeleton

TOLERANCE = 1e-9


@pytest.fixture
def transform() -> NWUCLATransform:
    return NWUCLATransform(get_skeleton("nw-ucla"), num_persons=1, window=52)


@pytest.fixture
def published_ids(published, real_clips) -> torch.Tensor:
    return torch.tensor([real_clips.store.names.index(name) for name in published["ucla_names"]])


def small_store(*clips: np.ndarray) -> PackedStore:
    return PackedStore.from_clips(
        clips, [0] * len(clips), [str(i) for i in range(len(clips))], ["any"], "nw-ucla", {"camera": [1] * len(clips)}
    )


def normalised(clip: np.ndarray) -> np.ndarray:
    """Steps 1 and 3 of the published pipeline for one clip (L, 20, 3)."""
    clip = clip - clip[0, 1]
    low, high = clip.min((0, 1)), clip.max((0, 1))
    return 2 * (clip - low) / (high - low) - 1


def test_joints_of_test_clips_in_one_batch(published, real_clips, published_ids, transform):
    """Clips of 21, 101 and 1 frames together, so padding would show."""
    joints = transform.test(real_clips.store.rows, published_ids)
    assert joints.dtype == torch.float64
    np.testing.assert_allclose(joints.numpy(), published["ucla_plain_joint"], rtol=0, atol=TOLERANCE)


def test_given_view_and_frames(published, real_clips, published_ids, transform):
    """The published numbers include a scale of 1.3, 0.5 and 1, which cancels."""
    degrees = torch.from_numpy(published["ucla_view_params"][:, :2])
    frames = torch.from_numpy(published["ucla_view_frames"])
    clip = published_ids[:1].expand(3)
    joints = transform.pick_and_normalise(real_clips.store.rows, clip, frames, view_rotations(degrees))
    np.testing.assert_allclose(joints.numpy(), published["ucla_view_joint"], rtol=0, atol=TOLERANCE)


def test_the_clip_does_not_depend_on_its_batch(transform):
    rng = np.random.default_rng(0)
    clips = [rng.normal(3, 1, (length, 1, 20, 3)) for length in (1, 200, 30)]
    store = small_store(*clips)
    draws = torch.rand(3, transform.num_draws, dtype=torch.float64)
    together = transform.train(store.rows, torch.arange(3), draws)
    for i in range(3):
        alone = transform.train(store.rows, torch.tensor([i]), draws[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-12)


def test_range_is_taken_over_the_whole_clip_not_the_picked_frames(transform):
    clip = np.random.default_rng(1).normal(0, 1, (90, 1, 20, 3))
    store = small_store(clip)
    joints = transform.pick_and_normalise(store.rows, torch.tensor([0]), torch.zeros(1, 52, dtype=torch.int64))
    np.testing.assert_allclose(joints[0, :, 0, :, 0].numpy().T, normalised(clip[:, 0])[0], atol=1e-12)


def test_a_coordinate_that_does_not_vary_becomes_zero(transform):
    clip = np.random.default_rng(2).normal(0, 1, (8, 1, 20, 3))
    clip[..., 2] = 2.7
    point = np.full((3, 1, 20, 3), 1.3)
    store = small_store(clip, point)
    joints = transform.test(store.rows, torch.arange(2))
    assert (joints[0, 2] == 0).all()
    assert (joints[0, :2].abs().amax((1, 2, 3)) == 1).all()
    assert (joints[1] == 0).all()
    draws = torch.rand(2, transform.num_draws, dtype=torch.float64)
    assert (transform.train(store.rows, torch.arange(2), draws)[1] == 0).all()


def test_float32_is_close_to_float64(real_clips, transform):
    store = real_clips.store
    single = PackedStore.from_clips(
        [store.clip(i).numpy().astype(np.float32) for i in range(100)],
        store.labels[:100].numpy(),
        store.names[:100],
        store.class_names,
        store.skeleton,
    )
    joints = transform.test(single.rows, torch.arange(100))
    assert joints.dtype == torch.float32
    torch.testing.assert_close(joints.double(), transform.test(store.rows, torch.arange(100)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 52, 64])
def test_even_frames_are_those_of_linspace(window):
    lengths = torch.arange(1, 302)
    expected = [np.linspace(0, length - 1, window).astype(np.int64) for length in lengths.tolist()]
    np.testing.assert_array_equal(even_frames(lengths, window).numpy(), np.stack(expected))


def test_view_angles_are_whole_degrees_up_to_60(transform, monkeypatch):
    seen = []
    monkeypatch.setattr("feeders.transforms.nw_ucla.view_rotations", lambda x: seen.append(x) or view_rotations(x))
    store = small_store(np.random.default_rng(3).normal(0, 1, (5, 1, 20, 3)))
    draws = torch.rand(5_000, transform.num_draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    transform.train(store.rows, torch.zeros(5_000, dtype=torch.int64), draws)
    counts = np.unique(seen[0].numpy(), return_counts=True)
    np.testing.assert_array_equal(counts[0], np.arange(-60, 61))
    # 10,000 angles over 121 values: 83 each, standard deviation 9.
    assert np.abs(counts[1] - 10_000 / 121).max() < 5 * 9.1


def test_random_frames_can_use_up_every_copy():
    draws = torch.rand(50, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert (random_frames(torch.ones(50, dtype=torch.int64), draws) == 0).all()
    # A window above 100 has as many copies as frames, so that a clip of one frame can fill it.
    draws = torch.rand(50, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert (random_frames(torch.ones(50, dtype=torch.int64), draws) == 0).all()


def test_random_frames_have_the_variance_of_a_draw_without_replacement():
    """100 of the 200 copies of two frames: hypergeometric variance 25 * 100 / 199 = 12.56; with replacement 25."""
    draws = torch.rand(4000, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    frames = random_frames(torch.full((4000,), 2), draws)
    counts = frames.sum(1).double()
    assert counts.mean().item() == pytest.approx(50, abs=5 * (12.56 / 4000) ** 0.5)
    assert counts.var().item() == pytest.approx(12.56, rel=0.12)
    assert counts.max() <= 100


def test_random_frames_are_uniform_sorted_and_inside():
    lengths = torch.tensor([1, 7, 52, 201]).repeat(1000)
    draws = torch.rand(4000, 52, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    frames = random_frames(lengths, draws)
    assert (frames[:, 1:] >= frames[:, :-1]).all()
    assert (frames >= 0).all()
    assert (frames < lengths.unsqueeze(1)).all()
    counts = frames[1::4].flatten().bincount(minlength=7).double()
    # 52,000 draws over 7 frames: 7429 each, standard deviation below 80.
    assert (counts - 52_000 / 7).abs().max() < 5 * 80


def test_random_frames_follow_floyds_algorithm_one_clip_at_a_time():
    draws = torch.rand(50, 52, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    lengths = torch.tensor([1, 2, 3, 30, 201] * 10)
    frames = random_frames(lengths, draws)
    for row, length, result in zip(draws.tolist(), lengths.tolist(), frames.tolist(), strict=True):
        taken: set[int] = set()
        for k, uniform in enumerate(row):
            last = 100 * length - 52 + k
            position = int(uniform * (last + 1))
            taken.add(last if position in taken else position)
        assert result == sorted(position % length for position in taken)
