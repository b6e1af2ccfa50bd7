"""Encoder and head together, from clips to gradients: the numbers of the released codes, with published weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from csre.ranks import ALONE
from graph import get_skeleton
from heads import Moment
from heads.csre_options import NegativesOptions, PositivesOptions
from heads.fr_head import FRHead, published_names
from heads.fr_head_options import FRHeadOptions
from heads.skeleton_gcl import SkeletonGCLHead
from heads.skeleton_gcl_options import SkeletonGCLOptions
from model import build_encoder
from tests.heads.fixtures import close, load, normal, part, rule
from tests.heads.test_fr_head import VERSIONS
from tests.heads.test_skeleton_gcl import fill, give_random_negatives, ruled_bank
from tests.model.parity import SKELETONS, Fixture

TOLERANCE = 1e-9
FIRST = Moment(epoch=1, step=1, steps=1)


class Whole(nn.Module):
    """Encoder and head as one module, so that both run on the same given parameters."""

    def __init__(self, encoder, head) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x, labels, indices):
        observed = self.encoder.observe(x, reads=self.head.reads)
        logits = self.encoder.classify(observed.features)
        projected = self.head.project(observed)
        losses = self.head.losses(projected, logits.detach(), labels, indices, FIRST, ALONE, torch.Generator())
        return logits, observed, losses


def published_encoder(shared, name, graph, classes, persons, window, xor):
    """Our encoder, and its published state by the rule in double precision; the graphs of CTR-GCN are its own."""
    encoder = build_encoder(
        name,
        skeleton=get_skeleton(SKELETONS[graph]),
        num_classes=classes,
        num_persons=persons,
        window=window,
    )
    keys = Fixture(shared / "parity" / "encoders" / f"{name}_{graph}.npz", name, graph).keys
    state = {entry: rule(entry, shape, xor) for entry, shape, _ in keys}
    if name == "ctrgcn":
        graphs = {ours: source.names[0] for ours, source in encoder.published_names().items() if "topology" in ours}
        state |= {theirs: encoder.state_dict()[ours].double() for ours, theirs in graphs.items()}
    return encoder.double().train(), state


def in_our_layout(encoder, state):
    """Our tensors made of published ones, with their gradient."""
    own = encoder.state_dict()
    return {
        f"encoder.{ours}": (
            state[source.names[0]] if len(source.names) == 1 else source.join([state[name] for name in source.names])
        ).reshape(own[ours].shape)
        for ours, source in encoder.published_names().items()
    }


def clips(seed, shape):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if shape[-1] == 2:
        x[1, ..., 1] = 0
    return torch.from_numpy(x).double()


def check_input_gradient(gradient, expected, step):
    close(gradient.sum(dim=2), expected["input_grad_sum_t"][step], TOLERANCE)
    if gradient.shape[-1] == 2:  # how ties within an absent person share the gradient is arbitrary
        gradient = gradient.clone()
        gradient[1, ..., 1] = 0
    close(gradient.norm(), expected["input_grad_norm"][step], TOLERANCE)


def check_norms(leaves, names, expected):
    norms = torch.tensor([-1.0 if leaves[name].grad is None else leaves[name].grad.norm() for name in names])
    close(norms.double(), expected, TOLERANCE)


@pytest.mark.parametrize("graph", ["ucla", "ntu"])
def test_ctrgcn_with_fr_head(shared, graph):
    meta, arrays = load(shared / "parity" / "heads" / "fr_head.npz")
    facts, expected = meta["end"][graph], part(arrays, f"end/{graph}")
    sizes, xor = facts["constructor"], facts["weight_seed_xor"]
    classes, persons, window = sizes["num_class"], sizes["num_person"], sizes["num_frame"]
    encoder, state = published_encoder(shared, "ctrgcn", graph, classes, persons, window, xor)
    options = FRHeadOptions(
        version=VERSIONS[facts["options"]["cl_version"]],
        threshold=facts["options"]["pred_threshold"],
        use_p_map=facts["options"]["use_p_map"],
    )
    head = FRHead(encoder, torch.zeros(1), options).double()
    state |= {entry: rule(entry, shape, xor) for entry, shape in facts["head_keys"]}
    head.load_published(state)
    for place, name in enumerate(head.trained):
        stage, _, branch = name.rpartition("_")
        entry = f"ren_{stage}.{ {'spatial': 'spatio', 'temporal': 'tempor'}[branch] }_cl_net.avg_f"
        head.prototypes[place] = normal(entry, (classes, options.dim), xor)
    whole = Whole(encoder, head)
    of_head = {
        f"head.trained.{name}.{ours}": theirs
        for name in head.trained
        for ours, theirs in published_names(name).items()
        if ours in dict(head.trained[name].named_parameters())
    }
    for step in range(facts["steps"]):
        leaves = {name: value.clone().requires_grad_(value.is_floating_point()) for name, value in state.items()}
        parameters = in_our_layout(encoder, leaves)
        own = dict(whole.named_parameters())
        parameters |= {ours: leaves[theirs].reshape(own[ours].shape) for ours, theirs in of_head.items()}
        parameters = {name: value for name, value in parameters.items() if name in own}
        assert parameters.keys() == own.keys()
        x = clips(facts["input_seed"] + step, (facts["clips"], 3, window, sizes["num_point"], persons))
        x.requires_grad_()
        labels = expected["labels"][step]
        logits, _, losses = functional_call(whole, parameters, (x, labels, torch.arange(len(labels))))
        head_loss = losses["fr_spatial"] + losses["fr_temporal"]
        (cross_entropy(logits, labels) + head_loss).backward()

        assert torch.equal(logits.argmax(dim=1), expected["predicted"][step])
        close(logits, expected["logits"][step], TOLERANCE)
        close(cross_entropy(logits, labels), expected["cross_entropy"][step], TOLERANCE)
        weights = torch.tensor([0.1, 0.2, 0.5, 1.0], dtype=torch.float64)
        per_branch = 0.1 * weights @ expected["branch_losses"][step]
        close(losses["fr_spatial"], per_branch[0], TOLERANCE)
        close(losses["fr_temporal"], per_branch[1], TOLERANCE)
        close(head_loss, expected["head_loss"][step], TOLERANCE)
        norms = head.prototypes.norm(dim=2).unflatten(0, (4, 2))
        close(norms, expected["prototype_norms"][step], TOLERANCE)
        check_norms(leaves, facts["names"], expected["grad_norms"][step])
        check_input_gradient(x.grad, expected, step)


@pytest.mark.parametrize("case", ["ctrgcn_ucla", "ctrgcn_ntu", "agcn_ucla"])
def test_skeleton_gcl(shared, monkeypatch, case):
    meta, arrays = load(shared / "parity" / "heads" / "skeleton_gcl.npz")
    facts, expected = meta["end"][case], part(arrays, f"end/{case}")
    sizes, xor = facts["constructor"], facts["weight_seed_xor"]
    persons, window = sizes["num_person"], facts["frames"]
    name, _, graph = case.partition("_")
    encoder, state = published_encoder(shared, name, graph, sizes["num_class"], persons, window, xor)
    slot_labels, rows, written = ruled_bank(facts, facts["bank_classes"], facts["bank_written"])
    assert torch.equal(slot_labels, expected["slot_labels"])
    assert torch.equal(written, expected["written_before"])
    head = SkeletonGCLHead(
        encoder,
        slot_labels,
        SkeletonGCLOptions(
            temperature=facts["temperature"],
            dim=facts["dim"],
            projection="trained",
            positives=PositivesOptions(facts["positives"], 0),
            negatives=NegativesOptions(facts["negatives"], facts["negatives"]),
        ),
    ).double()
    with torch.no_grad():
        head.projection.weight.copy_(rule("trans.weight", head.projection.weight.shape, xor))
        head.projection.bias.copy_(rule("trans.bias", head.projection.bias.shape, xor))
    fill(head, rows, written)
    whole = Whole(encoder, head)
    bank = head.contrast.banks["graph"]
    for step in range(facts["steps"]):
        leaves = {entry: value.clone().requires_grad_(value.is_floating_point()) for entry, value in state.items()}
        own = dict(whole.named_parameters())
        parameters = {entry: value for entry, value in in_our_layout(encoder, leaves).items() if entry in own}
        x = clips(facts["seed"] + 100 + step, (facts["clips"], 3, window, sizes["num_point"], persons))
        x.requires_grad_()
        labels, indices = expected["labels"][step], expected["index"][step]
        head.zero_grad()
        with monkeypatch.context() as patch:
            give_random_negatives(patch, head, expected["random_positions"][step])
            logits, observed, losses = functional_call(whole, parameters, (x, labels, indices))
        (cross_entropy(logits, labels) + losses["graph"]).backward()

        close(observed.relations, expected["relations"][step], TOLERANCE)
        close(logits, expected["logits"][step], TOLERANCE)
        close(cross_entropy(logits, labels), expected["cross_entropy"][step], TOLERANCE)
        close(losses["graph"], expected["contrast"][step], TOLERANCE)
        close(bank.rows[bank.rows_of(indices)], expected["rows_after"][step], TOLERANCE)
        close(head.projection.weight.grad.norm(), expected["grad_trans_weight_norm"][step], TOLERANCE)
        check_norms(leaves, facts["names"], expected["grad_norms"][step])
        check_input_gradient(x.grad, expected, step)
