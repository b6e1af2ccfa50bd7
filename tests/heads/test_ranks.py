"""Heads over ranks: 2 and 3 ranks give what one process gives, and a resumed head what an uninterrupted one gives."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from csre.ranks import Ranks
from engine.schema import RunConfig
from heads import Moment
from heads.registry import build_heads
from tests.csre.worlds import run_world
from tests.heads.shown import ShowingEncoder

CLIPS, CLASSES, STEPS = 12, 4, 5
LABELS = torch.arange(36) % CLASSES
SECTIONS = {
    "fr_head_all": ("fr_head", {"version": "all", "dim": 24}),
    "fr_head_true_positives": ("fr_head", {"version": "true_positives", "dim": 24}),
    "fr_head_prototypes": ("fr_head", {"version": "prototypes", "dim": 24, "start_epoch": 1}),
    "fr_head_late": ("fr_head", {"dim": 24, "start_epoch": 2}),
    "skeleton_gcl_frozen": ("skeleton_gcl", {"projection": "frozen", "dim": 16}),
    "skeleton_gcl_trained": ("skeleton_gcl", {"projection": "trained", "dim": 16}),
    "skeleton_gcl_sharded": ("skeleton_gcl", {"projection": "frozen", "dim": 16}),
    "acl": ("acl", {"dim": 16, "memory": 24, "count_epoch": 1}),
}


class Run(NamedTuple):
    """Per step the losses, the gradient to each projection and the metrics; the state at the end."""

    losses: list[dict]
    gradients: list[dict]
    metrics: list[dict]
    state: dict


def build(name):
    section, options = SECTIONS[name]
    config = RunConfig()
    settings = getattr(config, section)
    vars(settings).update(options, enabled=True)
    if section == "skeleton_gcl":
        settings.positives.hard, settings.negatives.hard, settings.negatives.random = 3, 6, 6
        settings.bank.sharded = name.endswith("sharded")
    torch.manual_seed(0)
    encoder = ShowingEncoder.of(num_classes=CLASSES, relation_shape=(2, 20, 20))
    return build_heads(vars(config), encoder, LABELS)[section].double()


def run(name, steps=range(STEPS), start=None):
    """The steps of this process: all clips without a process group, its own part in one."""
    head, ranks = build(name), Ranks.of(None)
    if start is not None:
        head.load_state_dict(start)
    own = slice(ranks.rank * CLIPS // ranks.world, (ranks.rank + 1) * CLIPS // ranks.world)
    dims = dict.fromkeys(head.trained, head.options.dim) if hasattr(head, "options") else {"graph": 16}
    done = Run([], [], [], {})
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        indices = torch.randperm(len(LABELS), generator=rng)[:CLIPS]
        labels = LABELS[indices]
        logits = torch.randn(CLIPS, CLASSES, generator=rng, dtype=torch.float64)
        logits[torch.arange(CLIPS), labels] += 1
        leaves = {
            branch: torch.nn.functional.normalize(torch.randn(CLIPS, dim, generator=rng, dtype=torch.float64))[own]
            for branch, dim in dims.items()
        }
        for leaf in leaves.values():
            leaf.requires_grad_()
        losses = head.losses(leaves, logits[own], labels[own], indices[own], Moment(1 + step // 3, 1, 3), ranks, rng)
        torch.stack(list(losses.values())).sum().backward()
        done.losses.append({name: loss.detach() for name, loss in losses.items()})
        done.gradients.append({branch: leaf.grad for branch, leaf in leaves.items()})
        done.metrics.append({name: value.clone() for name, value in head.metrics().items()})
    return done._replace(state=head.gathered_state_dict() or {})


def all_heads():
    return {name: run(name) for name in SECTIONS}, {name: build(name).state_dict() for name in SECTIONS}


@pytest.fixture(scope="module")
def one():
    return all_heads()[0]


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request):
    return [result for result, _ in run_world(request.param, all_heads)]


@pytest.mark.parametrize("name", SECTIONS)
def test_ranks_together_do_what_one_process_does(one, ranks, name):
    parts, whole = [result[name] for result in ranks], one[name]
    world, close = len(parts), {"rtol": 1e-9, "atol": 1e-12}
    for step in range(STEPS):
        for loss, value in whole.losses[step].items():
            torch.testing.assert_close(sum(part.losses[step][loss] for part in parts) / world, value, **close)
        for branch, gradient in whole.gradients[step].items():
            joined = torch.cat([part.gradients[step][branch] for part in parts]) / world
            torch.testing.assert_close(joined, gradient, **close)
        for metric, value in whole.metrics[step].items():
            mean = sum(part.metrics[step][metric] for part in parts) / world
            torch.testing.assert_close(mean, value, rtol=1e-6, atol=1e-9)
    for entry, value in whole.state.items():
        torch.testing.assert_close(parts[0].state[entry], value, **close)
    assert any(gradient.ne(0).any() for gradients in whole.gradients for gradient in gradients.values())


def test_replicated_state_is_equal_to_the_bit(ranks):
    for name in SECTIONS:
        if "skeleton_gcl" not in name:
            for part in ranks[1:]:
                assert all(torch.equal(value, ranks[0][name].state[entry]) for entry, value in part[name].state.items())


@pytest.mark.parametrize("name", SECTIONS)
def test_a_resumed_head_computes_the_same_bits(one, name):
    first = run(name, range(2))
    rest = run(name, range(2, STEPS), start=first.state)
    for done, kind in equal_fields(rest, one[name]):
        assert done, kind


def equal_fields(rest, whole):
    """Whether each field of a resumed run is the bits of the uninterrupted one."""
    for kind in ("losses", "gradients", "metrics"):
        for resumed, expected in zip(getattr(rest, kind), getattr(whole, kind)[2:], strict=True):
            yield all(torch.equal(resumed[entry], value) for entry, value in expected.items()), kind
    yield all(torch.equal(rest.state[entry], value) for entry, value in whole.state.items()), "state"


def test_an_earlier_epoch_has_no_loss_but_moves_the_prototypes(one):
    late, always = one["fr_head_late"], one["fr_head_all"]
    assert [bool(losses["fr_spatial"]) for losses in late.losses] == [False] * 3 + [True] * 2
    assert all(gradient.eq(0).all() for gradient in late.gradients[0].values())
    assert torch.equal(late.state["prototypes"], always.state["prototypes"])
    assert torch.equal(late.losses[3]["fr_temporal"], always.losses[3]["fr_temporal"])


@pytest.mark.parametrize("name", ["fr_head_all", "acl"])
def test_what_a_skipped_step_did_is_undone(one, name):
    head = build(name)
    head.load_state_dict(one[name].state)
    snapshot = head.snapshot()
    vectors = {branch: torch.randn(CLIPS, head.options.dim, dtype=torch.float64) for branch in head.trained}
    logits = torch.randn(CLIPS, CLASSES, dtype=torch.float64)
    head.losses(
        vectors, logits, LABELS[:CLIPS], torch.arange(CLIPS), Moment(3, 1, 3), Ranks.of(None), torch.Generator()
    )
    assert not torch.equal(head.prototypes, one[name].state["prototypes"])
    changed = {entry: value.clone() for entry, value in head.state_dict().items()}
    head.restore(snapshot, torch.tensor(False))
    assert all(torch.equal(value, changed[entry]) for entry, value in head.state_dict().items())
    head.restore(snapshot, torch.tensor(True))
    assert all(torch.equal(value, one[name].state[entry]) for entry, value in head.state_dict().items())
