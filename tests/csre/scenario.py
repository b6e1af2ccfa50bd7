"""The same epochs of global batches for one process and for ranks: what each step gave, and the state at the end.

Shapes: G clips of a global batch, n of one rank, D dimensions of a feature.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from csre import CSRE, contrast_across_ranks, gathered_state_dict
from csre.loss import normalise_rows
from csre.sampling import Draws

SHAPE = (16, 5, 4)
DIM = 8
CLIPS = 12  # of a global batch; 2 and 3 divide it
LABELS = torch.tensor([3, 0, 1, 0, 1, 3, 0, 0, 1, 4, 1, 0] * 5)  # class 2 is empty
LABELS[-1] = 5

# Every value of every option of the contrast, each branch, both kinds of bank.
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {"positives": (4, 0), "negatives": (6, 6)},
    "released": {
        "positives": (6, 0),
        "negatives": (20, 20),
        "denominator": "split",
        "own_row": "include",
        "too_few": "skip",
        "weight": 0.5,
    },
    "once": {
        "positives": (2, 3),
        "negatives": (8, 12),
        "repeated_negatives": "once",
        "branches": ("global", "temporal"),
        "temperature": 0.5,
    },
    "random": {"positives": (0, 2), "negatives": (0, 5), "positive_reduction": "sum", "branches": ("spatial",)},
    "hard": {"positives": (30, 0), "negatives": (5, 0), "capacity": 9},
    "queue": {"positives": (3, 1), "negatives": (10, 70), "capacity": 5, "too_few": "skip"},
}


class Step(NamedTuple):
    """What one step gave per branch: loss, gradient to the features (n, D), active share, mean similarities."""

    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]
    active_share: dict[str, Tensor]
    similarity: dict[str, dict[str, Tensor]]


class Run(NamedTuple):
    """All steps, the state at the end (None where another rank has it) and the generator's."""

    steps: list[Step]
    state: dict[str, Any] | None
    random_state: Tensor


def build(options: dict[str, Any], dtype: torch.dtype, shard: tuple[int, int] | None = None) -> CSRE:
    """CSRE whose banks keep ``dtype``, the same heads each time."""
    torch.manual_seed(0)
    csre = CSRE(SHAPE, LABELS, dim=DIM, shard=shard, **options)
    return csre.to(dtype)


def global_batches(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Features (G, D) and indices (G,): an epoch, then batches with a zero feature and an index that comes twice."""
    rng = torch.Generator().manual_seed(1)
    batches = []
    for epoch in range(2):
        for indices in torch.randperm(len(LABELS), generator=rng).split(CLIPS):
            features = torch.randn(CLIPS, DIM, generator=rng, dtype=torch.float64).to(dtype)
            if epoch == 1:
                features[3] = 0
                indices[7] = indices[0]
            batches.append((features, indices))
    return batches[:7]


def run(
    options: dict[str, Any],
    dtype: torch.dtype,
    sharded: bool = False,
    steps: slice = slice(None),
    start: tuple[dict[str, Any], Tensor] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Run:
    """The steps of this process: all clips without a process group, the own part in one."""
    distributed = dist.is_initialized()
    rank, world = (dist.get_rank(group), dist.get_world_size(group)) if distributed else (0, 1)
    csre = build(options, dtype, (rank, world) if sharded else None)
    generator = torch.Generator().manual_seed(2)
    if start is not None:
        csre.load_state_dict(start[0])
        generator.set_state(start[1])
    trace = []
    for features, indices in global_batches(dtype)[steps]:
        own = slice(rank * CLIPS // world, (rank + 1) * CLIPS // world)
        leaves = {name: features[own].roll(place, 1).requires_grad_() for place, name in enumerate(csre.heads)}
        queries = {name: normalise_rows(leaf) for name, leaf in leaves.items()}
        labels = LABELS[indices]
        if distributed:
            losses = contrast_across_ranks(csre, queries, labels[own], indices[own], group, generator)
        else:
            csre.write(queries, labels, indices)
            losses = csre.contrast(queries, labels, indices, Draws(generator))
        torch.stack(list(losses.values())).sum().backward()
        trace.append(
            Step(
                {name: loss.detach() for name, loss in losses.items()},
                {name: leaf.grad for name, leaf in leaves.items()},
                dict(csre.active_share),
                dict(csre.similarity),
            )
        )
    state = gathered_state_dict(csre, group) if distributed else csre.state_dict()
    return Run(trace, state, generator.get_state())


def check_against_one_process(one: Run, ranks: list[Run], tolerance: float) -> None:
    """Averaged over the ranks, losses and gradients are those of one process; so is the state of rank 0."""
    close = {"rtol": tolerance, "atol": tolerance}
    world = len(ranks)
    for place, expected in enumerate(one.steps):
        parts = [rank.steps[place] for rank in ranks]
        for name, loss in expected.losses.items():
            torch.testing.assert_close(sum(part.losses[name] for part in parts) / world, loss, **close)
            gradient = torch.cat([part.gradients[name] for part in parts]) / world
            torch.testing.assert_close(gradient, expected.gradients[name], **close)
            assert all(torch.equal(part.active_share[name], expected.active_share[name]) for part in parts)
            for kind, value in expected.similarity[name].items():
                mean = sum(part.similarity[name][kind] for part in parts) / world
                torch.testing.assert_close(mean, value, **close)
    assert ranks[0].state.keys() == one.state.keys()
    for name, value in one.state.items():
        torch.testing.assert_close(ranks[0].state[name], value, **close)
