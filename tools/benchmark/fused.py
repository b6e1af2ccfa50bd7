"""The encoders' fused modules against the same modules with each parallel layer by itself, forward + backward.

Modules are those of NTU encoders of 64 frames and two persons, in blocks of every width, with and without stride. Fused
and plain take turns in one run; a ratio above 1 says that the fusion gains.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.arguments import count, duration
from tools.benchmark.encoder import CLIPS
from tools.benchmark.plain_forms import (
    PlainAdaptive,
    PlainBlock,
    PlainBlockGroups,
    PlainDecoupled,
    PlainFree,
    PlainGated,
    PlainHierarchical,
    PlainHypergraph,
    PlainMultiScale,
    PlainRefined,
    PlainShift,
    PlainTransformed,
    share_weights,
)
from tools.benchmark.timing import median_seconds


@dataclass(frozen=True)
class Fusion:
    """What is fused: the module `part` of blocks of an encoder, and how it looks without.

    `blocks` are (name, input channels, input frames).
    """

    encoder: str
    part: str
    plain: Callable[[Any], nn.Module]
    blocks: tuple[tuple[str, int, int], ...]


_KEEPING = (("l2", 64, 64), ("l6", 128, 32), ("l9", 256, 16))
_STRIDED = (("l5", 128, 64), ("l8", 256, 32))
_WIDER = (("l2", 128, 64), ("l6", 256, 32), ("l9", 256, 16))
FUSIONS = {
    "2S-AGCN, three subsets": Fusion("agcn", "gcn", PlainAdaptive, _KEEPING),
    "CTR-GCN, three subsets": Fusion("ctrgcn", "gcn", PlainRefined, _KEEPING),
    "BlockGCN, three subsets": Fusion("blockgcn", "gcn", PlainBlock, _WIDER),
    "BlockGCN, three subsets and eight groups": Fusion("blockgcn", "gcn", PlainBlockGroups, _WIDER),
    "HD-GCN, six layers of three subsets": Fusion("hdgcn", "gcn", PlainHierarchical, _KEEPING),
    "Hyper-GCN, virtual joints": Fusion(
        "hypergcn", "gcn", PlainHypergraph, (("l2", 128, 64), ("l5", 256, 32), ("l9", 256, 16))
    ),
    "InfoGCN, three heads": Fusion("infogcn", "gcn", PlainGated, _KEEPING),
    "DC-GCN, three subsets": Fusion("dcgcn", "gcn", PlainDecoupled, _KEEPING),
    "Shift-GCN, shifts of joints": Fusion("shiftgcn", "gcn", PlainShift, _KEEPING),
    "ST-GCN++, three subsets": Fusion("stgcnpp", "gcn", PlainFree, _KEEPING),
    "ST-GCN++, temporal branches": Fusion("stgcnpp", "tcn", PlainTransformed, (*_KEEPING, *_STRIDED)),
    "CTR-GCN and InfoGCN, temporal branches": Fusion("ctrgcn", "tcn", PlainMultiScale, _KEEPING),
    "the same temporal branches, stride 2": Fusion("ctrgcn", "tcn", PlainMultiScale, _STRIDED),
    "Hyperformer, temporal branches": Fusion(
        "hyperformer", "tcn", PlainMultiScale, (("l2", 216, 64), ("l5", 216, 64), ("l9", 216, 16))
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many clips, and how long to measure."""
    parser.add_argument("--batch", type=count, default=8, help="clips of a batch; default: %(default)s")
    parser.add_argument("--rounds", type=count, default=9, help="turns of each form; medians are reported")
    parser.add_argument("--seconds", type=duration, default=0.1, help="at least so long per turn; default: %(default)s")


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Print plain over fused time of every fusion and block; return them."""
    torch.manual_seed(0)
    clips = CLIPS["ntu"]
    print(f"{arguments.batch} clips, forward + backward:")
    print(f"  {'':42}{'block':>6}{'fused ms':>11}{'plain ms':>11}{'plain / fused':>15}")
    ratios: dict[str, dict[str, float]] = {}
    for title, fusion in FUSIONS.items():
        encoder = clips.build(fusion.encoder).to(device)
        ratios[title] = {}
        for block, channels, frames in fusion.blocks:
            fused, plain = both_forms(encoder.get_submodule(f"blocks.{block}.{fusion.part}"), fusion.plain)
            shape = (arguments.batch * clips.num_persons, channels, encoder.skeleton.num_joints, frames)
            x = torch.randn(shape, device=device, requires_grad=True)
            steps = {"fused": _step(fused, x), "plain": _step(plain.to(device), x)}
            seconds = median_seconds(steps, arguments.rounds, arguments.seconds)
            ratio = ratios[title][block] = seconds["plain"] / seconds["fused"]
            print(f"  {title:42}{block:>6}{seconds['fused'] * 1e3:>11.2f}{seconds['plain'] * 1e3:>11.2f}{ratio:>15.2f}")
    return {"batch": arguments.batch, "plain_over_fused": ratios}


def both_forms(fused: Any, plain_form: Callable[[Any], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """A fused module and its plain form, in training mode, with the same random weights."""
    plain = plain_form(fused)
    share_weights(fused, plain)
    return fused.train(), plain.train()


def _step(module: nn.Module, x: Tensor) -> Callable[[], None]:
    with torch.no_grad():
        gradient = torch.randn_like(module(x))

    def step() -> None:
        module(x).backward(gradient)
        module.zero_grad()
        x.grad = None

    return step
