"""FR-Head: the numbers of the released code, a plain loop, and what the paper's formulas imply."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from csre.ranks import ALONE
from heads import Moment
from heads.fr_head import Branch, FRHead, published_names, refine
from heads.fr_head_options import FRHeadOptions
from heads.prototypes import Confusion
from tests.heads.fixtures import close, load, normal, part, rule
from tests.heads.shown import ShowingEncoder

VERSIONS = {"V0": "all", "V1": "true_positives", "V2": "prototypes"}
TERMS = ["false_negatives", "false_positives"]
ABLATIONS = {"NO FN": ["false_positives"], "NO FP": ["false_negatives"], "NO FN & FP": []}
FIRST = Moment(epoch=1, step=1, steps=1)
SETS = ["mixed", "all_right", "all_wrong", "one_clip", "wide"]
TAPS = ["small", "one_person", "theta", "ntu_low", "ntu_fin", "ucla_mid", "ucla_fin"]


def options_of(published):
    """Our options for the constants of a fixture."""
    version = published["version"]
    return FRHeadOptions(
        version=VERSIONS.get(version, "true_positives"),
        terms=ABLATIONS.get(version, TERMS),
        threshold=published["pred_threshold"],
        use_p_map=published["use_p_map"],
        alpha=published.get("alp", 0.125),
        temperature=published.get("tmp", 0.125),
        momentum=published.get("mom", 0.9),
    )


@pytest.fixture(scope="module")
def fixture(shared):
    return load(shared / "parity" / "heads" / "fr_head.npz")


@pytest.mark.parametrize("name", SETS)
def test_loss_gradient_and_prototypes_are_the_released_ones(fixture, name):
    meta, arrays = fixture
    given = part(arrays, f"loss/{name}")
    cases = sorted({entry.split("/")[0] for entry in given if "/" in entry})
    assert len(cases) >= (13 if name == "mixed" else 1)
    for case in cases:
        options, expected = options_of(meta["loss"][case]), part(arrays, f"loss/{name}/{case}")
        prototypes = given["prototypes_before"]
        for step, (features, logits, labels) in enumerate(
            zip(given["features"], given["logits"], given["labels"], strict=True)
        ):
            vectors = features.clone().requires_grad_()
            confusion = Confusion.of(logits, labels, options.threshold)
            for kind, members in (("tp", "true_positives"), ("fn", "false_negatives"), ("fp", "false_positives")):
                assert torch.equal(getattr(confusion, members).sum(dim=1), expected[f"num_{kind}"][step])
            refined = refine(vectors, labels, confusion, prototypes, options)
            refined.loss.backward()
            prototypes = refined.prototypes.detach()
            close(refined.loss, expected["loss"][step], 1e-12)
            close(prototypes, expected["prototypes_after"][step], 1e-12)
            close(refined.scores_fn / options.temperature, expected["logits_fn"][step], 1e-12)
            close(refined.scores_fp / options.temperature, expected["logits_fp"][step], 1e-12)
            close(vectors.grad, expected["grad_features"][step], 1e-10)


@pytest.mark.parametrize("case", TAPS)
def test_a_stage_is_the_released_one(fixture, case):
    meta, arrays = fixture
    facts, expected = meta["tap"][case], part(arrays, f"tap/{case}")
    clips, persons, dim = facts["clips"], facts["persons"], facts["dim"]
    shape = (facts["channels"], facts["frames"], facts["joints"])
    xor = facts["weight_seed_xor"]
    branches = nn.ModuleDict({branch: Branch(branch, shape, dim) for branch in ("spatial", "temporal")}).double()
    published = {name: rule(name, size, xor) for name, size in facts["keys"]}
    for name, branch in branches.items():
        table = published_names(f"fin_{name}")
        branch.load_state_dict(
            {ours: published.pop(theirs).reshape(branch.state_dict()[ours].shape) for ours, theirs in table.items()}
        )
    assert not published
    assert sum(parameter.numel() for parameter in branches.parameters()) == facts["params"]
    options = options_of(facts["options"])
    entries = {"spatial": "spatio_cl_net.avg_f", "temporal": "tempor_cl_net.avg_f"}
    prototypes = {name: normal(f"ren_fin.{entry}", (facts["classes"], dim), xor) for name, entry in entries.items()}
    for step in range(facts["steps"]):
        maps = torch.from_numpy(abs(_standard_normal(facts["input_seed"] + step, (clips * persons, *shape)))).double()
        maps.requires_grad_()
        labels = expected["labels"][step]
        confusion = Confusion.of(expected["logits"][step], labels, options.threshold)
        vectors = {name: branch(maps.unflatten(0, (clips, persons)).mean(dim=1)) for name, branch in branches.items()}
        results = {name: refine(vectors[name], labels, confusion, prototypes[name], options) for name in branches}
        loss = results["spatial"].loss + results["temporal"].loss
        branches.zero_grad()
        loss.backward()
        close(loss, expected["loss"][step], 1e-12)
        close(maps.grad.sum(dim=1), expected["maps_grad_sum_c"][step], 1e-10)
        close(maps.grad.sum(dim=(2, 3)), expected["maps_grad_sum_tv"][step], 1e-10)
        close(maps.grad.norm(), expected["maps_grad_norm"][step], 1e-10)
        if "maps_grad" in expected:
            close(maps.grad, expected["maps_grad"][step], 1e-10)
        for name, branch in branches.items():
            close(vectors[name], expected[f"features_{name}"][step], 1e-12)
            close(results[name].loss, expected[f"loss_{name}"][step], 1e-12)
            prototypes[name] = results[name].prototypes.detach()
            after = expected[f"after/{entries[name]}"][step]
            close(prototypes[name][:, : after.shape[1]], after, 1e-12)
            if f"after_norm/{entries[name]}" in expected:
                close(prototypes[name].norm(dim=1), expected[f"after_norm/{entries[name]}"][step], 1e-12)
            state = branch.state_dict()
            for ours, theirs in published_names(f"fin_{name}").items():
                entry = theirs.removeprefix("ren_fin.")
                if f"after/{entry}" in expected:
                    close(state[ours], expected[f"after/{entry}"][step], 1e-12)
                if f"grad_norm/{entry}" in expected:
                    gradient = branch.get_parameter(ours).grad
                    close(gradient.norm(), expected[f"grad_norm/{entry}"][step], 1e-10)
                if f"grad/{entry}" in expected:
                    close(
                        gradient.reshape(expected[f"grad/{entry}"][step].shape), expected[f"grad/{entry}"][step], 1e-10
                    )


def _standard_normal(seed, shape):
    import numpy as np

    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def loop(vectors, logits, labels, prototypes, options):
    """The loss and the new prototypes by loops over clips and classes, straight from the formulas."""
    probabilities = logits.softmax(dim=1)
    predicted = [int(row.argmax()) for row in logits]
    clips, classes = range(len(vectors)), range(len(prototypes))

    def unit(vector):
        return vector / (vector.norm() + 1e-12)

    def mean(members):
        zero = torch.zeros_like(prototypes[0])
        return sum((vectors[i] for i in members), zero) / (len(members) + 1e-12)

    def sets(k):
        right = [i for i in clips if labels[i] == k == predicted[i] and probabilities[i, k] > options.threshold]
        missed = [i for i in clips if labels[i] == k != predicted[i]]
        taken = [i for i in clips if predicted[i] == k != labels[i]]
        return right, missed, taken

    members = [sets(k) for k in classes]
    new = [
        options.momentum * prototypes[k] + (1 - options.momentum) * mean(members[k][0])
        if members[k][0]
        else prototypes[k]
        for k in classes
    ]
    total = 0
    for i in clips:
        y = int(labels[i])
        cosines = torch.stack([unit(vectors[i]) @ unit(new[k]) for k in classes])
        unsure = 1 - probabilities[i, y]
        per_clip = 0
        for term, place, sign in (("false_negatives", 1, 1), ("false_positives", 2, -1)):
            shift = [torch.zeros(()) for _ in classes]
            if term in options.terms and options.version == "prototypes":
                shift = [
                    sign * (unit(new[k]) @ unit(mean(members[k][place]))) - 1 if members[k][place] else torch.zeros(())
                    for k in classes
                ]
            elif term in options.terms and members[y][place]:
                applies = options.version == "all" or i in members[y][0]
                strength = options.alpha * (unsure if options.use_p_map else 1) * applies
                shift[y] = strength * (sign * (unit(vectors[i]) @ unit(mean(members[y][place]))) - 1)
            scores = (cosines + torch.stack([value.to(cosines.dtype) for value in shift])) / options.temperature
            per_clip = per_clip + cross_entropy(scores[None], labels[i : i + 1])
        total = total + (unsure if options.version == "prototypes" else 1) * per_clip
    return total / len(vectors), torch.stack(new)


def random_batch(seed, clips, classes, dim=5):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(clips, classes, generator=rng, dtype=torch.float64)
    labels = torch.randint(classes, (clips,), generator=rng)
    right = torch.rand(clips, generator=rng) < 0.5
    logits[right, labels[right]] += 3
    vectors = torch.randn(clips, dim, generator=rng, dtype=torch.float64)
    prototypes = torch.randn(classes, dim, generator=rng, dtype=torch.float64)
    return vectors, logits, labels, prototypes


def batched(vectors, logits, labels, prototypes, options):
    confusion = Confusion.of(logits, labels, options.threshold)
    return refine(vectors, labels, confusion, prototypes, options)


EVERY_OPTION = [
    FRHeadOptions(version=version, terms=list(terms), use_p_map=use_p_map, threshold=threshold, alpha=0.3)
    for version, terms, use_p_map, threshold in itertools.product(
        VERSIONS.values(), ([], TERMS[:1], TERMS[1:], TERMS), (True, False), (0.0, 0.5)
    )
]


@pytest.mark.parametrize("clips", [1, 3, 12])
def test_the_loop_gives_the_same(clips):
    for seed, options in enumerate(EVERY_OPTION):
        vectors, logits, labels, prototypes = random_batch(seed, clips, 4)
        looped = vectors.clone().requires_grad_()
        expected, new = loop(looped, logits, labels, prototypes, options)
        expected.backward()
        vectors.requires_grad_()
        result = batched(vectors, logits, labels, prototypes, options)
        result.loss.backward()
        torch.testing.assert_close(result.loss, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(result.prototypes, new, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(vectors.grad, looped.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("version", ["all", "true_positives"])
@pytest.mark.parametrize("clips", [1, 6])
def test_without_confused_clips_it_is_twice_the_plain_contrast(version, clips):
    vectors, _, labels, prototypes = random_batch(0, clips, 4)
    logits = 9 * nn.functional.one_hot(labels, 4).double()
    vectors.requires_grad_()
    result = batched(vectors, logits, labels, prototypes, FRHeadOptions(version=version))
    cosines = nn.functional.normalize(vectors) @ nn.functional.normalize(result.prototypes).T
    torch.testing.assert_close(result.loss, 2 * cross_entropy(cosines / 0.125, labels))
    result.loss.backward()
    assert vectors.grad.isfinite().all()


def test_prototypes_without_true_positives_stay_to_the_bit():
    vectors, _, labels, prototypes = random_batch(1, 8, 4)
    logits = -9 * nn.functional.one_hot(labels, 4).double()
    result = batched(vectors, logits, labels, prototypes, FRHeadOptions())
    assert torch.equal(result.prototypes, prototypes)


def test_true_positives_only_needs_true_positives():
    vectors, _, labels, prototypes = random_batch(1, 8, 4)
    logits = -9 * nn.functional.one_hot(labels, 4).double()
    losses = [
        batched(vectors, logits, labels, prototypes, FRHeadOptions(version="true_positives", terms=terms)).loss
        for terms in (TERMS, [])
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("version", VERSIONS.values())
def test_gradient_with_the_update_inside(version):
    vectors, logits, labels, prototypes = random_batch(2, 7, 3)
    options = FRHeadOptions(version=version, alpha=0.5, temperature=0.5)
    torch.autograd.gradcheck(
        lambda vectors: batched(vectors, logits, labels, prototypes, options).loss, vectors.requires_grad_()
    )


def test_the_order_of_the_clips_does_not_matter():
    vectors, logits, labels, prototypes = random_batch(3, 10, 4)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    for options in EVERY_OPTION[::5]:
        result = batched(vectors, logits, labels, prototypes, options)
        shuffled = batched(vectors[order], logits[order], labels[order], prototypes, options)
        torch.testing.assert_close(shuffled.loss, result.loss, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(shuffled.prototypes, result.prototypes, rtol=1e-13, atol=1e-13)


def test_clips_that_are_not_finite_enter_no_prototype():
    vectors, _, labels, prototypes = random_batch(4, 6, 3)
    logits = 9 * nn.functional.one_hot(labels, 3).double()
    expected = batched(vectors[:4], logits[:4], labels[:4], prototypes, FRHeadOptions())
    vectors[4] = torch.nan
    logits[5] = torch.nan
    result = batched(vectors, logits, labels, prototypes, FRHeadOptions())
    torch.testing.assert_close(result.prototypes, expected.prototypes)
    assert not result.loss.isfinite()


@pytest.mark.parametrize(
    ("version", "shares"), [("all", (0.75, 0.75)), ("true_positives", (0.25, 0.5)), ("prototypes", (1, 1))]
)
def test_logged_are_the_shares_of_clips_that_are_corrected(version, shares):
    """Class 0: a right clip and one taken for class 1, which has a right clip, too; class 2: one taken for class 0."""
    labels, predicted = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0])
    head = FRHead(ShowingEncoder.of(num_classes=4), labels, FRHeadOptions(dim=24, version=version))
    vectors = {name: torch.randn(4, 24) for name in head.trained}
    logits = 3 * nn.functional.one_hot(predicted, 4).float()
    head.losses(vectors, logits, labels, torch.arange(4), FIRST, ALONE, torch.Generator())
    metrics = {name: float(value) for name, value in head.metrics().items()}
    assert metrics == {"active_fr_fn": shares[0], "active_fr_fp": shares[1], "fr_classes_updated": 0.5}
