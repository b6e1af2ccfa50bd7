"""Encoders are found by name, by path, or not at all with a hint."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid

import pytest
import torch
from torch import nn

from graph import get_skeleton
from model import Encoder, EncoderError, UnknownEncoderError, build_encoder, list_encoders, register_encoder
from model.ctrgcn import CTRGCN

SIZES = {"num_classes": 4, "num_persons": 1, "window": 8}


class Flat(Encoder):
    """The smallest encoder: the clip itself is its feature map."""

    classifier = "linear"

    def __init__(self, *, skeleton, num_classes, num_persons=2, window=64, scale=1.0) -> None:
        super().__init__(skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window)
        self.scale = scale
        self.linear = nn.Linear(3, num_classes)

    @property
    def feature_shape(self):
        return (3, self.window, self.skeleton.num_joints)

    def extract(self, x, joints):
        return self.scale * joints.permute(0, 4, 1, 2, 3)

    def classify(self, features):
        return self.linear(features.mean(dim=(1, 3, 4)))


class Needy(Flat):
    def __init__(self, *, depth, **rest: object) -> None:
        super().__init__(**rest)


class Demanding(Flat):
    def __init__(self, *, skeleton, num_classes, depth, num_persons=2, window=64) -> None:
        super().__init__(skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window)


@pytest.fixture
def skeleton():
    return get_skeleton("nw-ucla")


def test_ctrgcn_is_registered(skeleton):
    assert "ctrgcn" in list_encoders()
    assert list_encoders() == sorted(list_encoders())
    encoder = build_encoder("ctrgcn", skeleton=skeleton, base_channels=8, **SIZES)
    assert isinstance(encoder, CTRGCN)
    assert encoder.feature_shape == (32, 2, 20)


def test_persons_and_window_have_defaults(skeleton):
    encoder = build_encoder("ctrgcn", skeleton=skeleton, num_classes=4, base_channels=8)
    assert (encoder.num_persons, encoder.window) == (2, 64)


def test_names_are_listed_without_importing_torch():
    code = "import sys, model; model.list_encoders(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("given", ["ctr-gcn", "CTRGCN", "ctrgnc"])
def test_an_unknown_name_lists_the_nearest(skeleton, given):
    with pytest.raises(UnknownEncoderError, match=f"encoder '{given}' is unknown .did you mean 'ctrgcn'"):
        build_encoder(given, skeleton=skeleton, **SIZES)


@pytest.mark.parametrize("given", [["hcn"], 5, None, CTRGCN])
def test_what_is_no_name_is_refused(skeleton, given):
    with pytest.raises(
        EncoderError, match=f"encoder: {re.escape(repr(given))} is not a name; use one of agcn, .*Class$"
    ):
        build_encoder(given, skeleton=skeleton, **SIZES)


def test_an_unknown_option_names_the_valid_ones(skeleton):
    with pytest.raises(
        EncoderError, match=r"no option 'drop_out' .did you mean 'dropout'.*base_channels=64, dropout=0.0"
    ):
        build_encoder("ctrgcn", skeleton=skeleton, drop_out=0.1, **SIZES)


def test_a_class_by_its_path(skeleton):
    encoder = build_encoder("model.ctrgcn:CTRGCN", skeleton=skeleton, base_channels=8, **SIZES)
    assert isinstance(encoder, CTRGCN)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Net", "module 'no_such_module' cannot be imported"),
        ("no_such.module:Net", "put it into the repository's folder or on PYTHONPATH"),
        ("model.ctrgcn:CTRGCM", "has no class 'CTRGCM' .did you mean 'CTRGCN'"),
        ("model.ctrgcn:math", "is not a subclass of model.Encoder"),
        ("torch.nn:Linear", "is not a subclass of model.Encoder"),
        (":Net", "write package.module:Class"),
    ],
)
def test_a_path_that_leads_nowhere(skeleton, path, message):
    with pytest.raises(EncoderError, match=message):
        build_encoder(path, skeleton=skeleton, **SIZES)


def test_a_registered_class_of_ones_own(skeleton, monkeypatch):
    monkeypatch.setattr("model.registry._targets", {})
    register_encoder("flat", Flat)
    register_encoder("flat", Flat)
    assert list_encoders() == ["flat"]
    encoder = build_encoder("flat", skeleton=skeleton, scale=2.0, **SIZES)
    x, joints = torch.rand(2, 3, 8, 20, 1), torch.rand(2, 3, 8, 20, 1)
    torch.testing.assert_close(encoder.features(x, joints=joints)[:, 0], 2 * joints[..., 0])
    torch.testing.assert_close(encoder.features(x)[:, 0], 2 * x[..., 0])
    with pytest.raises(EncoderError, match="'flat' is registered already"):
        register_encoder("flat", "some.module:Net")


def test_options_without_a_default_are_asked_for(skeleton, monkeypatch):
    monkeypatch.setattr("model.registry._targets", {"demanding": Demanding, "needy": Needy})
    with pytest.raises(EncoderError, match="'demanding' needs the option 'depth'"):
        build_encoder("demanding", skeleton=skeleton, **SIZES)
    assert isinstance(build_encoder("needy", skeleton=skeleton, depth=1, **SIZES), Needy)


def test_a_module_that_is_registered_by_path_is_imported_late(skeleton, monkeypatch):
    monkeypatch.setattr("model.registry._targets", {})
    missing = f"missing_{uuid.uuid4().hex}"
    register_encoder("later", f"{missing}:Net")
    assert list_encoders() == ["later"]
    with pytest.raises(EncoderError, match=f"module '{missing}' cannot be imported"):
        build_encoder("later", skeleton=skeleton, **SIZES)
