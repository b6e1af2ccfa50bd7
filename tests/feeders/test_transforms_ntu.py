"""The NTU family against the published numbers and against a plain loop over frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from feeders.transforms.ntu import NTUTransform, centre_crop, crop_resize, rotate, rotation_matrices, train_crop

TOLERANCE = 1e-5


def assert_close(actual, expected):
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=TOLERANCE)


def test_test_crop_of_every_clip(published, published_clips):
    joints = NTUTransform(num_persons=2, window=64).test(published_clips.rows, torch.arange(13))
    assert joints.dtype == torch.float32
    assert_close(joints, published["crop_p095_w64"])


@pytest.mark.parametrize(("share", "window"), [(0.95, 32), (0.5, 64), (1.0, 100)])
def test_central_crop_of_other_shares_and_windows(published, published_clips, share, window):
    clips = torch.from_numpy(published["pick"])
    rows = published_clips.rows
    start, length = centre_crop(rows.frames[clips], share)
    joints = crop_resize(rows, clips, start, length, window, 2)
    assert_close(joints, published[f"crop_p{round(share * 100):03}_w{window}"])


@pytest.mark.parametrize("case", range(4))
def test_training_crop_with_given_share_and_start(published, published_clips, case):
    number, share, start, latest_start = published["traincrop_params"][case]
    clip = torch.tensor([int(number)])
    share = torch.tensor([share], dtype=torch.float64)
    latest = torch.tensor([math.nextafter(1, 0)], dtype=torch.float64)
    rows = published_clips.rows
    last_start, length = train_crop(rows.frames[clip], share, latest)
    assert last_start.item() == latest_start
    joints = crop_resize(rows, clip, torch.tensor([int(start)]), length, 64, 2)
    assert_close(joints[0], published[f"traincrop_{int(number)}"])


def test_a_training_crop_keeps_at_least_64_frames_whatever_the_window():
    frames = torch.tensor([1, 20, 63, 64, 65, 127, 128, 130, 300])
    half, first = torch.full((9,), 0.5, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    start, length = train_crop(frames, half, first)
    assert length.tolist() == [1, 20, 63, 64, 64, 64, 64, 65, 150]
    assert start.tolist() == [0] * 9
    start, _ = train_crop(frames, half, first + math.nextafter(1, 0))
    assert (start + length == frames).all()


def test_rotation_matrices_and_rotation(published):
    matrices = rotation_matrices(torch.from_numpy(published["rot_angles"]))
    assert_close(matrices, published["rot_matrices"])
    clip = torch.from_numpy(published["crop_p095_w64"][7]).expand(5, -1, -1, -1, -1)
    assert_close(rotate(clip, matrices), published["rot_clip7"])


def test_training_maps_draws_to_crop_and_angles(published_clips):
    """Share 0.5 + u / 2, start over all possible ones, angles 0.3 (2 u - 1); the second person is turned alike."""
    transform = NTUTransform(num_persons=2, window=16)
    clips = torch.tensor([11, 3])
    draws = torch.tensor([[0.77, 0.5, 0.5, 0.5, 0.5], [0.0, 0.9, 1.0, 0.0, 0.25]], dtype=torch.float64)
    rows = published_clips.rows
    joints = transform.train(rows, clips, draws)
    # n = 299: floor(299 * 0.885) = 264 frames, start floor(0.5 * 36) = 18; n = 19: everything.
    straight = crop_resize(rows, clips, torch.tensor([18, 0]), torch.tensor([264, 19]), 16, 2)
    angles = torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.3, -0.15]])
    assert_close(joints, rotate(straight, rotation_matrices(angles)).numpy())
    assert not torch.allclose(joints[1], straight[1], atol=1e-2)


def test_resize_equals_a_loop_over_frames(make_store):
    store = make_store([1, 2, 9, 40, 150])
    rows, clips = store.rows, torch.arange(5)
    for window in (1, 7, 64):
        joints = crop_resize(rows, clips, torch.zeros(5, dtype=torch.int64), store.frames, window, 2)
        for i in range(5):
            clip = store.clip(i).numpy()
            for k in range(window):
                source = max((k + 0.5) * len(clip) / window - 0.5, 0)
                before = math.floor(source)
                after = min(before + 1, len(clip) - 1)
                expected = (1 - source + before) * clip[before] + (source - before) * clip[after]
                for person, points in enumerate(expected):
                    np.testing.assert_allclose(joints[i, :, k, :, person].numpy().T, points, atol=1e-4)


def test_an_absent_person_stays_exactly_zero(make_store):
    rows, clips = make_store([30, 80]).rows, torch.arange(2)
    transform = NTUTransform(num_persons=2, window=64)
    draws = torch.rand(2, 5, dtype=torch.float64)
    for joints in (transform.train(rows, clips, draws), transform.test(rows, clips)):
        assert (joints[0, ..., 1] == 0).all()
        assert (joints[1, ..., 1] != 0).all()


def test_a_single_frame_is_repeated(published_clips):
    joints = NTUTransform(num_persons=2, window=64).test(published_clips.rows, torch.tensor([0]))
    assert (joints == joints[:, :, :1]).all()
    np.testing.assert_array_equal(joints[0, :, 0, :, 0].numpy().T, published_clips.clip(0)[0, 0].numpy())


def test_rotation_can_be_smaller_or_none(published_clips):
    clips = torch.tensor([11, 3])
    draws = torch.tensor([[0.77, 0.5, 0.9, 0.5, 0.1], [0.0, 0.9, 1.0, 0.0, 0.25]], dtype=torch.float64)
    rows = published_clips.rows
    # The crops of the test above.
    straight = crop_resize(rows, clips, torch.tensor([18, 0]), torch.tensor([264, 19]), 16, 2)
    assert torch.equal(NTUTransform(2, 16, rotation=0).train(rows, clips, draws), straight)
    angles = torch.tensor([[0.08, 0.0, -0.08], [0.1, -0.1, -0.05]])
    turned = NTUTransform(2, 16, rotation=0.1).train(rows, clips, draws)
    assert_close(turned, rotate(straight, rotation_matrices(angles)).numpy())


@pytest.mark.parametrize("train", [True, False])
def test_every_frame_may_have_its_own_origin(make_store, train):
    """As HCN's published feeder does it: centred in the stored frames, before the resize."""
    store = make_store([9, 70])
    second = store.clip(1)
    second[3, 1] = 0  # away for a while
    rows, clips = store.rows, torch.arange(2)
    transform = NTUTransform(2, 32, rotation=0, centre=1)
    draws = torch.tensor([[0.3, 0.4, 0.5, 0.5, 0.5]] * 2, dtype=torch.float64)
    joints = transform.train(rows, clips, draws) if train else transform.test(rows, clips)
    # Train: n = 70 and share 0.65 keep 64 frames from 0.4 * 7 on. Test: trunc(0.05 * 70 / 2) frames go at either end.
    spans = [(0, 9), (2, 64) if train else (1, 68)]
    for i, (start, length) in enumerate(spans):
        clip = store.clip(i).double().numpy().copy()
        centred = clip - clip[:, :1, 1:2]
        centred[~clip.any(axis=(2, 3))] = 0
        kept = centred[start : start + length]
        for k in range(32):
            source = max((k + 0.5) * length / 32 - 0.5, 0)
            before = math.floor(source)
            after = min(before + 1, length - 1)
            expected = (1 - source + before) * kept[before] + (source - before) * kept[after]
            for person, points in enumerate(expected):
                np.testing.assert_allclose(joints[i, :, k, :, person].numpy().T, points, atol=1e-5)
    assert (joints[0, ..., 1] == 0).all()
    assert (joints[:, :, :, 1, 0].abs() < 1e-6).all()


def test_a_copied_person_is_the_first_one_to_the_bit(make_store):
    rows, clips = make_store([30, 80, 41]).rows, torch.arange(3)
    draws = torch.rand(3, 5, dtype=torch.float64)
    transform = NTUTransform(2, 64)
    copied = torch.tensor([True, False, False])
    for joints, plain in (
        (transform.train(rows, clips, draws, copied), transform.train(rows, clips, draws)),
        (transform.test(rows, clips, copied), transform.test(rows, clips)),
    ):
        assert torch.equal(joints[0, ..., 1], plain[0, ..., 0])
        assert torch.equal(joints[0, ..., 0], plain[0, ..., 0])
        assert torch.equal(joints[1:], plain[1:])


def test_clips_are_turned_in_full_float32(monkeypatch):
    """Where `optim.matmul` lets a GPU multiply in TF32, its ten bits would be seen in the motion of joints."""
    matmul, seen, bmm = torch.backends.cuda.matmul, [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *both: seen.append(matmul.allow_tf32) or bmm(*both))
    joints = torch.randn(2, 3, 4, 5, 1)
    matmul.allow_tf32 = True
    try:
        turned = rotate(joints, rotation_matrices(torch.zeros(2, 3)))
        after = matmul.allow_tf32
    finally:
        matmul.allow_tf32 = False
    assert torch.equal(turned, joints)
    assert (seen, after) == ([False], True)
