"""A training step that never waits for the device: what the host reads, and what the device decides by itself."""

from __future__ import annotations

import copy
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

import csre.module
from engine.config import resolve
from engine.experiment import Experiment, build
from engine.logs import SilentLog
from engine.processes import StopRequest
from engine.train import HostCopy, forward_backward, train_epoch, update
from feeders.feeder import Feeder
from heads import Moment
from model.draws import Draws
from tests.engine.compare import equal
from tests.model.slim import some_encoders
from tests.model.test_every_encoder import build as build_encoder
from tests.model.test_every_encoder import clips as clips_of


class HostReads(TorchDispatchMode):
    """Notes every operation for which the host would wait for a GPU: values, numbers of entries, copies to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name, named = operation.overloadpacket.__name__, named or {}
        to_host = name == "_to_copy" and torch.device(named.get("device") or "meta").type == "cpu"
        if to_host or name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"):
            self.seen.append(name)
        return operation(*arguments, **named)


DROPPING = {"dcgcn": {"keep_rate": 0.5}, "hyperformer": {"drop_path": 0.5}, "skateformer": {}}
"""Options with which encoders drop something in training."""


def small(call, *words: str) -> Experiment:
    resolved = resolve(["--config", str(call.config), "--log.every_steps", "1000", *words])
    assert resolved is not None
    return build(resolved.config)


@pytest.mark.parametrize("with_csre", ["false", "true"])
@pytest.mark.parametrize("words", [(), ("--optim.on_non_finite", "skip", "--optim.ema_decay", "0.9")])
def test_a_steady_step_reads_nothing_on_the_host(call, monkeypatch, with_csre, words):
    monkeypatch.setattr(csre.module, "_check_values", lambda *_: None)  # it looks at what is on the CPU alone
    run = small(call, "--csre.enabled", with_csre, "--optim.clip_norm", "1", *words)
    reads, marks, feed = HostReads(), [], Feeder.feed
    monkeypatch.setattr(Feeder, "feed", lambda *rest: marks.append(len(reads.seen)) or feed(*rest))
    with reads:
        train_epoch(run, SilentLog(), StopRequest())
    assert len(marks) == 5
    assert [reads.seen[first:last] for first, last in pairwise(marks)] == [[]] * 4
    assert len(reads.seen) > marks[-1], "the means of the epoch are read, which the count must see"


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_step_that_is_not_finite_changes_nothing(call, optimizer):
    """The very first one, whose optimiser has no state yet, and one after a good one."""
    words = ("--optim.name", optimizer, "--optim.on_non_finite", "skip", "--optim.ema_decay", "0.9")
    run = small(call, "--csre.enabled", "false", *words)
    run.encoder.train()
    batch = run.train_clips.feed(torch.arange(16), 1)
    spoiled = batch._replace(x=batch.x * torch.nan)

    def state() -> dict:
        assert run.average is not None
        of = {"encoder": run.encoder, "average": run.average, "optimizer": run.optimizer}
        return {name: copy.deepcopy(part.state_dict()) for name, part in of.items()}

    def told(batch) -> list[float]:
        return update(run, forward_backward(run, batch, Moment(1, 1, 5))).flags.read()

    for number in range(2):
        assert told(spoiled)[:2] == [1.0, 1.0]
        before = state()
        assert told(spoiled)[0] == 1.0
        assert equal(state(), before)
        skipped, overflowed, loss = told(batch)
        assert (skipped, overflowed) == (0.0, 0.0)
        assert loss > 0
        after = state()
        assert not equal(after["encoder"], before["encoder"])
        assert float(after["average"]["n_averaged"]) == number + 1
    twin = small(call, "--csre.enabled", "false", *words)  # two good steps, and no others
    twin.encoder.train()
    for _ in range(2):
        update(twin, forward_backward(twin, batch, Moment(1, 1, 5)))
    assert equal(twin.encoder.state_dict(), run.encoder.state_dict())
    assert twin.average is not None
    assert equal(twin.average.state_dict(), run.average.state_dict())


def test_numbers_are_told_as_they_were():
    numbers = torch.tensor([1.0, torch.nan])
    told = HostCopy(numbers)
    numbers.zero_()
    assert told.read()[0] == 1.0
    assert told.read()[1] != told.read()[1]


def test_a_compiled_step_logs_what_a_plain_one_does(call, monkeypatch):
    """The gradient of each loss at the encoder's last map among it. No C++ compiler is needed for that."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    logged = []
    for compiled in ("false", "true"):
        run = small(call, "--compile", compiled, "--log.every_steps", "1")
        run.encoder.train()
        step = forward_backward(run, run.train_clips.feed(torch.arange(16), 1), Moment(1, 1, 5))
        logged.append(
            [{name: float(value.detach()) for name, value in of.items()} for of in (step.losses, step.at_features)]
        )
    for plain, compiled in zip(*logged, strict=True):
        assert list(plain) == ["cross_entropy", "spatial", "temporal"]
        assert compiled == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("name", some_encoders("ctrgcn", "dcgcn"))
def test_every_encoder_is_one_graph(name):
    """What `compile` gives to torch.compile, with all that heads may read: fullgraph refuses a break.

    Encoders that drop something draw anew in every step, and are not compiled anew for it.
    """
    torch._dynamo.reset()  # or the encoders, which share code, reach the limit of its versions
    encoder = build_encoder(name, persons=2, **DROPPING.get(name, {})).train()
    compilations = CompileCounter()
    compiled = torch.compile(encoder.observe, backend=compilations, fullgraph=True, dynamic=False)
    x = clips_of(encoder, 2)
    shown = []
    for step in (1, 2):
        results = []
        for observe in (encoder.observe, compiled):
            torch.manual_seed(step)
            encoder.begin_step(2, 2, Draws((0, 2, step)))
            results.append(observe(x, x, encoder.shows).features)
        assert torch.allclose(*results, rtol=1e-5, atol=1e-5)
        shown.append(results[1])
    assert compilations.frame_count == 1
    assert name not in DROPPING or not torch.allclose(*shown, rtol=1e-2, atol=1e-2)
