"""What building a run remarks on, and what it sets for the whole process."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.config import resolve
from engine.experiment import build, remarks_on_ranks
from engine.processes import Processes
from engine.schema import OptimConfig, RunConfig

NORMALISED, PLAIN = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Sequential(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("batch_size", "size", "encoder", "sync", "warned"),
    [
        (64, 8, NORMALISED, False, True),
        (64, 8, NORMALISED, True, False),
        (64, 8, PLAIN, False, False),
        (64, 4, NORMALISED, False, False),
        (8, 1, NORMALISED, False, False),
    ],
)
def test_few_clips_for_batch_normalisation_are_warned_of(batch_size, size, encoder, sync, warned):
    config = RunConfig(optim=OptimConfig(batch_size=batch_size, sync_batchnorm=sync))
    remarks = remarks_on_ranks(config, replace(Processes(), size=size), encoder)
    assert bool(remarks) == warned
    if warned:
        assert remarks[0].startswith("WARNING")
        assert f"{batch_size // size} clips" in remarks[0]
        assert "--optim.sync_batchnorm true" in remarks[0]


@pytest.mark.parametrize("matmul", ["highest", "high"])
def test_matmul_decides_on_tf32_in_convolutions_too(call, monkeypatch, matmul):
    """Which torch has on by itself."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    resolved = resolve(["--config", str(call.config), "--optim.matmul", matmul])
    assert resolved is not None
    build(resolved.config)
    assert torch.backends.cudnn.allow_tf32 == (matmul == "high")


def test_building_a_run_of_several_ranks_waits_for_no_other_rank(call):
    """So that a rank which cannot build it is heard by the others, which would otherwise wait for it."""
    words = ["--config", str(call.config), "--optim.sync_batchnorm", "true"]
    run = build(resolve(words).config, Processes(rank=1, size=2, local_rank=1))  # there is no second process
    assert run.forward.encoder is run.encoder
