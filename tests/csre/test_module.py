"""CSRE as a training loop sees it: losses, gradients, precision, state, errors."""

import copy
import math

import pytest
import torch

from csre import CSRE, CSREError

SHAPE = (16, 5, 4)
SMALL = {"dim": 8, "positives": (4, 0), "negatives": (6, 6)}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def batch(csre, clips=6, dtype=torch.float32):
    """Random maps of random clips, each index once."""
    bank_labels = csre.banks[next(iter(csre.banks))].labels
    indices = torch.randperm(len(bank_labels))[:clips]
    return torch.randn(clips, 2, *SHAPE, dtype=dtype), bank_labels[indices], indices


def filled(**options):
    """A CSRE whose banks have seen every training clip."""
    labels = torch.arange(40) % 4
    csre = CSRE(SHAPE, labels, **SMALL | options)
    indices = torch.arange(len(labels))
    csre(torch.randn(len(labels), 2, *SHAPE), labels, indices)
    return csre


def test_losses_are_scalars_of_every_branch_with_gradients():
    csre = filled()
    features, labels, indices = batch(csre)
    features.requires_grad_()
    losses = csre(features, labels, indices)
    assert list(losses) == ["spatial", "temporal"]
    sum(losses.values()).backward()
    for loss in losses.values():
        assert loss.shape == ()
        # One positive against 12 negatives, cosines between -1 and 1.
        assert math.log1p(12 * math.exp(-2.5)) < loss < math.log1p(12 * math.exp(2.5))
    assert features.grad.abs().sum() > 0
    for name, parameter in csre.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert not any(buffer.requires_grad for buffer in csre.buffers())


def test_mean_similarities_of_what_was_chosen():
    """With all negatives drawn at random, nothing is left to chance; one positive and two hard negatives by sorting."""
    csre = filled(positives=(1, 0), negatives=(2, 40), branches=("spatial",))
    features, labels, indices = batch(csre)
    csre(features, labels, indices)
    bank = csre.banks["spatial"]
    cosines = (csre.project(features)["spatial"] @ bank.rows.T).detach()
    row_labels = bank.labels.sort().values
    own_row = bank.rows_of(indices)
    expected = {"positives": 0.0, "hard_negatives": 0.0, "random_negatives": 0.0}
    for cosine, label, own in zip(cosines, labels, own_row, strict=True):
        mates = (row_labels == label) & (torch.arange(40) != own)
        others = cosine[row_labels != label]
        expected["positives"] += cosine[mates].min() / 6
        expected["hard_negatives"] += others.topk(2).values.mean() / 6
        expected["random_negatives"] += others.mean() / 6
    assert csre.similarity["spatial"].keys() == expected.keys()
    for kind, value in csre.similarity["spatial"].items():
        torch.testing.assert_close(value, torch.as_tensor(expected[kind]))
        assert not value.requires_grad
        assert csre.metrics()[f"similarity_spatial_{kind}"] is value


def test_metrics_before_and_after_a_step():
    csre = filled(branches=("temporal",), weight=0.5)
    assert CSRE(SHAPE, [0, 1]).metrics() == {}
    features, labels, indices = batch(csre)
    losses = csre(features, labels, indices)
    metrics = csre.metrics()
    assert metrics["active_temporal"] == 1
    # 12 negatives, temperature 0.8, weight 0.5
    assert metrics["bound_temporal_lower"].item() == pytest.approx(0.5 * math.log1p(12 * math.exp(-2.5)))
    assert metrics["bound_temporal_upper"].item() == pytest.approx(0.5 * math.log1p(12 * math.exp(2.5)))
    assert metrics["bound_temporal_lower"] < losses["temporal"] < metrics["bound_temporal_upper"]


def test_labels_may_be_a_plain_sequence():
    csre = CSRE(SHAPE, [0, 1, 1, 0], **SMALL)
    csre(torch.randn(2, 1, *SHAPE), torch.tensor([1, 0]), torch.tensor([2, 3]))
    assert csre.banks["spatial"].written.sum() == 2


def test_the_default_bank_has_a_row_of_256_per_training_index():
    csre = CSRE((216, 16, 25), torch.arange(50) % 5)
    assert csre.banks["spatial"].rows.shape == csre.banks["temporal"].rows.shape == (50, 256)
    assert csre.banks["spatial"].rows.dtype == torch.float32


def test_without_partners_the_loss_is_a_differentiable_zero():
    csre = CSRE(SHAPE, torch.arange(40) % 4, **SMALL)
    features = torch.randn(2, 2, *SHAPE, requires_grad=True)
    losses = csre(features, torch.tensor([0, 1]), torch.tensor([0, 1]))  # negatives there are, positives none
    sum(losses.values()).backward()
    assert all(loss.item() == 0 for loss in losses.values())
    assert features.grad.count_nonzero() == 0
    assert csre.active_share["spatial"].item() == 0


def test_active_share_counts_the_clips_with_partners():
    csre = CSRE(SHAPE, torch.tensor([0, 0, 1, 2]), **SMALL)
    csre(torch.randn(4, 2, *SHAPE), torch.tensor([0, 0, 1, 2]), torch.arange(4))
    assert {name: share.item() for name, share in csre.active_share.items()} == {"spatial": 0.5, "temporal": 0.5}
    assert not csre.active_share["spatial"].requires_grad


def test_too_few_skip_waits_for_the_full_counts():
    labels = torch.arange(12) % 3
    skipping = CSRE(SHAPE, labels, dim=8, positives=(3, 0), negatives=(4, 4), too_few="skip", own_row="include")
    features = torch.randn(12, 1, *SHAPE)
    first = skipping(features[:6], labels[:6], torch.arange(6))  # two of every class
    assert all(loss.item() == 0 for loss in first.values())
    second = skipping(features[6:9], labels[6:9], torch.arange(6, 9))  # three of every class, the own one counted
    assert all(loss.item() > 0 for loss in second.values())


def test_the_weight_scales_every_branch():
    losses = []
    for weight in (1.0, 0.5):
        torch.manual_seed(1)
        csre = filled(weight=weight, negatives=(6, 0))
        losses.append(csre(*batch(csre)))
    for name in ("spatial", "temporal"):
        torch.testing.assert_close(losses[1][name], losses[0][name] / 2)


def test_batch_mates_get_no_gradient_through_the_bank():
    """Clips 0 and 1 are positives of one another; the loss of clip 0 alone moves with clip 1, its gradient does not."""
    csre = CSRE(SHAPE, [0, 0, 1], dim=8).double()
    features = torch.randn(3, 1, *SHAPE, dtype=torch.float64, requires_grad=True)
    labels, indices = torch.tensor([0, 0, 1]), torch.arange(3)
    queries = csre.project(features)
    csre.write(queries, labels, indices)
    losses = csre.contrast({name: rows[:1] for name, rows in queries.items()}, labels[:1], indices[:1])
    sum(losses.values()).backward()
    assert features.grad[0].count_nonzero() > 0
    assert features.grad[1:].count_nonzero() == 0


def test_the_three_steps_of_a_distributed_run_give_the_losses_of_one_process():
    """Two ranks write the clips of both, then each contrasts its own; all negatives are taken, so nothing is random."""
    single = filled(negatives=(6, 40)).double()
    ranks = [copy.deepcopy(single) for _ in range(2)]
    features, labels, indices = batch(single, 6, torch.float64)
    whole = single(features, labels, indices)
    halves = [slice(0, 3), slice(3, 6)]
    projected = [rank.project(features[half]) for rank, half in zip(ranks, halves, strict=True)]
    gathered = {name: torch.cat([queries[name] for queries in projected]) for name in whole}
    parts = []
    for rank, half, queries in zip(ranks, halves, projected, strict=True):
        rank.write(gathered, labels, indices)
        parts.append(rank.contrast(queries, labels[half], indices[half]))
    for name, loss in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, loss)
        assert torch.equal(ranks[0].banks[name].rows, ranks[1].banks[name].rows)


@pytest.mark.parametrize("options", [{}, {"denominator": "split", "weight": 0.5, "own_row": "include"}])
def test_twenty_steps_on_free_features_lower_the_loss(options):
    labels = torch.arange(24) % 3
    csre = CSRE(SHAPE, labels, dim=8, positives=(4, 2), negatives=(8, 8), **options)
    features = torch.randn(24, 1, *SHAPE, requires_grad=True)
    optimiser = torch.optim.SGD([features], lr=20.0)
    history = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = sum(csre(features, labels, torch.arange(24)).values())
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < history[0] - 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_contrast_in_single_precision(dtype):
    plain = filled(negatives=(6, 40))
    mixed = copy.deepcopy(plain)
    features, labels, indices = batch(plain)
    expected = plain(features, labels, indices)
    with torch.autocast("cpu", dtype=dtype):
        losses = mixed(features, labels, indices)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.02, atol=0)
        # The rows have full precision: their length is 1 to 1e-6, which a half-precision norm or quotient would miss.
        lengths = mixed.banks[name].rows.norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-6)
    with torch.autocast("cpu", dtype=dtype):
        queries = {name: bank.rows[bank.rows_of(indices)] for name, bank in mixed.banks.items()}
        again = mixed.contrast(queries, labels, indices)
    outside = mixed.contrast(queries, labels, indices)
    assert all(torch.equal(again[name], outside[name]) for name in again)


@pytest.mark.parametrize("bank_dtype", ["float16", "bfloat16"])
def test_a_half_precision_bank_gives_nearly_the_same_losses(bank_dtype):
    losses = []
    for dtype in ("float32", bank_dtype):
        torch.manual_seed(1)
        csre = filled(negatives=(6, 40), bank_dtype=dtype)
        losses.append(csre(*batch(csre)))
        assert csre.banks["spatial"].rows.dtype == getattr(torch, dtype)
    for name in losses[0]:
        assert losses[1][name].dtype == torch.float32
        torch.testing.assert_close(losses[1][name], losses[0][name], rtol=0.01, atol=0)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_clip_without_a_direction_is_left_out_and_nothing_turns_nan(bad):
    csre = filled()
    for head in csre.heads.values():  # so that a zero map gives a zero feature
        torch.nn.init.zeros_(head.reduce.bias)
    before = {name: bank.rows.clone() for name, bank in csre.banks.items()}
    features, labels, indices = batch(csre)
    features[2] = bad
    features.requires_grad_()
    queries = csre.project(features)
    csre.write(queries, labels, indices)
    losses = csre.contrast(queries, labels, indices)
    rows = sum((queries[name] * 0.5).sum() for name in queries) + sum(losses.values())
    (gradient,) = torch.autograd.grad(rows, features)
    assert gradient[[0, 1, 3, 4, 5]].isfinite().all()
    if bad == 0.0:
        assert gradient[2].count_nonzero() == 0
    for name, bank in csre.banks.items():
        assert losses[name].isfinite()
        assert csre.active_share[name].item() == pytest.approx(5 / 6)
        own = bank.rows_of(indices[2])
        assert torch.equal(bank.rows[own], before[name][own])
        assert bank.rows.isfinite().all()


@pytest.mark.parametrize("capacity", [None, 5])
def test_a_resumed_csre_goes_on_bit_for_bit(capacity):
    csre = filled(capacity=capacity)
    resumed = CSRE(SHAPE, torch.arange(40) % 4, capacity=capacity, **SMALL)
    resumed.load_state_dict(csre.state_dict())
    batches = [batch(csre) for _ in range(3)]
    results = []
    for either in (csre, resumed):
        torch.manual_seed(5)
        results.append([either(*one) for one in batches])
    for ours, theirs in zip(*results, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, value in csre.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_losses_may_be_differentiated_later_and_one_by_one():
    """Another batch has changed the banks by then; the gradients are those of the banks that the losses saw."""
    csre = filled(negatives=(6, 40))  # all negatives, so that nothing is random
    features, labels, indices = batch(csre)
    other = copy.deepcopy(csre)
    expected_leaf, leaf = (features.clone().requires_grad_() for _ in range(2))
    sum(other(expected_leaf, labels, indices).values()).backward()
    losses = csre(leaf, labels, indices)
    csre(torch.randn_like(features), labels, indices)
    for loss in losses.values():
        loss.backward()
    torch.testing.assert_close(leaf.grad, expected_leaf.grad)
    assert leaf.grad.ne(0).any()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repeated_negatives": "once", "positives": (2, 2), "branches": ("global",)},
        {"capacity": 5, "denominator": "split", "too_few": "skip", "own_row": "include", "bank_dtype": "bfloat16"},
    ],
)
def test_a_step_reads_no_tensor_on_the_host(options):
    """One graph without breaks: reading a value, or a shape that depends on one, would break it (and stall a GPU)."""
    csre = filled(**options)
    compiled = torch.compile(copy.deepcopy(csre), fullgraph=True, backend="eager")
    features, labels, indices = batch(csre)
    results = []
    for module in (csre, compiled):
        torch.manual_seed(1)
        leaf = features.clone().requires_grad_()
        losses = module(leaf, labels, indices)
        sum(losses.values()).backward()
        results.append((*losses.values(), leaf.grad))
    for plain, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, plain)


def test_random_rows_differ_between_branches_and_steps():
    csre = CSRE(SHAPE, torch.arange(200) % 2, dim=8, negatives=(0, 3))
    for bank in csre.banks.values():
        torch.nn.init.normal_(bank.rows)
        bank.written.fill_(True)
    for head in csre.heads.values():  # both branches get the same feature, so that only the draw can tell them apart
        torch.nn.init.zeros_(head.project.weight)
        torch.nn.init.ones_(head.project.bias)
    csre.banks["temporal"].rows.copy_(csre.banks["spatial"].rows)
    values = [loss.item() for _ in range(3) for loss in csre(*batch(csre)).values()]
    assert len(set(values)) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branches": ("spatial", "tempral")}, "did you mean 'temporal'"),
        ({"branches": "spatial"}, "branches is 'spatial'"),
        ({"branches": ()}, "branches is ()"),
        ({"branches": ("spatial", "spatial")}, "name every branch once"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"negatives": (0, 0)}, "both 0"),
        ({"bank_dtype": "float61"}, "did you mean 'float16'"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"capacity": 1}, "capacity is 1"),
        ({"reduction": 32}, "only 16 channels"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(CSREError) as caught:
        CSRE(SHAPE, [0, 1], **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.randn(2, 2, 16, 5, 3)}, "features has shape (2, 2, 16, 5, 3)"),
        ({"features": torch.randn(4, 16, 5, 4)}, "features has shape (4, 16, 5, 4)"),
        ({"features": torch.randn(0, 2, 16, 5, 4)}, "features has shape (0, 2, 16, 5, 4)"),
        ({"features": torch.ones(2, 2, 16, 5, 4, dtype=torch.int64)}, "features has dtype torch.int64"),
        ({"labels": torch.tensor([0])}, "labels has shape (1,)"),
        ({"indices": torch.tensor([[0, 1]])}, "indices has shape (1, 2)"),
        ({"indices": torch.tensor([0.0, 1.0])}, "indices has dtype torch.float32"),
        ({"indices": torch.tensor([0, 3])}, "index 3 is outside the 3 training indices"),
        ({"indices": torch.tensor([-1, 1])}, "index -1 is outside"),
        ({"labels": torch.tensor([0, 2])}, "index 1 comes with label 2, CSRE was built with label 1"),
    ],
)
def test_bad_batches_are_named(change, message):
    csre = CSRE(SHAPE, [0, 1, 0], **SMALL)
    good = {"features": torch.randn(2, 2, *SHAPE), "labels": torch.tensor([0, 1]), "indices": torch.tensor([0, 1])}
    with pytest.raises(CSREError) as caught:
        csre(**good | change)
    assert message in str(caught.value)
    assert not csre.banks["spatial"].written.any()
