"""2-D clips: normalisation, confidence in the streams, the skeleton of COCO, the generated demo, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feeders import DataError, Feeder, get_benchmark, normalise_keypoints, open_store
from feeders.demo.generator import generate_demo
from feeders.demo.image import filmed
from feeders.readers.clip_file import pack_clips
from feeders.streams import StreamBuilder
from graph import get_skeleton, root_partition, spatial_partition

COCO = get_skeleton("coco")
BENCHMARK = get_benchmark("demo-2d")
HIPS = (11, 12)


@pytest.fixture(scope="module")
def store():
    return filmed(generate_demo(0, num_subjects=11, num_replications=1), 0)


def test_the_image_spans_minus_one_to_one_and_unseen_joints_lie_in_its_middle():
    pixels = np.array([[0, 0], [640, 480], [320, 240], [480, 60], [480, 60]], np.float16)
    confidence = np.array([0.9, 0.5, 0.02, 0.01, 0.0], np.float32)
    given = normalise_keypoints(pixels, confidence, (480, 640))
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given[:, :2], [[-1, -1], [1, 1], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(given[:, 2], confidence)


def test_a_loose_clip_of_pixels_is_refused():
    clip = np.full((4, 1, 17, 3), 0.9)
    clip[2, 0, 5, 0] = 320
    with pytest.raises(DataError, match=r"wave: coordinates up to 320: .*feeders\.normalise_keypoints"):
        pack_clips([clip], ["wave"], BENCHMARK)
    clip[2, 0, 5, 0] = -1.8
    assert len(pack_clips([clip], ["wave"], BENCHMARK)) == 1
    with pytest.raises(DataError, match="is empty"):
        pack_clips([clip[:0]], ["wave"], BENCHMARK)


def test_the_graph_of_coco():
    partition = spatial_partition(COCO)
    assert np.count_nonzero(partition, axis=(1, 2)).tolist() == [17, 16, 16]
    assert partition.sum(axis=(1, 2)).tolist() == [17, 16, 11]
    assert np.flatnonzero(partition[1].sum(axis=0) == 0).tolist() == [0]
    assert np.flatnonzero(partition[2].sum(axis=0) == 0).tolist() == [3, 4, 9, 10, 15, 16]
    partition = root_partition(COCO)
    assert np.count_nonzero(partition, axis=(1, 2)).tolist() == [17, 22, 10]
    np.testing.assert_allclose(partition.sum(axis=(1, 2)), [6.36667, 7.13333, 3.5], atol=1e-5)
    assert {COCO.parents[hip] for hip in HIPS} == {5, 6}
    assert {dict(COCO.bone_pairs)[hip] for hip in HIPS} == {0}
    assert sorted(joint for part in COCO.parts.values() for joint in part) == list(range(17))


def by_hand(stream, joints):
    """One joint and frame at a time."""
    result = joints.clone()
    if stream.startswith("bone"):
        for joint, partner in COCO.bone_pairs:
            result[:, :2, :, joint] = joints[:, :2, :, joint] - joints[:, :2, :, partner]
            result[:, 2, :, joint] = (joints[:, 2, :, joint] + joints[:, 2, :, partner]) / 2
    if stream.endswith("motion"):
        still = result.clone()
        for frame in range(joints.shape[2] - 1):
            result[:, :2, frame] = still[:, :2, frame + 1] - still[:, :2, frame]
            result[:, 2, frame] = (still[:, 2, frame + 1] + still[:, 2, frame]) / 2
        result[:, :, -1] = 0
    return result


@pytest.mark.parametrize("stream", ["joint", "bone", "joint_motion", "bone_motion"])
def test_streams_subtract_coordinates_and_average_confidence(stream):
    joints = torch.randn(2, 3, 4, 17, 2, dtype=torch.float64)
    joints[1, ..., 1] = 0
    before = joints.clone()
    given = StreamBuilder(stream, "plain", COCO, confidence=True)(joints)
    torch.testing.assert_close(given, by_hand(stream, before))
    assert torch.equal(joints, before)
    assert (given[1, ..., 1] == 0).all()


def test_the_centred_variant_keeps_the_confidence():
    joints = torch.randn(2, 3, 4, 17, 1)
    given = StreamBuilder("joint", "centred", COCO, confidence=True)(joints)
    assert torch.equal(given[:, 2], joints[:, 2])
    assert torch.equal(given[:, :2, :, 1:], joints[:, :2, :, 1:] - joints[:, :2, :, :1])


def test_the_generated_clips_fill_an_image(store):
    assert store.skeleton == "coco"
    assert store.joints == 17
    coordinates = torch.cat([store.clip(index).flatten(0, 2) for index in range(len(store))])
    assert coordinates[:, :2].abs().max() <= 1
    assert coordinates[:, 1].std() > 0.1
    missed = coordinates[:, 2] == 0
    assert 0.01 < missed.double().mean() < 0.03
    assert (coordinates[missed] == 0).all()
    assert coordinates[~missed, 2].min() >= 0.5
    feet, eyes = (store.clip(0)[:, 0, joints, 1].mean() for joints in ([15, 16], [1, 2]))
    assert feet > eyes, "y grows downwards"


def test_two_channels_go_to_a_gpu_without_gaps(store, monkeypatch):
    """torch copies a pinned view with gaps through memory that is not pinned."""
    batch = Feeder(store, BENCHMARK, "train", stream="bone", channels=2).feed(torch.arange(4), epoch=0)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor)
    moved = batch.to("cuda")
    assert len(pinned) == 4
    assert all(tensor.is_contiguous() for tensor in pinned)
    assert all(map(torch.equal, moved, batch))


def test_batches_are_cropped_and_resized_but_neither_turned_nor_scaled(store):
    training = Feeder(store, BENCHMARK, "train", seed=1)
    batch = training.feed(torch.arange(8), epoch=0)
    assert batch.x.shape == (8, 3, 32, 17, 2)
    assert batch.x[:, 2].min() >= 0
    assert batch.x[:, 2].max() <= 1
    assert not torch.equal(batch.x, training.feed(torch.arange(8), epoch=1).x)
    for name, value in {"rotation": 0.1, "origin": "frame", "bone_scale": 0.2}.items():
        with pytest.raises(DataError, match=rf"data\.{name}: benchmark demo-2d "):
            Feeder(store, BENCHMARK, "train", **{name: value})


def test_the_first_two_channels_alone(store):
    whole, flat = (Feeder(store, BENCHMARK, "test", stream="bone", channels=count) for count in (3, 2))
    index = torch.arange(4)
    for given, expected in zip(flat.feed(index, 0), whole.feed(index, 0), strict=True):
        assert torch.equal(given, expected[:, :2] if expected.ndim == 5 else expected)


def test_the_demo_is_made_in_its_own_file(store, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    monkeypatch.setattr("feeders.demo.cache.generate_demo", lambda seed: generate_demo(seed, 11, 1))
    made = open_store(BENCHMARK, tmp_path / "demo").store
    assert made.fingerprint == store.fingerprint
    assert [file.name for file in (tmp_path / "demo").iterdir()] == ["demo_2d_v1_seed0.h5"]
