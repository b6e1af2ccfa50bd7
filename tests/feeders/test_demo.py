"""The demo data set: what it promises, and that it is made once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feeders import DataError, Feeder, PackedStore, get_benchmark, open_store
from feeders.demo.actions import ACTIONS, AMBIGUOUS_PAIRS, DIVERGENCE, SIT_DOWN
from feeders.demo.body import BONES, NUM_JOINTS, SEGMENTS, pose, rotations
from feeders.demo.generator import generate_demo, perform
from feeders.demo.people import Take, draw_person, draw_take
from graph import get_skeleton

BENCHMARK = get_benchmark("demo")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def store(place):
    opened = open_store(BENCHMARK, place)
    assert opened.remarks == ()
    return opened.store


def test_counts_and_split(store):
    assert len(ACTIONS) == len(store.class_names) == BENCHMARK.num_classes == 12
    train, test = (Feeder(store, BENCHMARK, split) for split in ("train", "test"))
    assert train.labels.bincount().tolist() == [40] * 12
    assert test.labels.bincount().tolist() == [20] * 12
    subjects = [{name.split("_")[1] for name in feeder.names} for feeder in (train, test)]
    assert not subjects[0] & subjects[1]
    assert next(train.epoch(0, 16)).x.shape == (16, 3, 32, 25, 2)


def test_names_say_class_subject_camera_and_replication(store):
    for i in (0, 100, 719):
        label, subject, camera, replication = (int(part[1:]) for part in store.names[i].split("_"))
        assert label - 1 == store.labels[i]
        assert [subject, camera, replication] == [
            store.metadata[column][i] for column in ("subject", "camera", "replication")
        ]


def test_lengths_differ_widely(store):
    shortest, median, longest = np.percentile(store.frames.numpy(), [0, 50, 100])
    assert 20 <= shortest < 30
    assert 50 < median < 120
    assert 240 < longest <= 300


def test_two_person_classes(store):
    per_class = {name: set() for name in store.class_names}
    for label, persons in zip(store.labels.tolist(), store.persons.tolist(), strict=True):
        per_class[store.class_names[label]].add(persons)
    assert {name for name, persons in per_class.items() if persons == {2}} == {"shake hands", "hand over"}
    assert all(persons in ({1}, {2}) for persons in per_class.values())


def test_coordinates_look_like_people_in_metres(store):
    assert store.dtype == torch.float32
    for i in range(0, len(store), 40):
        clip = store.clip(i)
        assert clip.isfinite().all()
        assert (clip[0, 0, 1] == 0).all()
        assert clip[0, 0, 3, 1] > clip[0, 0, 0, 1] > clip[0, 0, [15, 19], 1].max()
        height = clip[0, 0, 3, 1] - clip[0, 0, [14, 18], 1].min()
        assert 1.0 < height < 1.9
        if clip.shape[1] == 2:
            distance = (clip[:, 0, 0] - clip[:, 1, 0]).norm(dim=1)
            assert ((distance > 0.8) & (distance < 1.4)).all()


def test_equal_seeds_give_equal_clips_and_other_seeds_others(store):
    again = generate_demo(seed=0, num_subjects=1, num_replications=1)
    for i, name in enumerate(again.names):
        assert torch.equal(again.clip(i), store.clip(store.names.index(name)))
    other = generate_demo(seed=1, num_subjects=1, num_replications=1)
    assert other.names == again.names
    assert other.fingerprint != again.fingerprint
    assert not torch.equal(other.frames, again.frames)


def the_take() -> tuple[Take, np.ndarray]:
    """A long take and the time of its action at every frame."""
    take = draw_take(draw_person(np.random.default_rng(1)), 0.0, np.random.default_rng(17))
    clip_time = np.linspace(0, 1, take.num_frames)
    return take, np.clip((clip_time - take.onset) / take.active, 0, 1) ** take.warp


@pytest.mark.parametrize(("first", "second"), AMBIGUOUS_PAIRS)
def test_an_ambiguous_pair_differs_only_late(first, second):
    take, time = the_take()
    people = (draw_person(np.random.default_rng(1)), draw_person(np.random.default_rng(2)))
    one, other = (perform(ACTIONS[label], people, take) for label in (first, second))
    distance = np.linalg.norm(one - other, axis=-1).max((1, 2))
    assert (time <= DIVERGENCE).mean() > 0.4
    assert distance[time <= DIVERGENCE].max() < 1e-9
    # Small beside the gross motion, yet several times the sensor noise of 5 mm.
    assert 0.05 < distance.max() < 0.45


def test_at_least_three_pairs_are_ambiguous_and_share_no_class():
    assert len(AMBIGUOUS_PAIRS) >= 3
    labels = [label for pair in AMBIGUOUS_PAIRS for label in pair]
    assert len(set(labels)) == len(labels)


def test_standing_up_is_sitting_down_backwards():
    sit, stand = ACTIONS[10], ACTIONS[11]
    assert (sit.name, stand.name) == ("sit down", "stand up")
    assert sit.gestures == stand.gestures == SIT_DOWN
    take, _ = the_take()
    people = (draw_person(np.random.default_rng(1)),) * 2
    down, up = (perform(action, people, take)[:, 0, 3, 1] for action in (sit, stand))
    assert down[0] - down[-1] > 0.2
    assert up[-1] - up[0] > 0.2


def test_bones_are_those_of_the_skeleton():
    assert sorted(joint for joint, _, _ in BONES) == [j for j in range(NUM_JOINTS) if j != 0]
    offsets = {joint: np.array(offset) for joint, _, offset in BONES}
    for left, right in get_skeleton("ntu").left_right:
        np.testing.assert_array_equal(offsets[left] * (-1, 1, 1), offsets[right])


def test_a_pose_keeps_bone_lengths_and_stands_on_the_floor():
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.8, 1.2, NUM_JOINTS)
    positions = pose({segment: rng.normal(0, 1, (6, 3)) for segment in SEGMENTS}, scale)
    for joint, parent, offset in BONES:
        lengths = np.linalg.norm(positions[:, joint] - positions[:, parent], axis=1)
        np.testing.assert_allclose(lengths, scale[joint] * np.linalg.norm(offset), rtol=1e-12)
    np.testing.assert_allclose(positions[:, [14, 18], 1].min(1), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("axis", "hanging_limb_goes"),
    [(0, (0, 0, -1)), (1, (0, -1, 0)), (2, (1, 0, 0))],
)
def test_a_quarter_turn_of_a_hanging_limb(axis, hanging_limb_goes):
    """Pitch lifts it forwards (-z), twist leaves it, roll lifts it to the left (+x)."""
    angles = np.zeros((1, 3))
    angles[0, axis] = np.pi / 2
    np.testing.assert_allclose(rotations(angles)[0] @ (0, -1, 0), hanging_limb_goes, atol=1e-15)


def test_the_cache_is_used_and_mended(place, store, monkeypatch):
    (file,) = place.iterdir()
    assert PackedStore.load(file).fingerprint == store.fingerprint
    written = file.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("feeders.demo.cache.generate_demo", lambda _: pytest.fail("the cache was not used"))
        assert open_store(BENCHMARK, place).store.fingerprint == store.fingerprint
        assert open_store(BENCHMARK, file).store.fingerprint == store.fingerprint
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="not a readable packed store"):
        open_store(BENCHMARK, file)
    monkeypatch.setattr("feeders.demo.cache.generate_demo", lambda _: store)
    assert open_store(BENCHMARK, place).store.fingerprint == store.fingerprint
    assert PackedStore.load(file).fingerprint == store.fingerprint


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("feeders.demo.cache.generate_demo", lambda _: generate_demo(0, 1, 1))
    with pytest.raises(DataError, match=r"cannot be written .*data\.path"):
        open_store(BENCHMARK, tmp_path / "file" / "below")
