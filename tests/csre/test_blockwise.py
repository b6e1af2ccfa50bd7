"""Banks that are compared block by block: the losses and gradients of all similarities at once."""

import pytest
import torch

import csre.contrast
import csre.memory_bank
from csre import MemoryBank
from csre.loss import normalise_rows
from csre.options import ContrastOptions, Counts
from tests.csre.scenario import LABELS, OPTIONS, check_against_one_process, run


@pytest.fixture(params=[1, 5, 41, 1000])
def in_blocks(request, monkeypatch):
    """Every bank counts as large; so many rows (of a batch of 12) make a block."""
    monkeypatch.setattr(csre.contrast, "_AT_ONCE", 0)
    monkeypatch.setattr(csre.contrast, "_BLOCK", 12 * request.param)


@pytest.fixture(scope="module")
def at_once():
    return {name: run(options, torch.float64) for name, options in OPTIONS.items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_losses_and_gradients(at_once, in_blocks, name):
    check_against_one_process(at_once[name], [run(OPTIONS[name], torch.float64)], 1e-12)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_banks_of_half_precision(monkeypatch, stored):
    torch.manual_seed(0)
    bank = MemoryBank(LABELS, 8, stored)
    indices = torch.arange(len(LABELS))
    bank.write(normalise_rows(torch.randn(len(LABELS), 8)), LABELS, indices)
    features = torch.randn(12, 8)
    results = []
    for limit in (csre.contrast._AT_ONCE, 0):
        monkeypatch.setattr(csre.contrast, "_AT_ONCE", limit)
        monkeypatch.setattr(csre.contrast, "_BLOCK", 12 * 7)
        leaf = features.clone().requires_grad_()
        options = ContrastOptions(positives=Counts(4, 0), negatives=Counts(9, 60))
        unit = normalise_rows(leaf)
        (result,) = csre.contrast.contrast([unit], [unit.detach()], LABELS[:12], indices[:12], [bank], options)
        result.loss.backward()
        results.append((result.loss.detach(), leaf.grad))
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert results[0][1].ne(0).any()


def test_written_rows_are_searched_as_they_are_listed(monkeypatch):
    torch.manual_seed(0)
    bank = MemoryBank(LABELS, 2)
    indices = torch.randperm(len(LABELS))[:23]
    bank.write(torch.ones(23, 2), LABELS[indices], indices)
    ranks = torch.randint(23, (4, 50))
    expected = bank.written.nonzero().flatten()[ranks]
    for limit in (csre.memory_bank._LISTED_ROWS, 0):
        monkeypatch.setattr(csre.memory_bank, "_LISTED_ROWS", limit)
        anchors = bank.anchors(torch.ones(23, 2), LABELS[indices], indices)
        assert torch.equal(anchors.written_rows(ranks), expected)
        beyond = anchors.written_rows(torch.tensor([23, 59, 100]))
        assert ((beyond >= 0) & (beyond < len(LABELS))).all()
