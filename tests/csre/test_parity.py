"""Parity with the numbers of the released code: STFD heads, selections, losses and gradients, in double precision."""

import json
import zlib

import numpy as np
import pytest
import torch

from csre import ContrastOptions, Counts, MemoryBank, ProjectionHead, load_published_heads
from csre.contrast import Compared, losses_of_queries
from csre.loss import mean_over_active, normalise_rows, similarities
from csre.sampling import Choice, Selection, active_anchors, choose
from tools.benchmark.plain_contrast import reference_contrast

HEAD_CASES = ["small", "one_person", "ntu", "ucla"]
LOSS_CASES = ["all_written", "some_unwritten", "some_skipped", "none_valid", "own_slot", "all_negatives", "full_size"]
PUBLISHED = {
    "spatial": {"conv1": "reduce", "convs": "project"},
    "temporal": {"conv2": "reduce", "convt": "project"},
}
# What a form of the fixtures changes in the options; "hard" and "random" tell which negatives it uses (default: both).
FORMS = {
    "split": {"denominator": "split"},
    "released": {"denominator": "split"},
    "hard_only": {"denominator": "split", "random": False},
    "random_only": {"denominator": "split", "hard": False},
    "joint_sum": {"positive_reduction": "sum"},
    "joint_mean": {},
    "joint_set_sum": {"positive_reduction": "sum", "repeated_negatives": "once"},
    "joint_set_mean": {"repeated_negatives": "once"},
}


def load_case(path, case):
    with np.load(path) as archive:
        meta = json.loads(str(archive["meta"]))["cases"][case]
        arrays = {name.removeprefix(f"{case}/"): archive[name] for name in archive.files if name.startswith(f"{case}/")}
    return meta, arrays


def rule_weight(name, shape):
    """The fixtures' rule for weights; the head's entries are of two of its kinds only."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return torch.from_numpy((scale * rng.standard_normal(shape)).astype(np.float32))


def close(actual, expected, tolerance=1e-12):
    """Within ``tolerance`` of the largest expected value, or of 1 if that is smaller."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("case", HEAD_CASES)
def test_heads_give_the_released_values_and_gradients(shared, case):
    meta, expected = load_case(shared / "parity" / "csre_head.npz", case)
    clips, persons, channels = meta["batch"], meta["persons"], meta["channels"]
    shape = (channels, meta["frames"], meta["joints"])
    heads = torch.nn.ModuleDict(
        {branch: ProjectionHead(branch, shape, meta["out"], meta["reduction"]) for branch in PUBLISHED}
    )
    load_published_heads(heads, {name: rule_weight(name, size) for name, size in meta["keys"]})
    heads.double()
    rng = np.random.default_rng(meta["input_seed"])
    drawn = rng.standard_normal((clips * persons, *shape)).astype(np.float32)
    x = torch.from_numpy(drawn).double().requires_grad_()
    seeds = {branch: torch.from_numpy(rng.standard_normal((clips, meta["out"]))) for branch in PUBLISHED}

    maps = x.unflatten(0, (clips, persons))
    outputs = {branch: head(maps) for branch, head in heads.items()}
    sum((outputs[branch] * seeds[branch]).sum() for branch in PUBLISHED).backward()

    close(outputs["spatial"], expected["s"])
    close(outputs["temporal"], expected["t"])
    close(heads["spatial"](x[:, None]), expected["s_person"])
    close(heads["temporal"](x[:, None]), expected["t_person"])
    close(x.grad.mean(dim=2), expected["x_grad_mean_t"])
    close(x.grad.mean(dim=3), expected["x_grad_mean_v"])
    for branch, layers in PUBLISHED.items():
        for published_name, layer in layers.items():
            for kind in ("weight", "bias"):
                gradient = heads[branch].get_parameter(f"{layer}.{kind}").grad
                entry = f"{published_name}.{kind}"
                close(gradient.norm(), expected[f"grad_norm/{entry}"])
                if f"grad/{entry}" in expected:
                    close(gradient, expected[f"grad/{entry}"])


def full_size_bank(meta):
    rng = np.random.default_rng(meta["seed"])
    labels = rng.integers(0, meta["classes"], meta["slots"])
    bank = rng.standard_normal((meta["slots"], meta["dim"]))
    return labels, bank / np.linalg.norm(bank, axis=1, keepdims=True)


@pytest.fixture(params=LOSS_CASES)
def loss_case(request, shared):
    """Meta data, tensors and the bank before the batch was written to it, of one case."""
    meta, arrays = load_case(shared / "parity" / "csre_loss.npz", request.param)
    if "bank_before" not in arrays:
        labels, arrays["bank_before"] = full_size_bank(meta)
        np.testing.assert_array_equal(labels, arrays["slot_labels"])
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    bank = MemoryBank(tensors["slot_labels"], meta["dim"], torch.float64)
    order = tensors["slot_labels"].argsort(stable=True)
    bank.rows.copy_(tensors["bank_before"][order])
    bank.written.copy_(tensors["written_before"][order])
    return meta, tensors, bank, order


def options_of(meta, changes):
    changes = {"hard": True, "random": True} | changes
    return ContrastOptions(
        temperature=meta["T"],
        positives=Counts(meta["positives"], 0),
        negatives=Counts(meta["hard"] * changes.pop("hard"), meta["random"] * changes.pop("random")),
        own_row="include",
        too_few="skip",
        **changes,
    )


def run_to_choice(loss_case, options):
    """Write the batch, then choose rows; the random negatives are the fixture's."""
    _, tensors, bank, order = loss_case
    query = tensors["query"].clone().requires_grad_()
    unit = normalise_rows(query)
    bank.write(unit, tensors["query_labels"], tensors["index"])
    similarity = similarities([unit], [bank.rows])[0]
    anchors = bank.anchors(unit, tensors["query_labels"], tensors["index"])
    choice = choose(similarity, anchors, options)
    if options.negatives.random:
        slots = tensors["random_slots"]
        rows = order.argsort()[slots.clamp(min=0)]
        choice = choice._replace(random_negatives=Selection(rows, slots >= 0))
    return query, unit, similarity, choice, active_anchors(anchors, options)


def test_selections_match_exactly(loss_case):
    meta, tensors, bank, order = loss_case
    _, _, similarity, choice, active = run_to_choice(loss_case, options_of(meta, {}))
    valid = tensors["valid"]
    assert torch.equal(active, valid)
    for selection, expected in ((choice.positives, "positive_slots"), (choice.hard_negatives, "hard_slots")):
        assert selection.valid[valid].all()
        assert torch.equal(order[selection.rows][valid], tensors[expected][valid])
    if "bank_after" in tensors:
        close(bank.rows[bank.written], tensors["bank_after"][order][bank.written])
        close(similarity, tensors["similarity"][:, order])
    assert torch.equal(bank.written, tensors["written_after"][order])


def test_random_positions_count_the_written_negatives(loss_case):
    """Guards the reading of the fixture itself: positions are taken in the ascending list of written negatives."""
    _, tensors, _, _ = loss_case
    for anchor in tensors["valid"].nonzero().flatten():
        other_class = tensors["slot_labels"] != tensors["query_labels"][anchor]
        negatives = (tensors["written_after"] & other_class).nonzero().flatten()
        assert torch.equal(negatives[tensors["random_positions"][anchor]], tensors["random_slots"][anchor])


@pytest.mark.parametrize("form", FORMS)
def test_losses_and_gradients(loss_case, form):
    meta, tensors, bank, _ = loss_case
    options = options_of(meta, FORMS[form])
    query, unit, similarity, choice, active = run_to_choice(loss_case, options)
    of_branches = Choice(*(Selection(rows[None], valid[None]) for rows, valid in choice))
    compared = Compared(similarity.gather(1, choice.joined().rows)[None], of_branches)
    (losses,) = losses_of_queries([unit], compared, [bank], options)
    loss = mean_over_active(losses, active, active.sum())
    loss.backward()
    close(loss.detach(), tensors[f"loss_{form}"])
    close(query.grad, tensors[f"grad_{form}"])


@pytest.mark.parametrize("form", FORMS)
def test_the_reference_loop_gives_them_too(loss_case, form):
    meta, tensors, _, _ = loss_case
    options = options_of(meta, FORMS[form])
    query = tensors["query"].clone().requires_grad_()
    given = tensors["random_slots"].tolist() if options.negatives.random else [[]] * len(query)
    loss, active = reference_contrast(
        query,
        tensors["query_labels"],
        tensors["index"],
        tensors["bank_before"].clone(),
        tensors["written_before"].clone(),
        tensors["slot_labels"],
        options,
        random_negatives=given,
    )
    loss.backward()
    assert active == tensors["valid"].nonzero().flatten().tolist()
    close(loss.detach(), tensors[f"loss_{form}"])
    close(query.grad, tensors[f"grad_{form}"])
