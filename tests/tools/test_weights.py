"""The files in weights/: small, tensors alone, and as accurate as the records of their runs say."""

from __future__ import annotations

import json

import pytest
import torch

from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.config import resolve
from engine.evaluate import predict
from engine.predictor import load_run
from engine.schema import OptimConfig, flatten
from feeders import Feeder
from feeders.open import open_store
from tests.tools.test_record import write_run
from tools.record import WEIGHTS, main, ship, weights_page
from tools.runs import REPOSITORY, RESULTS, RecordError, read_json

FILES = sorted(path.relative_to(WEIGHTS).as_posix() for path in WEIGHTS.glob("*/*.pt"))
CLIPS = {"nw-ucla": "data/NW-UCLA/all_sqe"}
"""Benchmark -> its clips in the folder of reference material."""


def record_of_file(file):
    return read_json(RESULTS / file.replace(".pt", ".json"))


def load(file):
    configs = [word for name in record_of_file(file)["config"].split("+") for word in ("--config", REPOSITORY / name)]
    return load_run(WEIGHTS / file, settings=flatten(resolve([*map(str, configs)]).config))


def test_the_page_lists_the_files_as_the_records_say():
    """`python tools/record.py --weights RUN...` makes it anew."""
    page = (WEIGHTS / "README.md").read_text()
    assert FILES
    assert page == weights_page()
    assert all(f"]({file})" in page for file in FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_small_and_holds_tensors_alone(file):
    assert (WEIGHTS / file).stat().st_size <= 6e6
    state = torch.load(WEIGHTS / file, weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) and tensor.isfinite().all() for tensor in state.values())
    assert state.keys() == load(file).encoder.state_dict().keys()


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_as_accurate_as_its_record_to_the_clip(file, shared):
    record, predictor = record_of_file(file), load(file)
    folder = shared / CLIPS[record["benchmark"]]
    if not folder.is_dir():
        pytest.skip(f"no clips at {folder}")
    feeder = Feeder(
        open_store(predictor.benchmark, folder, splits=("test",)).store,
        predictor.benchmark,
        "test",
        stream=record["stream"],
        variant=predictor.settings["data.variant"],
        window=predictor.window,
    )
    logits = predict(predictor.encoder, feeder, OptimConfig(amp="off"), torch.device("cpu"))
    correct = int((torch.from_numpy(logits).argmax(1) == feeder.labels).sum())
    assert correct == sum(last for _, last, _ in record["classes"].values())
    assert 100 * correct / len(logits) == pytest.approx(record["last"]["top1"], abs=1e-3)


@pytest.fixture
def places(tmp_path):
    """In place of results/ and weights/."""
    return tmp_path / "results", tmp_path / "weights"


def test_weights_of_another_training_than_the_recorded_one_are_refused(tmp_path, places):
    folder, (results, weights) = write_run(tmp_path), places
    with pytest.raises(RecordError, match="record the run first"):
        ship([folder], results, weights)
    assert main([str(folder), "--results", str(results)]) == 0
    metrics = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    metrics.write_text("\n".join(json.dumps(line | {"top1": 1.0} if "top1" in line else line) for line in lines))
    with pytest.raises(RecordError, match="of another training"):
        ship([folder], results, weights)


def test_the_weights_of_recorded_runs_and_their_page(tmp_path, places):
    folder, (results, weights) = write_run(tmp_path), places
    last = folder / "checkpoints/last.pt"
    content = load_checkpoint(last)
    tensors = {"weight": torch.ones(2), "running_var": torch.tensor([1.0, 7e4]), "steps": torch.tensor(2**40)}
    save_checkpoint(last, content | {"encoder": tensors})
    assert main([str(folder), "--results", str(results)]) == 0
    ship([folder], results, weights)
    state = torch.load(weights / f"nw-ucla/{folder.name}.pt", weights_only=True)
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "weight": torch.float16,
        "running_var": torch.float32,
        "steps": torch.int64,
    }
    assert all(torch.equal(tensor.to(tensors[name].dtype), tensors[name]) for name, tensor in state.items())
    assert (weights / "README.md").read_text() == weights_page(results, weights)
    assert f"| 75.00 | 100.00 (epoch 2) | 3 | [{folder.name}.pt]" in weights_page(results, weights)


def test_weights_are_of_runs_recorded_in_results_alone(tmp_path, capsys):
    """The page of weights lists all files by the records in results/; those of another folder know none of them."""
    before = (WEIGHTS / "README.md").read_bytes()
    assert main([str(write_run(tmp_path)), "--weights", "--results", str(tmp_path / "other")]) == 2
    assert "--results: weights/ is about the records in results/; omit it" in capsys.readouterr().err
    assert (WEIGHTS / "README.md").read_bytes() == before


@pytest.mark.parametrize("words", [["--commit", "abc"], ["--config", "x.yaml"], ["--replace"]])
def test_options_of_records_are_refused_beside_weights(tmp_path, capsys, words):
    assert main([str(tmp_path / "run"), "--weights", *words]) == 2
    assert f"{words[0]}: is about records, which --weights leaves as they are; omit one" in capsys.readouterr().err
