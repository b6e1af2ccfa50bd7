"""Banks of which every rank keeps a shard: what is kept, saved and loaded. Their losses are tested in test_ranks.py."""

import pytest
import torch
import torch.distributed as dist

from csre import CSRE, ClassQueue, CSREError, MemoryBank, contrast_across_ranks, gathered_state_dict
from csre import ranks as ranks_module
from csre.loss import normalise_rows
from csre.memory_bank import Shard
from tests.csre.scenario import DIM, LABELS, OPTIONS, SHAPE, build, check_against_one_process, run
from tests.csre.worlds import run_world

RESUMED = {"queue": OPTIONS["queue"], "once": OPTIONS["once"]}


def go_on(starts, steps):
    """Go on from full states with sharded banks."""
    return {name: run(RESUMED[name], torch.float64, True, steps, start) for name, start in starts.items()}


def differentiate_on_one_rank():
    """Only rank 0 runs a backward pass: a collective in it would wait for the others for ever."""
    csre = build({}, torch.float32, (dist.get_rank(), dist.get_world_size()))
    leaves = {name: torch.randn(4, DIM, requires_grad=True) for name in csre.heads}
    indices = torch.arange(4) + 4 * dist.get_rank()
    queries = {name: normalise_rows(leaf) for name, leaf in leaves.items()}
    losses = contrast_across_ranks(csre, queries, LABELS[indices], indices)
    if dist.get_rank() == 0:
        for name in reversed(losses):
            losses[name].backward()
    dist.barrier()
    return [leaf.grad is not None and bool(leaf.grad.ne(0).any()) for leaf in leaves.values()]


def run_in_group():
    """Ranks 1 and 2 of three as a group of their own; what rank 0 is refused."""
    group = dist.new_group([1, 2])
    if dist.get_rank() == 0:
        with pytest.raises(CSREError) as caught:
            gathered_state_dict(build({}, torch.float32), group)
        return str(caught.value)
    return run(RESUMED["once"], torch.float64, True, group=group)


def state_of_half_precision_banks(bank_dtype):
    """The state that rank 0 collects in blocks of 7 rows, and the rows that this rank keeps."""
    ranks_module._BLOCK = 7
    csre = CSRE(SHAPE, LABELS, dim=DIM, bank_dtype=bank_dtype, shard=(dist.get_rank(), dist.get_world_size()))
    queries = {name: normalise_rows(torch.randn(20, DIM)) for name in csre.heads}
    indices = torch.arange(20) + 20 * dist.get_rank()
    contrast_across_ranks(csre, queries, LABELS[indices], indices)
    return gathered_state_dict(csre), csre.banks["spatial"].rows


def three_ranks(starts, steps):
    return (
        go_on(starts, steps),
        differentiate_on_one_rank(),
        run_in_group(),
        [state_of_half_precision_banks(dtype) for dtype in ("float16", "bfloat16")],
    )


@pytest.fixture(scope="module")
def one_process():
    """Uninterrupted runs of one process."""
    return {name: run(options, torch.float64) for name, options in RESUMED.items()}


@pytest.fixture(scope="module")
def ranks():
    """Two steps of one process, then two of three ranks."""
    begun = {name: run(options, torch.float64, steps=slice(0, 2)) for name, options in RESUMED.items()}
    starts = {name: (done.state, done.random_state) for name, done in begun.items()}
    return [list(parts) for parts in zip(*run_world(3, three_ranks, starts, slice(2, 4)), strict=True)]


def test_a_run_goes_on_with_another_number_of_ranks(one_process, ranks):
    """One process, then three ranks, then two: the losses, gradients and banks of an uninterrupted run."""
    starts = {name: (done.state, done.random_state) for name, done in ranks[0][0].items()}
    of_two = run_world(2, go_on, starts, slice(4, None))
    for name, whole in one_process.items():
        assert starts[name][0].keys() == whole.state.keys()
        late = whole._replace(steps=whole.steps[4:])
        check_against_one_process(late, [part[name] for part in of_two], 1e-12)


def test_the_backward_pass_waits_for_no_other_rank(ranks):
    assert ranks[1] == [[True, True], [False, False], [False, False]]


def test_a_group_of_some_ranks(one_process, ranks):
    refused, *of_group = ranks[2]
    assert "not in the group" in refused
    check_against_one_process(one_process["once"], of_group, 1e-12)


def test_half_precision_rows_are_collected_in_rank_order(ranks):
    for collected in zip(*ranks[3], strict=True):
        state = collected[0][0]
        assert torch.equal(state["banks.spatial.rows"], torch.cat([rows for _, rows in collected]))
        assert state["banks.spatial.rows"].ne(0).any(dim=1).all()
        assert [len(rows) for _, rows in collected] == [20, 20, 20]
        assert [other for other, _ in collected[1:]] == [None, None]


def make(kind, shard):
    return MemoryBank(LABELS, 2, shard=shard) if kind == "bank" else ClassQueue(LABELS, 2, capacity=7, shard=shard)


@pytest.mark.parametrize("kind", ["bank", "queue"])
@pytest.mark.parametrize("count", [2, 5])
def test_shards_keep_the_rows_of_the_whole_bank(kind, count):
    """Also where a batch writes a row twice, or rows of one shard only, and nothing for a zero row."""
    torch.manual_seed(0)
    whole = make(kind, Shard(0, 1))
    shards = [make(kind, Shard(rank, count)) for rank in range(count)]
    for _ in range(12):
        indices = torch.randint(len(LABELS), (9,))
        rows = torch.randn(9, 2)
        rows[4] = 0
        for bank in (whole, *shards):
            bank.write(rows, LABELS[indices], indices)
        assert torch.equal(torch.cat([shard.rows for shard in shards]), whole.rows)
        for shard in shards:
            assert torch.equal(shard.written, whole.written)
            assert torch.equal(shard.rows_of(indices), whole.rows_of(indices))
    assert {len(shard.rows) for shard in shards} <= {len(whole.rows) // count, len(whole.rows) // count + 1}


def test_a_full_state_fills_every_shard():
    whole = build({}, torch.float32)
    indices = torch.arange(len(LABELS))
    whole.write({name: normalise_rows(torch.randn(len(LABELS), DIM)) for name in whole.heads}, LABELS, indices)
    shards = [build({}, torch.float32, (rank, 4)) for rank in range(4)]
    for shard in shards:
        shard.load_state_dict(whole.state_dict())
    for name, bank in whole.banks.items():
        assert torch.equal(torch.cat([shard.banks[name].rows for shard in shards]), bank.rows)
        assert bank.rows.ne(0).any(dim=1).all()


def test_without_a_process_group_the_full_state_is_the_state():
    csre = build({}, torch.float32)
    state = gathered_state_dict(csre)
    assert state.keys() == csre.state_dict().keys()
    assert torch.equal(state["banks.spatial.rows"], csre.banks["spatial"].rows)


def test_the_state_of_one_shard_is_refused():
    sharded = build({}, torch.float32, (1, 3))
    for csre in (sharded, build({}, torch.float32)):
        with pytest.raises(CSREError, match=r"banks\.spatial\.rows holds 20 of 60 rows, the shard of one rank"):
            csre.load_state_dict(sharded.state_dict())


def test_one_process_cannot_contrast_with_a_shard():
    csre = build({}, torch.float32, (1, 3))
    with pytest.raises(CSREError, match=r"shard 1 of 3 but this is rank 0 of 1.*contrast_across_ranks"):
        csre(torch.randn(2, 1, *SHAPE), LABELS[:2], torch.arange(2))


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0,), 3])
def test_bad_shards_are_named(shard):
    with pytest.raises(CSREError, match="give a pair"):
        build({}, torch.float32, shard)


def test_more_shards_than_rows_are_refused():
    with pytest.raises(CSREError, match="the bank has 3 rows, too few for 4 shards"):
        MemoryBank([0, 1, 1], 2, shard=Shard(0, 4))
