"""The README's code runs, and the files and commands that it names are there."""

from __future__ import annotations

import contextlib
import importlib
import re

import pytest
import torch
from torch import nn

from graph import get_skeleton
from model import list_encoders
from tests.documents import REPOSITORY, code_block, read, train_on_the_demo

README = read("README.md")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
OF_TORCHRUN = {"--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint"}


class ForeignEncoder(nn.Module):
    """Somebody else's network: a map of (N, 2 persons, 64, 16, 25) and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Linear(3, 64)
        self.last = nn.Linear(64, 4)

    def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.grow(clips.movedim(2, -1)).movedim(-1, 2)
        return features, self.last(features.mean(dim=(1, 3, 4)))


def test_csre_goes_into_a_foreign_training_loop():
    torch.manual_seed(0)
    train_labels = torch.arange(32) % 4
    clips = torch.randn(32, 2, 3, 16, 25)
    encoder = ForeignEncoder()
    before = encoder.grow.weight.detach().clone()
    loader = [(clips[part], train_labels[part], part) for part in torch.randperm(32).split(8)]
    names = {"encoder": encoder, "train_labels": train_labels, "loader": loader}
    exec(code_block(README, "train_labels"), names)
    csre = names["csre"]
    assert all(bank.written.all() for bank in csre.banks.values())
    assert all(share == 1 for share in csre.active_share.values())
    assert not torch.equal(before, encoder.grow.weight)
    assert all(parameter.grad.abs().sum() > 0 for parameter in csre.parameters())


def test_an_encoder_of_ones_own_trains_from_the_front_door(demo, tmp_path, monkeypatch):
    code = code_block(README, "TinyEncoder")
    encoder_class = train_on_the_demo(code, "tiny:TinyEncoder", demo, tmp_path, monkeypatch)
    encoder = encoder_class(skeleton=get_skeleton("ntu"), num_classes=3)
    assert encoder(torch.randn(2, 3, 64, 25, 2)).shape == (2, 3)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:config|docs|data)/[\w./-]+\.(?:yaml|md|svg|png)", README))))
def test_every_file_that_is_named_is_there(path):
    assert (REPOSITORY / path).exists()


def test_every_encoder_is_named():
    assert set(list_encoders()) <= set(re.findall(r"`(\w+)`", README))


def test_the_method_stands_as_a_picture_in_the_readme():
    assert re.search(r"!\[[^]]+\]\(docs/method\.svg\)", README)


def test_every_flag_that_is_named_exists(capsys):
    from engine.schema import leaves

    known = {f"--{written}" for key in leaves() for written in (key, key.replace("_", "-"))} | OF_TORCHRUN
    programs = {"tools.benchmark.command", *re.findall(r"python ((?:tools/|data/)?\w+)\.py", README)}
    for program in programs - {"tools/benchmark"}:  # the package of that name holds the command
        with contextlib.suppress(SystemExit):
            importlib.import_module(program.replace("/", ".")).main(["--help"])
        known |= set(FLAG.findall(capsys.readouterr().out))
    named = {flag.rstrip(".") for flag in FLAG.findall(README)}
    assert len(programs) > 8
    assert {flag for flag in named - known if not flag.startswith("--model.options.")} == set()
