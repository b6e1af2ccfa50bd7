"""What every registered encoder must do, whatever is in it."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from csre import CSRE
from graph import get_skeleton
from model import EncoderError, build_encoder, fitting_window, list_encoders
from tests.model.parity import largest_difference
from tests.model.slim import slim

NUM_CLASSES = 5
WINDOW = 16
"""Short clips keep the suite short; an encoder that needs longer ones gets the shortest that it takes."""

KNOWN_DEAD = {
    "agcn": {
        r"\.tcn\.conv\.bias": "a batch normalisation follows and removes it",
        r"\.(down|residual)\.conv\.bias": "a batch normalisation follows and removes it",
        r"\.gcn\.bias": "a batch normalisation follows and removes it",
    },
    "blockgcn": {
        r"\.tcn\.(entry|convs\.\d)\.bias": "a batch normalisation follows and removes it",
        r"\.(down|residual)\.conv\.bias": "a batch normalisation follows and removes it",
        r"\.gcn\.bias": "a batch normalisation follows and removes it",
        r"^embedding\.(coordinates\.bias|position)$": "the input's batch normalisation, per joint, removes it",
        r"^terms\.linear\.bias": "a batch normalisation follows and removes it",
    },
    "ctrgcn": {
        r"\.tcn\.(entry|convs\.\d)\.bias": "a batch normalisation follows and removes it",
        r"\.(down|residual)\.conv\.bias": "a batch normalisation follows and removes it",
    },
    "dcgcn": {
        r"\.gcn\.transform\.bias": "a batch normalisation follows and removes it",
        r"\.(tcn|down|residual)\.conv\.bias": "a batch normalisation follows and removes it",
    },
    "hdgcn": {
        r"\.(tcn\.(entry|convs\.\d)|(down|residual)\.conv)\.bias": "a batch normalisation follows and removes it",
        r"\.(reduce|subsets)\.bias": "a batch normalisation follows and removes it",
        r"^blocks\.l1\.gcn\.subsets_bn\.bias": "the layers' plain sum, normalised: as above",
    },
    "hypergcn": {
        r"\.(tcn\.(entry|convs\.\d)|(down|residual)\.conv)\.bias": "a batch normalisation follows and removes it",
        r"\.embed\.bias": "shifts all points alike, and their distances stay",
    },
    "hyperformer": {
        r"\.tcn\.(entry|convs\.\d)\.bias": "a batch normalisation follows and removes it",
        r"\.residual\.conv\.bias": "a batch normalisation follows and removes it",
        r"\.attention\.project\.bias": "passes the 1x1 entries of the temporal branches as a constant, as above",
    },
    "infogcn": {
        r"\.(tcn\.(entry|convs\.\d)|(down|residual)\.conv)\.bias": "a batch normalisation follows and removes it",
        r"\.transform_bias": "a batch normalisation follows and removes it",
        r"^embedding\.(position|coordinates\.bias)$": "constant for each statistic of the normalisation that follows",
    },
    "shiftgcn": {
        r"\.gcn\.linear\.bias": "a batch normalisation follows and removes it",
        r"\.(down|residual)\.conv\.bias": "a batch normalisation follows and removes it",
    },
    "skateformer": {r"^reductions\.l\d\.conv\.bias": "a batch normalisation follows and removes it"},
    "stgcnpp": {
        r"\.tcn\.(entry|convs\.\d|transform)\.bias": "a batch normalisation follows and removes it",
        r"\.(down|residual)\.conv\.bias": "a batch normalisation follows and removes it",
    },
    "stgcn": {r"\.(tcn|residual)\.conv\.bias": "a batch normalisation follows and removes it"},
}
"""Per encoder: parameters (patterns of their names) whose gradient is zero in exact arithmetic, and why."""

MERGES_PERSONS = {"hcn"}
"""Encoders with one feature map for all persons of a clip."""


def build(name, graph="nw-ucla", persons=1, window=WINDOW, seed=0, **options):
    torch.manual_seed(seed)
    return build_encoder(
        name,
        skeleton=get_skeleton(graph),
        num_classes=NUM_CLASSES,
        num_persons=persons,
        window=fitting_window(name, window),
        **slim(name) | options,
    )


def clips(encoder, num_clips, seed=1):
    shape = (num_clips, encoder.in_channels, encoder.window, encoder.skeleton.num_joints, encoder.num_persons)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=list_encoders())
def name(request):
    return request.param


@pytest.fixture(scope="module")
def trained(name):
    """An encoder away from its initial values, running statistics included, in evaluation mode; not to be changed."""
    encoder = build(name, persons=2)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for layer in encoder.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.momentum = 0.9  # two batches make the statistics those of clips
        for _ in range(2):
            encoder(clips(encoder, 4))
    return encoder.eval()


@pytest.mark.parametrize("graph", ["ntu", "nw-ucla"])
@pytest.mark.parametrize("persons", [1, 2])
def test_shapes_and_a_batch_of_one(name, graph, persons):
    encoder = build(name, graph, persons).eval()
    for num_clips in (1, 2):
        x = clips(encoder, num_clips)
        with torch.no_grad():
            features = encoder.features(x)
            logits = encoder.classify(features)
            assert features.shape == (num_clips, 1 if name in MERGES_PERSONS else persons, *encoder.feature_shape)
            assert logits.shape == (num_clips, NUM_CLASSES)
            assert torch.equal(encoder(x), logits)
            assert torch.equal(encoder(x, joints=x), logits)


def test_feature_shape_follows_window_and_skeleton(name):
    encoder = build(name, "nw-ucla", persons=1, window=52).eval()
    with torch.no_grad():
        assert encoder.features(clips(encoder, 1)).shape[2:] == encoder.feature_shape


@pytest.mark.parametrize("amp", [False, True])
def test_a_training_step_with_csre(name, amp):
    encoder = build(name).train()
    labels = torch.arange(8) % NUM_CLASSES
    branches = ("spatial", "temporal", "global")
    csre = CSRE(encoder.feature_shape, labels, branches=branches, dim=8, positives=(2, 0), negatives=(2, 2))
    x, indices = clips(encoder, 8), torch.arange(8)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        with torch.no_grad():
            csre(encoder.features(x), labels, indices)  # fills the banks
        features = encoder.features(x)
        losses = csre(features, labels, indices)
        loss = functional.cross_entropy(encoder.classify(features), labels, label_smoothing=encoder.label_smoothing)
        own = encoder.own_losses(labels)
    assert losses.keys() == set(branches)
    for value in losses.values():
        assert torch.isfinite(value)
        assert value > 0
    sum([*losses.values(), *own.values()], start=loss).backward()
    for part in (encoder, csre.heads):
        for parameter_name, parameter in part.named_parameters():
            assert parameter.grad is not None, f"{parameter_name} takes no part"
            assert torch.isfinite(parameter.grad).all(), parameter_name
    assert all(parameter.grad.any() for parameter in csre.heads.parameters())


def test_every_parameter_learns_or_is_known_dead(name, trained):
    encoder = copy.deepcopy(trained).double().train()
    labels = torch.arange(4) % NUM_CLASSES
    functional.cross_entropy(encoder(clips(encoder, 4).double()), labels).backward()
    patterns = list(KNOWN_DEAD.get(name, {}))
    used = set()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, f"{parameter_name} takes no part"
        dead = [pattern for pattern in patterns if re.search(pattern, parameter_name)]
        used.update(dead)
        size = parameter.grad.abs().max().item()
        assert (size < 1e-12) if dead else (size > 1e-9), f"{parameter_name}: largest gradient {size}"
    assert used == set(patterns), "a pattern of KNOWN_DEAD that matches nothing"


def test_evaluation_does_not_depend_on_the_rest_of_the_batch(trained):
    x = clips(trained, 3)
    with torch.no_grad():
        together = trained(x)
        alone = torch.cat([trained(clip) for clip in x.split(1)])
        among_others = trained(torch.cat([x[2:], 3 * x[:2]]))[:1]
    assert largest_difference(alone, together) <= 1e-5
    assert largest_difference(among_others, together[2:]) <= 1e-5
    assert largest_difference(together[:1], together[1:2]) > 1e-3, "the logits say nothing about the clips"


def test_every_person_counts(trained):
    x = clips(trained, 1)
    for person in range(trained.num_persons):
        changed = x.clone()
        changed[..., person] = 0
        with torch.no_grad():
            assert largest_difference(trained(changed), trained(x)) > 1e-3


def test_state_dict_round_trip(name, trained):
    other = build(name, persons=2, seed=3).eval()
    x = clips(trained, 2)
    with torch.no_grad():
        assert not torch.equal(other(x), trained(x))
        other.load_state_dict(trained.state_dict())
        assert torch.equal(other(x), trained(x))


def test_evaluation_leaves_the_state_alone(trained):
    before = copy.deepcopy(trained.state_dict())
    with torch.no_grad():
        trained(clips(trained, 2))
    assert all(torch.equal(tensor, before[key]) for key, tensor in trained.state_dict().items())


def test_bfloat16_autocast(trained):
    x = clips(trained, 4)
    with torch.no_grad():
        exact = trained(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = trained(x)
    assert largest_difference(rounded.float(), exact) <= 0.1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 20, 20, 2), "20 frames .* instead of {T}"),
        ((1, 3, "T", 25, 2), "25 joints instead of 20"),
        ((1, 3, "T", 20, 1), "1 persons .* instead of 2"),
        ((1, 2, "T", 20, 2), "2 channels .* instead of 3"),
        ((3, "T", 20, 2), r"\(3, {T}, 20, 2\), expected \(N, C, T, V, M\) = \(N, 3, {T}, 20, 2\)$"),
    ],
)
def test_clips_of_another_shape_are_refused(trained, shape, message):
    window = trained.window
    other = torch.zeros([window if size == "T" else size for size in shape])
    message = message.replace("{T}", str(window))
    with pytest.raises(EncoderError, match=rf"x has shape .*{message}"):
        trained(other)
    with pytest.raises(EncoderError, match=rf"joints has shape .*{message}"):
        trained(clips(trained, 1), joints=other)


def test_clips_of_two_channels(name):
    encoder = build(name, "coco", in_channels=2).eval()
    x = clips(encoder, 2)
    assert x.shape[1] == 2
    with torch.no_grad():
        assert encoder(x).shape == (2, NUM_CLASSES)
        assert largest_difference(encoder(x * torch.tensor([1, 0]).view(2, 1, 1, 1)), encoder(x)) > 1e-3
    with pytest.raises(EncoderError, match=r"3 channels .* instead of 2"):
        encoder(torch.zeros(1, 3, encoder.window, 17, 1))


def test_a_batch_without_clips_is_refused(trained):
    with pytest.raises(EncoderError, match=r"x has shape \(0, 3, \d+, 20, 2\), an empty batch"):
        trained(clips(trained, 0))


def test_whole_numbers_are_refused(trained):
    with pytest.raises(EncoderError, match=r"x is torch\.int64, expected a float tensor"):
        trained(clips(trained, 1).long())


@pytest.mark.parametrize("argument", ["num_classes", "num_persons", "window", "in_channels"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "2"])
def test_sizes_that_are_not_counts_are_refused(name, argument, value):
    sizes = {"num_classes": 5, "num_persons": 1, "window": 16} | {argument: value}
    with pytest.raises(EncoderError, match=f"{argument}: must be an integer >= 1, got {value!r}"):
        build_encoder(name, skeleton=get_skeleton("ntu"), **sizes)


def test_a_skeleton_by_name_is_refused(name):
    with pytest.raises(EncoderError, match=r"skeleton: 'ntu' is not a graph\.Skeleton; make one with get_skeleton"):
        build_encoder(name, skeleton="ntu", num_classes=5)
