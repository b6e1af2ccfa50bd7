"""Every encoder learns from real clips with CSRE: a few of NW-UCLA's, for a few epochs, through the engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.config import resolve
from engine.experiment import build
from engine.train import forward_backward, update
from feeders import get_benchmark, open_store
from heads import Moment
from model import fitting_window, list_encoders
from tests.documents import REPOSITORY
from tests.model.slim import slim

EPOCHS, BATCH = 5, 8


@pytest.fixture(scope="module")
def store(shared, tmp_path_factory):
    """Two clips of four actions from either training view, one from the test view."""
    clips = shared / "data" / "NW-UCLA" / "all_sqe"
    if not clips.is_dir():
        pytest.skip(f"no clips of NW-UCLA at {clips}")
    folder = tmp_path_factory.mktemp("clips")
    for action in ("01", "05", "08", "12"):
        for view, number in (("01", 2), ("02", 2), ("03", 1)):
            for file in sorted(clips.glob(f"a{action}_*_v{view}.json"))[:number]:
                (folder / file.name).symlink_to(file)
    return open_store(get_benchmark("nw-ucla"), folder).store


@pytest.mark.parametrize("name", list_encoders())
def test_the_losses_fall(name, store):
    file = REPOSITORY / "config" / "nw-ucla" / f"{name}_csre_joint.yaml"
    words = {
        "data.repeat": 1,
        "data.window": fitting_window(name, 16),
        "optim.batch_size": BATCH,
        "optim.warmup_epochs": 0,
        "device": "cpu",
    }
    given = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    config = resolve(["--config", str(file), *given]).config
    config = replace(
        config,
        model=replace(config.model, options=config.model.options | slim(name)),
        # Rates of the recipes are for more clips; Adam's, of HCN, serves as it is.
        optim=replace(config.optim, lr=min(config.optim.lr, 0.01)),
    )
    run = build(config, store=store)
    run.encoder.train()
    steps = run.train_clips.num_batches(BATCH)
    rows = []
    for epoch in range(EPOCHS):
        for number, batch in enumerate(run.train_clips.epoch(epoch, BATCH), start=1):
            step = forward_backward(run, batch, Moment(epoch=epoch + 1, step=number, steps=steps))
            update(run, step)
            assert {"spatial", "temporal"} <= step.losses.keys()
            rows.append([step.loss.item(), step.losses["cross_entropy"].item()])
    means = torch.tensor(rows).unflatten(0, (EPOCHS, steps)).mean(dim=1)
    end = means[-2:].mean(dim=0)
    assert end[1] < means[0, 1], "the cross entropy"
    assert end[0] < means[1, 0], "all losses, from the first epoch on in which the banks are full"
