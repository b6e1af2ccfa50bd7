"""Processes of a run: what they agree on, and how signals ask them to stop. Alone, and two of them."""

from __future__ import annotations

import os
import signal

import pytest
import torch
import torch.distributed as dist

from engine.errors import OtherRankError, RunError, StoppedError
from engine.processes import Processes, StopRequest, device_of, join_processes
from tests.csre.worlds import run_world

ALONE = Processes()


def test_alone_everything_is_its_own():
    assert ALONE.first
    assert ALONE.gather("x") == ["x"]
    assert ALONE.any(True, False) == (True, False)
    assert ALONE.mean([torch.tensor(2.0)]) == [torch.tensor(2.0)]
    assert ALONE.together(lambda: 3) == 3
    with pytest.raises(ValueError, match="as it was"):
        ALONE.together(lambda: int("as it was"))


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes("cpu") as ranks:
        assert ranks == ALONE


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(RunError, match="torch sees no GPU; use --device auto or cpu"):
        device_of("cuda")


@pytest.mark.parametrize("local_rank", [0, 3])
def test_more_processes_than_gpus_are_refused_by_every_rank(monkeypatch, local_rank):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(RunError, match="started 4 processes on a machine with 2 GPUs; use --nproc_per_node=2"):
        device_of("auto", local_rank)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert device_of("auto", 1) == torch.device("cuda", 1)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    with pytest.raises(RunError, match="on a machine with 2 GPUs"):
        device_of("auto", 2)


@pytest.mark.parametrize(
    ("error", "left"),
    [(None, 1), (StoppedError(signal.SIGTERM, "in epoch 1", saved=True), 1), (RunError("of one rank"), 0)],
)
def test_a_rank_leaves_in_order_unless_others_may_wait_for_it(monkeypatch, error, left):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append(1))
    try:
        with join_processes("cpu"):
            if error is not None:
                raise error
    except (StoppedError, RunError) as raised:
        assert raised is error
    assert len(calls) == left


def agree() -> dict:
    """What two processes find out about each other."""
    rank = dist.get_rank()
    ranks = Processes(rank, 2, rank, dist.group.WORLD)
    layer = torch.nn.BatchNorm1d(1)
    layer.running_mean.fill_(rank)
    ranks.share_buffers(layer)
    found = {
        "gather": ranks.gather(rank),
        "any": ranks.any(rank == 1, False),
        "mean": float(ranks.mean([torch.tensor(float(rank))])[0]),
        "shared": float(layer.running_mean),
    }
    try:
        ranks.together(lambda: int("nothing") if rank == 1 else 0)
    except (RunError, OtherRankError) as error:
        found["together"] = f"{type(error).__name__} {error}"
    return found


def test_two_agree():
    first, second = run_world(2, agree)
    common = {"gather": [0, 1], "any": (True, False), "mean": 0.5, "shared": 0.0}
    assert first == common | {"together": "RunError rank 1: invalid literal for int() with base 10: 'nothing'"}
    assert second == common | {"together": "OtherRankError "}


def test_a_signal_is_noted_and_the_handler_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.asked is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == signal.SIGTERM
        error = stop.error("in epoch 1")
        assert error.exit_code == 143
        assert "SIGTERM in epoch 1" in str(error)
    assert signal.getsignal(signal.SIGTERM) == before
