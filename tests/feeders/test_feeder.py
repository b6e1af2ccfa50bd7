"""Batches: coverage of an epoch, determinism, repetition, what the two streams share."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from feeders import DataError, Feeder, PackedStore, get_benchmark, place_store
from feeders.streams import StreamBuilder
from graph import get_skeleton

BENCHMARK = get_benchmark("demo")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(make_store):
    return make_store([20, 90, 33, 64, 150, 41, 77, 28, 300, 65, 100, 51], subjects=[1, 2, 11] * 4)


def test_a_training_epoch_covers_every_index_at_most_once_and_drops_the_incomplete_batch(store):
    feeder = Feeder(store, BENCHMARK, "train", repeat=3, seed=1)
    assert len(feeder) == 24
    batches = list(feeder.epoch(0, 5))
    assert [len(batch.indices) for batch in batches] == [5] * 4
    seen = torch.cat([batch.indices for batch in batches])
    assert len(seen.unique()) == 20
    assert not torch.equal(seen, seen.sort().values)
    other = torch.cat([batch.indices for batch in feeder.epoch(1, 5)])
    assert not torch.equal(seen, other)


def test_a_test_epoch_is_in_order_and_complete(store):
    feeder = Feeder(store, BENCHMARK, "test", repeat=3)
    batches = list(feeder.epoch(0, 3))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [3]]
    assert feeder.names == ("clip 2", "clip 5", "clip 8", "clip 11")
    assert feeder.labels.tolist() == [2, 5, 8, 11]
    assert torch.equal(batches[0].x, feeder.feed(torch.arange(3), epoch=9).x)


def test_labels_and_names_of_repeated_indices(store):
    feeder = Feeder(store, BENCHMARK, "train", repeat=2)
    assert feeder.labels.tolist() == [0, 1, 3, 4, 6, 7, 9, 10] * 2
    assert feeder.name_of(3) == feeder.name_of(11) == "clip 4"
    batch = feeder.feed(torch.tensor([11, 0]), epoch=0)
    assert batch.labels.tolist() == [4, 0]
    assert batch.indices.tolist() == [11, 0]
    assert (batch.labels.dtype, batch.indices.dtype, batch.x.dtype) == (torch.int64, torch.int64, torch.float32)
    assert batch.x.shape == (2, 3, 32, 25, 2)


def test_a_clip_is_the_same_whatever_its_batch_and_whenever_it_is_asked_for(store):
    feeder = Feeder(store, BENCHMARK, "train", repeat=3, seed=4)
    whole = feeder.feed(torch.arange(24), epoch=2)
    feeder.feed(torch.arange(24), epoch=3)
    for index in (5, 0, 23):
        alone = Feeder(store, BENCHMARK, "train", repeat=3, seed=4).feed(torch.tensor([index]), epoch=2)
        assert torch.equal(alone.x[0], whole.x[index])
    for batch in feeder.epoch(2, 5):
        assert torch.equal(batch.x, whole.x[batch.indices])


def test_epochs_seeds_and_repeats_augment_differently(store):
    def batch(seed: int, epoch: int) -> torch.Tensor:
        return Feeder(store, BENCHMARK, "train", repeat=2, seed=seed).feed(torch.arange(16), epoch).x

    first = batch(0, 0)
    assert torch.equal(first, batch(0, 0))
    for other in (batch(0, 1), batch(1, 0), first.roll(8, 0)):
        assert all(not torch.equal(mine, theirs) for mine, theirs in zip(first, other, strict=True))


def test_an_epoch_resumes_at_a_batch(store):
    feeder = Feeder(store, BENCHMARK, "train", repeat=3)
    whole = list(feeder.epoch(1, 5))
    resumed = list(Feeder(store, BENCHMARK, "train", repeat=3).epoch(1, 5, start=2))
    assert len(resumed) == 2
    for batch, expected in zip(resumed, whole[2:], strict=True):
        assert torch.equal(batch.indices, expected.indices)
        assert torch.equal(batch.x, expected.x)
    assert list(feeder.epoch(1, 5, start=4)) == []


def test_joints_are_those_that_the_stream_was_made_from(store):
    skeleton = get_skeleton("ntu")
    plain = Feeder(store, BENCHMARK, "train").feed(torch.arange(8), 0)
    assert plain.joints is plain.x
    assert plain.to("cpu").joints is plain.x
    for stream, variant in (("bone", "plain"), ("joint", "centred"), ("bone_motion", "centred")):
        batch = Feeder(store, BENCHMARK, "train", stream=stream, variant=variant).feed(torch.arange(8), 0)
        assert torch.equal(batch.joints, plain.x)
        assert torch.equal(batch.x, StreamBuilder(stream, variant, skeleton)(plain.x))


def test_window_and_repeat_default_to_the_benchmark(store):
    benchmark = dataclasses.replace(BENCHMARK, window=48, repeat=4)
    feeder = Feeder(store, benchmark, "train")
    assert len(feeder) == 32
    assert next(feeder.epoch(0, 2)).x.shape == (2, 3, 48, 25, 2)
    assert next(Feeder(store, benchmark, "train", window=1).epoch(0, 2)).x.shape == (2, 3, 1, 25, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, r"data\.window: must be >= 1, got 0"),
        ({"repeat": 0}, r"data\.repeat: must be >= 1, got 0"),
        ({"seed": -1}, "seed: must be >= 0, got -1"),
        ({"stream": "bones"}, r"data\.stream: unknown value 'bones' .did you mean 'bone"),
        ({"variant": "plane"}, r"data\.variant: unknown value 'plane' .did you mean 'plain"),
        ({"origin": "frames"}, r"data\.origin: unknown value 'frames' .did you mean 'frame"),
        ({"second_person": "cop"}, r"data\.second_person: unknown value 'cop' .did you mean 'copy"),
        ({"second_person": "copy"}, r"data\.second_person: copy needs the column alone in the data"),
        ({"rotation": -0.1}, r"data\.rotation: must be >= 0, got -0\.1"),
        ({"bone_scale": -0.1}, r"data\.bone_scale: must be >= 0, got -0\.1"),
        ({"bone_scale": 1.0}, r"data\.bone_scale: must be below 1, got 1\.0"),
        ({"validation": 1.0}, r"data\.validation: must be >= 0 and < 1, got 1\.0"),
    ],
)
def test_options_out_of_range(store, options, message):
    with pytest.raises(DataError, match=message):
        Feeder(store, BENCHMARK, "train", **options)


def test_a_training_split_that_fills_no_batch(store):
    feeder = Feeder(store, BENCHMARK, "train")
    with pytest.raises(DataError, match=r"optim\.batch_size: 9 is more than the 8 training clips"):
        list(feeder.epoch(0, 9))
    with pytest.raises(DataError, match=r"optim\.batch_size: must be >= 1, got 0"):
        feeder.num_batches(0)
    assert len(list(feeder.epoch(0, 8))) == 1
    assert len(list(Feeder(store, BENCHMARK, "test").epoch(0, 9))) == 1


def test_indices_outside_the_split(store):
    for index in (8, -1):
        with pytest.raises(IndexError, match=r"0 \.\. 7"):
            Feeder(store, BENCHMARK, "train").feed(torch.tensor([index]), 0)


def test_a_clip_with_too_many_persons_is_refused(store):
    with pytest.raises(DataError, match="persons per clip 2, expected at most 1"):
        Feeder(store, dataclasses.replace(BENCHMARK, num_persons=1), "train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_placement_gives_the_same_clips(store, split, tmp_path):
    store.save(tmp_path / "clips.h5")
    stored = PackedStore.load(tmp_path / "clips.h5")
    places = [place_store(stored, placement, torch.device("cpu")) for placement in ("host", "device")]
    expected = Feeder(store, BENCHMARK, split, repeat=2, seed=3)
    indices = torch.tensor([3, 0, len(expected) - 1, 3])
    for place in places:
        assert place.fingerprint == store.fingerprint
        feeder = Feeder(place, BENCHMARK, split, repeat=2, seed=3)
        assert torch.equal(feeder.labels, expected.labels)
        for epoch in (0, 1):
            assert torch.equal(feeder.feed(indices, epoch).x, expected.feed(indices, epoch).x)
            for batch, other in zip(feeder.epoch(epoch, 3), expected.epoch(epoch, 3), strict=True):
                assert torch.equal(batch.x, other.x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_store_on_the_gpu_gives_the_same_clips(store, split):
    on_host, on_gpu = (Feeder(s, BENCHMARK, split).feed(torch.arange(4), 1) for s in (store, store.to("cuda")))
    assert on_gpu.x.is_cuda
    torch.testing.assert_close(on_gpu.x.cpu(), on_host.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("option", [{"rotation": 0.1}, {"origin": "frame"}])
def test_options_of_the_other_family_are_refused(real_clips, option):
    with pytest.raises(DataError, match=r"data\.(rotation|origin): benchmark nw-ucla has the transforms nw-ucla"):
        Feeder(real_clips.store, get_benchmark("nw-ucla"), "train", **option)


def test_the_benchmark_says_the_defaults(store):
    def batch(benchmark, **options):
        return Feeder(store, benchmark, "train", **options).feed(torch.arange(8), 0).x

    for key, value in (("rotation", 0.0), ("origin", "frame")):
        changed = batch(dataclasses.replace(BENCHMARK, **{key: value}))
        assert torch.equal(changed, batch(BENCHMARK, **{key: value}))
        assert not torch.equal(changed, batch(BENCHMARK))


def test_held_out_clips_neither_train_nor_test(store):
    options = {"validation": 0.5, "seed": 3, "repeat": 2}
    train, validation, test = (Feeder(store, BENCHMARK, part, **options) for part in ("train", "validation", "test"))
    everything = Feeder(store, BENCHMARK, "train", repeat=2)
    assert sorted((*train.names, *validation.names)) == sorted(everything.names)
    # One of the two training subjects.
    assert validation.names in (everything.names[0::2], everything.names[1::2])
    assert test.names == Feeder(store, BENCHMARK, "test").names
    assert len(train) == 2 * len(train.names)
    assert len(validation) == len(validation.names)
    assert torch.equal(validation.feed(torch.arange(4), 0).x, validation.feed(torch.arange(4), 5).x)
    assert [len(batch.indices) for batch in validation.epoch(0, 3)] == [3, 1]
    with pytest.raises(DataError, match=r"data\.validation: is 0"):
        Feeder(store, BENCHMARK, "validation")


def test_configurations_are_checked_without_torch():
    code = "import sys, feeders; feeders.get_benchmark('demo'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY).returncode == 0
