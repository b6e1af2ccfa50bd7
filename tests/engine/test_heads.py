"""Runs with the training heads beside CSRE: alone and together, resumed, over ranks, and gone at test."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint import load_checkpoint
from fusion.scores import load_scores
from tests.engine.child import Accident, start_ranks
from tests.engine.compare import records
from tests.engine.test_faults import TIMING, assert_equal_runs
from tests.heads.shown import ShowingEncoder

LOSSES = {
    "fr_head": ["fr_spatial", "fr_temporal"],
    "skeleton_gcl": ["graph"],
    "acl": ["acl_intra", "acl_inter"],
}
SMALL = {
    "fr_head": ["--fr_head.dim", "24"],
    "skeleton_gcl": [
        *("--skeleton_gcl.dim", "16", "--skeleton_gcl.projection", "trained", "--skeleton_gcl.positives.hard", "3"),
        *("--skeleton_gcl.negatives.hard", "8", "--skeleton_gcl.negatives.random", "8"),
    ],
    "acl": ["--acl.dim", "16", "--acl.memory", "36", "--acl.count_epoch", "1"],
}


def words_for(*heads: str) -> list[str]:
    enabled = [word for head in heads for word in (f"--{head}.enabled", "true")]
    return [*enabled, *(word for head in heads for word in SMALL.get(head, []))]


@pytest.fixture(scope="module")
def config(clip_folder, tmp_path_factory) -> Path:
    """A run whose batches 1 and 2 processes can share, of an encoder that shows stages and relations."""
    folder = tmp_path_factory.mktemp("heads")
    path = folder / "small.yaml"
    path.write_text(
        f"""
        data: {{benchmark: nw-ucla, path: {clip_folder}, window: 12, repeat: 1}}
        model: {{name: "tests.heads.shown:ShowingEncoder"}}
        csre: {{dim: 16, positives: {{hard: 3}}, negatives: {{hard: 8, random: 8}}}}
        optim: {{lr: 0.01, batch_size: 12, epochs: 2, warmup_epochs: 0, milestones: [], sync_batchnorm: true}}
        log: {{every_steps: 1, tsne_clips: 0, figures: false}}
        device: cpu
        work_dir: {folder / "runs"}
        """
    )
    return path


@pytest.fixture
def run(config, tmp_path):
    """Train with some heads in some processes; returns the run folder and the exit codes."""

    def run(name: str, *heads: str, count: int = 1, accident: Accident | None = None, words=()) -> tuple:
        accidents = {0: accident} if accident else None
        command = ["--config", str(config), "--name", name, *words_for(*heads), *words]
        children = start_ranks(count, command, tmp_path, accidents)
        codes, printed = zip(*(child.wait() for child in children), strict=True)
        return config.parent / "runs/nw-ucla" / name, list(codes), printed

    return run


@pytest.mark.parametrize("head", LOSSES)
def test_a_run_interrupted_within_an_epoch_goes_on_to_the_bit(run, head):
    straight, codes, printed = run(f"{head}_straight", head)
    assert codes == [0], printed
    for line in records(straight, "step"):
        terms = ["cross_entropy", *LOSSES[head]]
        assert line["loss"] == pytest.approx(sum(line[name] for name in terms), rel=1e-5)
    assert all(records(straight, "train")[1][name] > 0 for name in LOSSES[head])
    folder, codes, printed = run(f"{head}_cut", head, accident=Accident(9, (signal.SIGTERM,), "train"))
    assert codes == [143], printed
    assert load_checkpoint(folder / "checkpoints/last.pt")["training"]["counters"]["step"] > 0
    folder, codes, printed = run(f"{head}_cut", head)
    assert codes == [0], printed
    assert_equal_runs(straight, folder)


def test_all_heads_add_up_and_two_processes_compute_what_one_does(run):
    heads = ("csre", *LOSSES)
    # Small steps: what float32 rounds otherwise in two processes grows with every step that is made from it.
    alone, codes, printed = run("alone", *heads, words=("--optim.lr", "0.001"))
    assert codes == [0], printed
    names = ["cross_entropy", "spatial", "temporal", *(name for losses in LOSSES.values() for name in losses)]
    for line in records(alone, "step"):
        assert line["loss"] == pytest.approx(sum(line[name] for name in names), rel=1e-5)
    shared, codes, printed = run("shared", *heads, count=2, words=("--optim.lr", "0.001"))
    assert codes == [0, 0], printed
    for kind in ("step", "train"):
        for number, (one, two) in enumerate(zip(records(alone, kind), records(shared, kind), strict=True)):
            if (kind, number) == ("step", 0):  # DistributedDataParallel does not show its first step's map
                one = {name: value for name, value in one.items() if not name.startswith("gradient_")}
            assert one.keys() == two.keys()
            logged = [name for name in one if isinstance(one[name], float) and name not in TIMING]
            assert set(names) < set(logged)
            for name in logged:
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), (kind, name)
    one, two = (load_checkpoint(folder / "checkpoints/last.pt")["training"] for folder in (alone, shared))
    for part in ("encoder", *heads):
        for name, value in one[part].items():
            assert torch.allclose(value.double(), two[part][name].double(), rtol=1e-4, atol=1e-5), (part, name)
    assert json.loads((alone / "results.json").read_text())["heads"] == list(heads)

    weights = load_checkpoint(alone / "checkpoints/last.pt")["encoder"]
    assert weights.keys() == ShowingEncoder.of(num_classes=10, window=12).state_dict().keys()
    tested, codes, printed = run("tested", words=("--phase", "test", "--weights", str(alone / "checkpoints/last.pt")))
    assert codes == [0], printed
    logits = [load_scores(path).logits for path in (alone / "scores_last.npz", tested / "test/scores_test.npz")]
    assert np.array_equal(*logits)
