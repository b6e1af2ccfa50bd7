"""CSRE over the ranks of a distributed run: losses, gradients and banks are those of one process."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from csre import CSREError, contrast_across_ranks
from tests.csre.scenario import CLIPS, DIM, LABELS, OPTIONS, SHAPE, build, check_against_one_process, run
from tests.csre.worlds import run_world

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
CASES = [*((name, torch.float64) for name in OPTIONS), ("paper", torch.float32), ("once", torch.float32)]


def run_all(sharded):
    return {(name, dtype): run(OPTIONS[name], dtype, sharded) for name, dtype in CASES}


class Projection(nn.Module):
    """What DistributedDataParallel wraps: the heads, without the banks."""

    def __init__(self, csre) -> None:
        super().__init__()
        self.heads = csre.heads
        self.project = csre.project

    def forward(self, features):
        return self.project(features)


def train_heads(steps=6):
    """The heads trained by SGD on random maps: losses, then the parameters at the end and the banks of this rank."""
    csre = build(OPTIONS["paper"], torch.float64)
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    own = slice(rank * CLIPS // world, (rank + 1) * CLIPS // world)
    model = DistributedDataParallel(Projection(csre)) if world > 1 else Projection(csre)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator, data = torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)
    history = []
    for _ in range(steps):
        features = torch.randn(CLIPS, 2, *SHAPE, generator=data, dtype=torch.float64)
        indices = torch.randperm(len(LABELS), generator=data)[:CLIPS]
        queries = model(features[own])
        losses = contrast_across_ranks(csre, queries, LABELS[indices][own], indices[own], generator=generator)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        history.append(torch.stack(list(losses.values())).detach())
    return torch.stack(history), csre.state_dict()


def faults():
    """The messages that each rank gets for inputs that are wrong on some rank."""
    csre = build(OPTIONS["paper"], torch.float32)
    rank = dist.get_rank()
    batches = {
        "unequal": torch.arange(2 + rank),
        "outside": torch.tensor([1, 60 * rank]),
    }
    messages = {}
    for name, indices in batches.items():
        queries = {branch: torch.ones(len(indices), DIM) for branch in csre.heads}
        with pytest.raises(CSREError) as caught:
            contrast_across_ranks(csre, queries, LABELS[indices.clamp(max=59)], indices)
        messages[name] = str(caught.value)
    return messages, csre.banks["spatial"].written.any()


def everything():
    """All of it in one world, since each costs the start of its processes."""
    return run_all(sharded=False), run_all(sharded=True), train_heads(), faults()


@pytest.fixture(scope="module")
def one_process():
    return run_all(sharded=False), train_heads()


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request):
    return [list(parts) for parts in zip(*run_world(request.param, everything), strict=True)]


@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.parametrize("sharded", [False, True])
def test_losses_gradients_and_banks_are_those_of_one_process(one_process, ranks, name, dtype, sharded):
    of_ranks = [part[name, dtype] for part in ranks[int(sharded)]]
    check_against_one_process(one_process[0][name, dtype], of_ranks, TOLERANCE[dtype])
    assert all(run.state is None for run in of_ranks[1:])
    assert all(torch.equal(run.random_state, of_ranks[0].random_state) for run in of_ranks)


def test_ranks_are_unequally_active_and_losses_start_at_zero(one_process):
    """Otherwise the test above would not see a wrong scale."""
    steps = one_process[0]["released", torch.float64].steps
    with_loss = [step.gradients["spatial"].ne(0).any(dim=1) for step in steps]
    for world in (2, 3):
        assert any(len({int(part.sum()) for part in active.chunk(world)}) > 1 for active in with_loss)
    assert steps[0].losses["spatial"] == 0
    assert any(0 < step.active_share["spatial"] < 1 for step in steps)


def test_trained_heads_and_replicated_banks(one_process, ranks):
    losses, state = one_process[1]
    of_ranks = ranks[2]
    torch.testing.assert_close(sum(rank_losses for rank_losses, _ in of_ranks) / len(of_ranks), losses)
    assert losses[-1].ne(0).all()
    for name, value in state.items():
        torch.testing.assert_close(of_ranks[0][1][name], value, rtol=1e-12, atol=1e-12)
        assert all(torch.equal(own[name], of_ranks[0][1][name]) for _, own in of_ranks), name


def test_a_fault_on_one_rank_is_named_on_all_of_them(ranks):
    world = len(ranks[3])
    counts = ", ".join(str(2 + rank) for rank in range(world))
    for messages, written in ranks[3]:
        assert f"the ranks bring {counts} clips" in messages["unequal"]
        assert "index 60 is outside the 60 training indices" in messages["outside"]
        assert not written


def test_without_a_process_group_it_is_the_plain_step():
    csre, plain = (build(OPTIONS["once"], torch.float64) for _ in range(2))
    for module in (csre, plain):
        module.write(
            {name: torch.randn(60, DIM, generator=torch.Generator().manual_seed(1)) for name in csre.heads},
            LABELS,
            torch.arange(60),
        )
    features, indices = torch.randn(CLIPS, 2, *SHAPE, dtype=torch.float64), torch.arange(CLIPS)
    losses = contrast_across_ranks(
        csre, csre.project(features), LABELS[indices], indices, generator=torch.Generator().manual_seed(5)
    )
    expected = plain(features, LABELS[indices], indices, torch.Generator().manual_seed(5))
    assert all(torch.equal(losses[name], expected[name]) and losses[name] > 0 for name in expected)
    assert csre.active_share.keys() == expected.keys()
