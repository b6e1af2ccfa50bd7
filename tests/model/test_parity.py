"""Every encoder computes what its published implementation computes, with weights from the importer that users use."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from model import list_encoders, load_published_weights
from model.published_weights import published_state_dict
from tests.model.parity import LABELS, SKELETONS, Fixture, evened, largest_difference, relative_l2


@pytest.fixture(scope="module", params=[(name, graph) for name in list_encoders() for graph in SKELETONS], ids="-".join)
def fixture(request, shared):
    name, graph = request.param
    folder = shared / "parity" / "encoders"
    if not any((folder / f"{name}_{each}.npz").exists() for each in SKELETONS):
        pytest.skip(f"{folder} has no results of a published {name}: nothing to compare with")
    return Fixture(folder / f"{name}_{graph}.npz", name, graph)


@pytest.fixture(scope="module")
def encoder(fixture):
    """Float32, evaluation mode, published weights. Tests that change it take a copy."""
    encoder = fixture.build()
    load_published_weights(encoder, fixture.published_state())
    return encoder.eval()


def test_number_of_parameters(fixture, encoder):
    assert sum(p.numel() for p in encoder.parameters()) == fixture.arrays["params"]


def test_published_names_are_all_used_and_no_others(fixture, encoder):
    named = [name for source in encoder.published_names().values() for name in source.names]
    assert sorted([*named, *encoder.published_aliases()]) == sorted(name for name, _, _ in fixture.keys)


def test_published_weights_come_back_to_the_bit(fixture, encoder):
    given, returned = fixture.published_state(), published_state_dict(encoder)
    assert given.keys() == returned.keys()
    for name, tensor in given.items():
        assert tensor.shape == returned[name].shape, name
        assert tensor.dtype == returned[name].dtype, name
        assert torch.equal(tensor, returned[name]), name


def test_evaluation_in_single_precision(fixture, encoder):
    with torch.no_grad():
        features = encoder.features(fixture.clips(), joints=fixture.joints())
        logits = encoder.classify(features)
    assert features.shape[2:] == encoder.feature_shape
    stored = fixture.terms.stored_features(features.flatten(0, 1))
    assert largest_difference(stored, fixture.expected("features")) <= 5e-4
    assert largest_difference(logits, fixture.expected_double("logits")) <= fixture.terms.logits


def test_training_logits_in_single_precision(fixture, encoder):
    trained = copy.deepcopy(encoder).train()
    x, full = fixture.differentiated()
    logits = trained(x, joints=fixture.joints()).detach()
    assert largest_difference(logits, fixture.expected_double(f"{full}train_logits")) <= fixture.terms.train_logits


def test_double_precision(fixture, encoder):
    double = copy.deepcopy(encoder).double()
    joints = fixture.joints()
    joints = joints if joints is None else joints.double()
    with torch.no_grad():
        logits = double(fixture.clips().double(), joints)
    assert largest_difference(logits, fixture.expected_double("logits")) <= fixture.terms.double

    x, full = fixture.differentiated()
    x = x.double().requires_grad_()
    logits = double.train()(x, joints)
    functional.cross_entropy(logits, LABELS).backward()
    expected = fixture.expected_double(f"{full}train_logits")
    assert largest_difference(logits.detach(), expected) <= fixture.terms.double
    assert x.grad is not None
    gradients = x.grad, fixture.expected_double(f"{full}input_grad")
    if "gradient_ties" in fixture.meta:
        gradients = evened(gradients[0]), evened(gradients[1])
    if fixture.terms.ties:
        gradients = without_absent_person(gradients[0]), without_absent_person(gradients[1])
    assert relative_l2(*gradients) <= fixture.terms.gradient


def without_absent_person(gradient):
    """The gradient of the first clip and of the first person of the second."""
    return torch.cat([gradient[0].flatten(), gradient[1, ..., 0].flatten()])
