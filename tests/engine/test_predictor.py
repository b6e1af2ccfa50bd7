"""A trained encoder from its run folder, compared with what the run itself found."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from engine.errors import RunError
from engine.predictor import likeliest, load_run
from feeders import Feeder, PackedStore, get_benchmark
from feeders.demo.generator import generate_demo
from feeders.errors import DataError
from feeders.feeder import ALONE
from feeders.readers.clip_file import read_clip
from fusion.scores import load_scores
from model import WeightsError
from tests.tools.untrained import untrained_run


def clips_of(names, folder):
    return [read_clip(folder / f"{name}.json") for name in names]


@pytest.mark.parametrize("stream", ["joint", "bone_motion"])
def test_predicts_what_the_run_was_scored_with(call, run_folder, stream):
    assert call("--data.stream", stream, "--data.variant", "centred", "--name", "small").code == 0
    for selection in ("best", "last"):
        scores = load_scores(run_folder / f"scores_{selection}.npz")
        predictor = load_run(run_folder, selection)
        assert predictor.logits(clips_of(scores.names, call.folder)) == pytest.approx(scores.logits, abs=1e-5)
        first = read_clip(call.folder / f"{scores.names[0]}.json")
        (name, probability), *others = predictor.predict(first)
        assert name == predictor.class_names[scores.logits[0].argmax()]
        assert probability == pytest.approx(torch.tensor(scores.logits[0]).softmax(0).max().item(), abs=1e-5)
        assert len(others) == 4


def test_needs_neither_data_set_nor_run_folder(call, run_folder, tmp_path):
    assert call().code == 0
    checkpoint = tmp_path / "alone.pt"
    (run_folder / "checkpoints/best.pt").rename(checkpoint)
    clip = read_clip(next(call.folder.glob("*.json")))
    for file in call.folder.glob("*.json"):
        file.rename(file.with_suffix(".moved"))
    try:
        assert load_run(checkpoint).logits([clip]).shape == (1, 10)
    finally:
        for file in call.folder.glob("*.moved"):
            file.rename(file.with_suffix(".json"))


def test_weights_without_settings_want_them(call, run_folder, tmp_path):
    assert call().code == 0
    content = torch.load(run_folder / "checkpoints/best.pt", weights_only=True)
    torch.save(content["encoder"], tmp_path / "bare.pt")
    with pytest.raises(RunError, match="--config"):
        load_run(tmp_path / "bare.pt")
    clip = read_clip(next(call.folder.glob("*.json")))
    given = load_run(tmp_path / "bare.pt", settings=content["config"])
    assert np.array_equal(given.logits([clip]), load_run(run_folder).logits([clip]))


def test_threads_may_share_one(call, run_folder):
    assert call().code == 0
    predictor = load_run(run_folder)
    clips = clips_of([file.stem for file in sorted(call.folder.glob("*.json"))[:16]], call.folder)
    alone = [predictor.logits([clip]) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda clip: predictor.logits([clip]), clips * 3))
    assert all(np.array_equal(one, other) for one, other in zip(alone * 3, together, strict=True))


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (np.ones((5, 1, 25, 3)), "25 joints; benchmark nw-ucla has 20"),
        (np.ones((5, 2, 20, 3)), "2 persons; benchmark nw-ucla has 1"),
        (np.full((5, 1, 20, 3), np.nan), "NaN"),
    ],
)
def test_clips_that_do_not_fit_are_refused(call, run_folder, clip, said):
    assert call().code == 0
    with pytest.raises(DataError, match=said):
        load_run(run_folder).predict(clip)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(RunError, match=r"best\.pt"):
        load_run(tmp_path)
    with pytest.raises(RunError, match=r"nothing\.pt"):
        load_run(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(WeightsError, match=r"text\.pt"):
        load_run(tmp_path / "text.pt")


def test_likeliest_classes_come_first_with_their_softmax():
    logits = np.log(np.array([1.0, 6.0, 3.0])) + 100
    assert likeliest(logits, ["a", "b", "c"], 2) == [("b", pytest.approx(0.6)), ("c", pytest.approx(0.3))]


@pytest.mark.parametrize("settings", [{"origin": "frame"}, {"second_person": "copy"}, {}])
def test_prepares_clips_as_the_feeder_of_the_run_does(tmp_path, settings):
    store, benchmark = generate_demo(seed=0, num_subjects=11, num_replications=1), get_benchmark("demo")
    given = {f"data__{key}": value for key, value in settings.items()}
    untrained_run(tmp_path / "run", data__benchmark="demo", model__name="tests.engine.tiny:TinyEncoder", **given)
    alone = {ALONE: store.persons.numpy() == 1, **store.metadata}
    clips = [store.clip(index).numpy() for index in range(len(store))]
    marked = PackedStore.from_clips(clips, store.labels.numpy(), store.names, store.class_names, "ntu", alone)
    feeder = Feeder(marked, benchmark, "test", **settings)
    expected = feeder.feed(torch.arange(len(feeder)), epoch=0)
    tested = [store.clip(store.names.index(name)).numpy() for name in feeder.names]
    assert torch.equal(load_run(tmp_path / "run").batch(tested).x, expected.x)
