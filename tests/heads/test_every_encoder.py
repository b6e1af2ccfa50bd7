"""Every head on every encoder: it trains, or is refused by name."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn.functional import cross_entropy

from csre.ranks import ALONE
from engine.schema import RunConfig
from graph import get_skeleton
from heads import HeadError, Moment
from heads.registry import HEADS, build_heads
from model import build_encoder, fitting_window, list_encoders
from tests import documents
from tests.model.slim import slim
from tests.model.test_observe import STAGE_BLOCKS

READS = {"fr_head": "stages", "skeleton_gcl": "relations", "acl": "relations"}
"""What a head reads beside the features; it is refused where an encoder shows none."""
LABELS = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize("name", list_encoders())
def test_all_heads_that_an_encoder_can_have_train_at_once(name):
    torch.manual_seed(0)
    window = fitting_window(name, 16)
    encoder = build_encoder(
        name, skeleton=get_skeleton("nw-ucla"), num_classes=2, num_persons=1, window=window, **slim(name)
    )
    config = RunConfig()
    for head in HEADS:
        alone = RunConfig()
        getattr(alone, head).enabled = True
        needed = READS.get(head, "features")
        if needed not in encoder.shows:
            with pytest.raises(HeadError, match=f"{head}: .* reads {needed}") as caught:
                build_heads(vars(alone), encoder, LABELS)
            assert type(encoder).__name__ in str(caught.value)
        else:
            getattr(config, head).enabled = True
    config.skeleton_gcl.too_few = "use"
    config.acl.memory = len(LABELS)
    heads = build_heads(vars(config), encoder.train(), LABELS)
    reads = frozenset({"features"}).union(*(head.reads for head in heads.values()))
    x = torch.randn(len(LABELS), 3, window, 20, 1)
    with torch.autocast("cpu", torch.bfloat16):
        observed = encoder.observe(x, reads=reads)
        logits = encoder.classify(observed.features).float()
        projected = {section: head.project(observed) for section, head in heads.items()}
    losses = {"cross_entropy": cross_entropy(logits, LABELS)}
    for section, head in heads.items():
        assert all(vectors.dtype == torch.float32 for vectors in projected[section].values())
        moment = Moment(epoch=31, step=1, steps=1)  # all losses act
        losses |= head.losses(
            projected[section], logits.detach(), LABELS, torch.arange(4), moment, ALONE, torch.Generator()
        )
    assert all(loss > 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for head in heads.values():
        for parameter_name, parameter in head.trained.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name


def rows_of_the_page():
    """What docs/heads.md says that each encoder shows: name -> (stages, relations)."""
    page = documents.read("docs/heads.md")
    rows = documents.table(documents.section(page, "Which encoder shows what"))
    return {name.strip(" `"): tuple(row.values()) for names, row in rows.items() for name in names.split(",")}


@pytest.mark.parametrize("name", list_encoders())
def test_the_page_says_what_an_encoder_shows(name):
    stages, relations = rows_of_the_page()[name]
    window = fitting_window(name, 16)
    encoder = build_encoder(name, skeleton=get_skeleton("nw-ucla"), num_classes=2, num_persons=1, window=window)
    if name in STAGE_BLOCKS:
        assert re.findall(r"\bl\d+", stages) == list(STAGE_BLOCKS[name])
    assert stages.startswith("none") == ("stages" not in encoder.shows)
    assert relations.startswith("none") == ("relations" not in encoder.shows)
