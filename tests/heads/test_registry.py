"""Heads by their section: what is switched on is built, and what cannot be is refused by name."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from engine.schema import HeadConfig, RunConfig
from heads import HeadError, TrainingHead
from heads.csre import CSREHead
from heads.registry import HEADS, build_heads, head_names, title_of_head
from model import EncoderError
from tests.engine.tiny import TinyEncoder

LABELS = torch.arange(20) % 4


class Silent(TrainingHead):
    """Does nothing; the base of the ones below."""

    def __init__(self, encoder, labels, size=1) -> None:
        super().__init__(encoder, labels)
        if size < 1:
            raise ValueError("size must be an integer >= 1")

    def project(self, observed):
        return {}

    def losses(self, projected, logits, labels, indices, moment, ranks, generator):
        return {}


class ReadsRelations(Silent):
    reads = frozenset({"features", "relations"})


class Astray(Silent):
    def __init__(self, encoder, labels) -> None:
        super().__init__(encoder, labels)
        self.layer = nn.Linear(2, 2)


@pytest.fixture
def encoder():
    from graph import get_skeleton

    return TinyEncoder(skeleton=get_skeleton("nw-ucla"), num_classes=4, num_persons=1, window=8)


def sections(csre=False, own=None, options=None):
    config = RunConfig(head=HeadConfig(own, options or {}))
    config.csre.enabled = csre
    return vars(config)


def test_every_head_has_a_section_that_can_switch_it_on():
    by_name = vars(RunConfig())
    for name in HEADS:
        assert by_name[name].enabled is False
        assert {field.name for field in dataclasses.fields(by_name[name])} > {"enabled"}


def test_only_what_is_on_is_built(encoder):
    assert build_heads(sections(), encoder, LABELS) == {}
    heads = build_heads(sections(csre=True, own=f"{__name__}:Silent", options={"size": 3}), encoder, LABELS)
    assert list(heads) == ["csre", "head"]
    assert isinstance(heads["csre"], CSREHead)
    assert type(heads["head"]).__name__ == "Silent"


def test_titles_are_those_of_what_is_on():
    assert head_names({"csre.enabled": False, "head.name": None}) == []
    settings = {"csre.enabled": True, "head.name": "some.module:Mine"}
    assert head_names(settings) == ["csre", "Mine"]
    assert list(map(title_of_head, head_names(settings))) == ["CSRE", "Mine"]


@pytest.mark.parametrize(
    ("own", "options", "words"),
    [
        (f"{__name__}:ReadsRelations", {}, ("head", "reads relations", "TinyEncoder")),
        (f"{__name__}:Astray", {}, ("head", "layer.weight", "`trained`")),
        (f"{__name__}:Silent", {"size": 0}, ("head", "size must be an integer >= 1")),
        (f"{__name__}:Silent", {"sise": 2}, ("head", "'sise'")),
        (f"{__name__}:Silence", {}, ("no class 'Silence'", "did you mean 'Silent'")),
        ("no_such_module:Head", {}, ("'no_such_module' cannot be imported",)),
        ("torch.nn:Linear", {}, ("not a subclass of heads.TrainingHead",)),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(encoder, own, options, words):
    with pytest.raises(HeadError) as caught:
        build_heads(sections(own=own, options=options), encoder, LABELS)
    assert all(word in str(caught.value) for word in words)


def test_an_encoder_refuses_to_show_what_it_does_not_have(encoder):
    x = torch.randn(2, 3, 8, 20, 1)
    observed = encoder.observe(x)
    assert torch.equal(observed.features, encoder.features(x))
    assert not observed.stages
    assert observed.relations is None
    with pytest.raises(EncoderError, match=r"TinyEncoder shows no stages, only features"):
        encoder.observe(x, reads={"features", "stages"})
