"""model/evaluation.py: the logits of every encoder, whoever is absent, from the persons that are there."""

from __future__ import annotations

import copy

import pytest
import torch

from model import list_encoders
from model.evaluation import Evaluation
from tests.model.parity import largest_difference
from tests.model.test_every_encoder import build, clips

THERE = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]])
"""Which persons the clips show."""


@pytest.fixture(scope="module", params=list_encoders())
def encoder(request):
    """Away from its initial values; the two persons have other statistics of the input."""
    encoder = build(request.param, persons=2).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for _ in range(3):
            encoder(clips(encoder, 4).double() * torch.tensor([1.0, 3.0]))
    return encoder.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_logits_are_those_of_the_encoder(encoder, dtype, tolerance):
    encoder = copy.deepcopy(encoder).to(dtype)
    before = copy.deepcopy(encoder.state_dict())
    x, joints = (clips(encoder, len(THERE), seed).to(dtype) * THERE[:, None, None, None] for seed in (1, 2))
    with torch.no_grad():
        expected = encoder(x, joints)
    evaluation = Evaluation(encoder)
    for _ in range(2):  # what is kept of the first batch serves the second
        assert largest_difference(evaluation(x, joints), expected) <= tolerance
    assert largest_difference(expected[:1], expected[1:2]) > 1e-4, "the persons do not matter"
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_only_the_persons_that_are_there_are_computed(encoder, monkeypatch):
    if not encoder.persons_apart:
        pytest.skip("the persons of a clip are not computed apart")
    seen = []
    extract = type(encoder).extract
    monkeypatch.setattr(
        type(encoder), "extract", lambda self, x, joints: seen.append(x.shape) or extract(self, x, joints)
    )
    evaluation = Evaluation(encoder)
    x = clips(encoder, len(THERE)).double() * THERE[:, None, None, None]
    for _ in range(2):
        evaluation(x, x)
    joints = encoder.skeleton.num_joints
    counts = (1, 1, *THERE.sum(dim=0).tolist() * 2)  # the absent ones once, then those that are there, by place
    assert seen == [(persons, 3, encoder.window, joints, 1) for persons in counts]


def test_later_weights_are_not_followed(encoder):
    encoder = copy.deepcopy(encoder)
    evaluation = Evaluation(encoder)
    x = clips(encoder, 2).double()
    before = evaluation(x, x)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert torch.equal(evaluation(x, x), before)


def test_convolutions_are_not_chosen_anew_for_every_number_of_persons(encoder, monkeypatch):
    """cuDNN's trials, which training has on, are off while a test computes."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen, features = [], type(encoder).features
    noted = lambda *rest: seen.append(torch.backends.cudnn.benchmark) or features(*rest)  # noqa: E731
    monkeypatch.setattr(type(encoder), "features", noted)
    x = clips(encoder, 2).double()
    Evaluation(encoder)(x, x)
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.benchmark
