"""docs/your_own_encoder.md: its encoder is short, keeps the contract and trains with CSRE; its YAML loads."""

from __future__ import annotations

import pytest
import torch

from csre import CSRE
from engine.config import resolve
from graph import get_skeleton
from tests.documents import REPOSITORY, code_block, read, table, train_on_the_demo

PAGE = read("docs/your_own_encoder.md")
CODE = code_block(PAGE, "class GraphEncoder")


def test_it_trains_with_csre_from_the_front_door(demo, tmp_path, monkeypatch):
    encoder_class = train_on_the_demo(CODE, "my_encoder:GraphEncoder", demo, tmp_path, monkeypatch)
    names = encoder_class.__dict__
    assert all(f"`{member}`" in PAGE for member in ("__init__", "feature_shape", "extract", "classify"))
    assert {name for name in names if not name.startswith("_")} == {"feature_shape", "extract", "classify"}


def test_the_class_has_no_more_than_thirty_lines():
    lines = CODE[CODE.index("class GraphEncoder") :].splitlines()
    assert 10 < len([line for line in lines if line.strip()]) <= 30


@pytest.mark.parametrize(("graph", "persons", "window"), [("ntu", 2, 32), ("nw-ucla", 1, 13)])
def test_it_keeps_the_contract(graph, persons, window):
    names = {"__name__": "page"}
    exec(CODE, names)
    torch.manual_seed(0)
    skeleton = get_skeleton(graph)
    encoder = names["GraphEncoder"](skeleton=skeleton, num_classes=4, num_persons=persons, window=window, channels=16)
    x = torch.randn(4, 3, window, skeleton.num_joints, persons)
    features = encoder.features(x)
    assert features.shape == (4, persons, *encoder.feature_shape)
    assert encoder(x).shape == (4, 4)

    csre = CSRE(encoder.feature_shape, torch.arange(4) % 2)
    indices = torch.arange(4)
    csre(features.detach(), indices % 2, indices)  # fills the banks
    sum(csre(features, indices % 2, indices).values()).backward()
    for part in (encoder.grow, encoder.links, encoder.temporal[0].entry):
        weight = part if isinstance(part, torch.Tensor) else part.weight
        assert weight.grad.abs().sum() > 0


def test_the_run_of_the_page_loads(tmp_path):
    text = code_block(PAGE, "my_encoder:GraphEncoder", "yaml").replace("../base", f"{REPOSITORY}/config/base")
    (tmp_path / "mine.yaml").write_text(text)
    resolved = resolve(["--config", str(tmp_path / "mine.yaml")])
    assert resolved is not None
    assert resolved.config.csre.enabled
    assert resolved.config.model.options == {"channels": 32}


def test_both_tables_name_members_of_an_encoder():
    from model import Encoder

    for part in PAGE.split("\n## "):
        if "|---|" in part:
            assert all(hasattr(Encoder, member.partition("(")[0]) for member in table(part))
