"""Starting from weights of another number of classes, with parts of the encoder frozen."""

from __future__ import annotations

import pytest
import torch

from engine.checkpoint import load_checkpoint
from tests.tools.untrained import untrained_run


@pytest.fixture
def weights(tmp_path):
    """A tiny encoder for 12 classes of 25 joints; its convolution does not depend on either."""
    encoder = untrained_run(tmp_path / "other", data__benchmark="demo", model__name="tests.engine.tiny:TinyEncoder")
    return encoder.state_dict(), str(tmp_path / "other/checkpoints/best.pt")


def test_frozen_parts_keep_the_weights_they_start_from(call, run_folder, weights):
    given, path = weights
    done = call("--weights", path, "--optim.freeze", "[norm, conv]", "--optim.epochs", "1")
    assert done.code == 0, done.err
    assert "but their classifier of 12 classes; that of 10 classes starts from scratch" in done.out
    trained = load_checkpoint(run_folder / "checkpoints/last.pt")["encoder"]
    frozen = [name for name in given if not name.startswith("linear.")]
    assert "norm.running_mean" in frozen
    assert all(torch.equal(given[name], trained[name]) for name in frozen)
    assert trained["linear.weight"].shape == (10, 8)


def test_without_freezing_everything_is_trained(call, run_folder, weights):
    given, path = weights
    assert call("--weights", path, "--optim.epochs", "1").code == 0
    trained = load_checkpoint(run_folder / "checkpoints/last.pt")["encoder"]
    for name in ("norm.running_mean", "conv.weight"):
        assert not torch.equal(given[name], trained[name])


def test_weights_and_checkpoints_may_lie_in_the_home_directory(call, run_folder, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("--weights", "~/other/checkpoints/best.pt", "--optim.epochs", "1").code == 0
    checkpoint = f"~/{run_folder.relative_to(tmp_path)}/checkpoints/last.pt"
    done = call("--resume", checkpoint, "--name", "beside", "--optim.epochs", "2")
    assert done.code == 0, done.err
    assert load_checkpoint(run_folder.with_name("beside") / "checkpoints/last.pt")["epoch"] == 2
    done = call("--phase", "test", "--weights", checkpoint, "--name", "tested")
    assert done.code == 0, done.err


def test_a_test_takes_no_weights_of_other_classes(call, weights):
    done = call("--phase", "test", "--weights", weights[1], "--allow-mismatch")
    assert done.code == 2
    assert "12 classes, the encoder has 10" in done.err


def test_unknown_parts_are_refused_with_the_nearest(call):
    done = call("--optim.freeze", "[convv]")
    assert done.code == 2
    assert "no part 'convv' (did you mean 'conv'?)" in done.err
