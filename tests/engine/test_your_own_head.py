"""docs/your_own_head.md: its head is short, trains along, resumes bit for bit, and is gone at test."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch

import engine.experiment
from engine.checkpoint import load_checkpoint
from engine.config import resolve
from heads import TrainingHead
from tests.documents import REPOSITORY, code_block, read, table
from tests.engine.compare import equal

PAGE = read("docs/your_own_head.md")
CODE = code_block(PAGE, "class Centres")


@pytest.fixture
def words(tmp_path, monkeypatch):
    """What switches the head of the page on, on the command line."""
    (tmp_path / "my_head.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield ("--head.name", "my_head:Centres", "--head.options", "{dim: 8}")
    sys.modules.pop("my_head", None)


def checkpoint(folder):
    return load_checkpoint(folder / "checkpoints/last.pt")


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def test_the_class_has_no_more_than_thirty_lines():
    lines = CODE[CODE.index("class Centres") :].splitlines()
    assert 10 < len([line for line in lines if line.strip()]) <= 30


@pytest.mark.parametrize("csre", ["true", "false"])
def test_it_trains_along_and_resumes_bit_for_bit(call, run_folder, words, csre):
    words = (*words, "--csre.enabled", csre)
    assert call(*words, "--optim.epochs", "4", "--name", "straight").code == 0
    assert call(*words, "--optim.epochs", "1").code == 0
    first = checkpoint(run_folder)["training"]["head"]
    done = call(*words, "--optim.epochs", "4")
    assert "resuming after epoch 1" in done.out
    straight, resumed = checkpoint(run_folder.with_name("straight")), checkpoint(run_folder)
    assert equal(straight["training"], resumed["training"])
    assert resumed["training"]["head"].keys() == {"trained.weight", "trained.bias", "centres"}
    for name, value in resumed["training"]["head"].items():
        assert not torch.equal(value, first[name]), name
    for line in losses(run_folder):
        terms = [line[name] for name in ("cross_entropy", "centre", "spatial", "temporal") if name in line]
        assert line["centre"] > 0
        assert line["loss"] == pytest.approx(sum(terms))


def test_it_is_gone_at_test(call, run_folder, words, monkeypatch):
    call(*words, "--csre.enabled", "false", "--optim.epochs", "1")
    assert not [name for name in checkpoint(run_folder)["encoder"] if "trained" in name or "centre" in name]
    monkeypatch.setattr(engine.experiment, "build_heads", lambda *_: pytest.fail("a test builds no head"))
    assert call("--phase", "test").code == 0


def test_a_skipped_step_leaves_its_state_as_it_was(call, run_folder, words, monkeypatch):
    """All steps but the first are not finite: the centres are those of the first step alone."""
    from feeders.feeder import Feeder

    feed, steps = Feeder.feed, []

    def poisoned(self, indices, *rest):
        batch = feed(self, indices, *rest)
        if self.split == "train":
            steps.append(1)
            batch.x.mul_(torch.nan if len(steps) > 1 else 1)
        return batch

    monkeypatch.setattr(Feeder, "feed", poisoned)
    words = (*words, "--csre.enabled", "false", "--optim.on_non_finite", "skip", "--optim.epochs", "1")
    assert call(*words).code == 0
    centres = checkpoint(run_folder)["training"]["head"]["centres"]
    assert centres.isfinite().all()
    assert 0 < centres.norm(dim=1).max() <= 0.1 + 1e-6


def test_the_run_of_the_page_loads(tmp_path):
    text = code_block(PAGE, "my_head:Centres", "yaml").replace("../base", f"{REPOSITORY}/config/base")
    (tmp_path / "mine.yaml").write_text(text)
    resolved = resolve(["--config", str(tmp_path / "mine.yaml")])
    assert resolved is not None
    assert resolved.config.head.name == "my_head:Centres"
    assert resolved.config.head.options == {"dim": 32, "weight": 0.2}


def test_both_tables_name_members_of_a_head():
    for part in PAGE.split("\n## "):
        if "|---|" in part:
            members = [name for row in table(part) for name in re.findall(r"\w+", row) if name != "__init__"]
            assert members
            assert all(hasattr(TrainingHead, name) or name in TrainingHead.__annotations__ for name in members)
