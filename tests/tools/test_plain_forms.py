"""What the fusions are measured against computes the same as the fused modules: outputs and gradients."""

from __future__ import annotations

import pytest
import torch

from graph import get_skeleton
from model import build_encoder
from tests.model.parity import largest_difference
from tools.benchmark.fused import FUSIONS, both_forms

CASES = [
    pytest.param(fusion, block, channels, id=f"{title}, {block}")
    for title, fusion in FUSIONS.items()
    for block, channels, _ in fusion.blocks
]


@pytest.mark.parametrize(("fusion", "block", "channels"), CASES)
def test_plain_and_fused_are_one_function(fusion, block, channels):
    torch.manual_seed(0)
    encoder = build_encoder(fusion.encoder, skeleton=get_skeleton("nw-ucla"), num_classes=3, num_persons=1, window=8)
    forms = both_forms(encoder.get_submodule(f"blocks.{block}.{fusion.part}"), fusion.plain)
    x = torch.randn(2, channels, 20, 5, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in forms]
    outputs = [form.double()(given) for form, given in zip(forms, inputs, strict=True)]
    assert largest_difference(*outputs) <= 1e-12
    assert outputs[0].std() > 0.01, "so near to zero, anything would agree"
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    assert largest_difference(inputs[0].grad, inputs[1].grad) <= 1e-10
