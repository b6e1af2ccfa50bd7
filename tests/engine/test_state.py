"""A run as a checkpoint and back."""

from __future__ import annotations

import pytest
import torch

from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.config import differing_keys, resolve
from engine.errors import NonFiniteLossError, RunError
from engine.experiment import Experiment, build
from engine.logs import SilentLog
from engine.schema import RunConfig, flatten
from engine.state import name_best, newest_intact, resume, save
from tests.engine.compare import equal


@pytest.fixture
def run(call) -> Experiment:
    return built(call)


def built(call, *words: str) -> Experiment:
    resolved = resolve(["--config", str(call.config), *words])
    assert resolved is not None
    run = build(resolved.config)
    run.folder.create()
    return run


def test_what_is_saved_comes_back(call, run):
    run.counters.trained = 1
    run.sums = {"loss": torch.tensor(3.0)}
    torch.manual_seed(5)
    assert save(run, SilentLog())
    name_best(run, SilentLog())
    assert run.folder.best.samefile(run.folder.checkpoint(1))
    drawn = torch.rand(3)
    other = built(call, "--seed", "1")
    torch.manual_seed(6)
    resume(other, run.folder.last)
    assert torch.equal(torch.rand(3), drawn)
    assert vars(other.counters) == vars(run.counters)
    assert other.sums == {"loss": torch.tensor(3.0)}
    for one, two in ((run.encoder, other.encoder), (run.heads["csre"], other.heads["csre"])):
        assert equal(dict(one.state_dict()), dict(two.state_dict()))


def test_a_run_in_float32_on_the_cpu_goes_on_in_float16_elsewhere(call, run, monkeypatch):
    """`optim.amp: auto` is float32 on the CPU, where the gradient scaler has no state."""
    run.counters.trained = 1
    save(run, SilentLog())
    monkeypatch.setattr("engine.optim.precision", lambda *_: "fp16")
    other = built(call)
    assert other.scaler.is_enabled()
    resume(other, run.folder.last)
    assert other.counters.trained == 1


def test_a_run_that_starts_from_another_folder_has_its_own_best(call, run):
    run.counters.trained, run.counters.tested, run.counters.best_top1 = 1, 1, 90.0
    save(run, SilentLog())
    branch = built(call, "--name", "branch")
    resume(branch, run.folder.last)
    assert (branch.counters.best_top1, branch.counters.tested) == (-1.0, 0)


def test_numbers_that_are_not_finite_are_not_saved(run):
    with torch.no_grad():
        run.encoder.conv.weight[0] = torch.nan
    with pytest.raises(NonFiniteLossError, match=r"encoder.conv.weight is not finite after epoch 0, step 0"):
        save(run, SilentLog())
    assert not run.folder.last.exists()


def test_the_newest_checkpoint_that_can_be_read(tmp_path):
    assert newest_intact(tmp_path) is None
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path / f"epoch_{epoch:04d}.pt", {"epoch": epoch})
    assert newest_intact(tmp_path) == (tmp_path / "epoch_0003.pt", [])
    (tmp_path / "epoch_0003.pt").write_bytes(b"")
    path, lines = newest_intact(tmp_path)
    assert load_checkpoint(path)["epoch"] == 2
    assert len(lines) == 1
    assert "epoch_0003.pt" in lines[0]
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(RunError, match="all checkpoints are damaged"):
        newest_intact(tmp_path)


def test_a_setting_that_an_older_run_did_not_know_had_its_default():
    stored = flatten(RunConfig())
    del stored["head.name"]
    assert differing_keys(stored, RunConfig()) == []
    changed = RunConfig()
    changed.head.name = "my_head:Centres"
    assert differing_keys(stored, changed) == ["head.name: None -> my_head:Centres"]
    assert differing_keys({**stored, "gone": 3}, RunConfig()) == ["gone: 3 -> absent"]
