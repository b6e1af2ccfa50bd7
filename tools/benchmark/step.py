"""Whole training steps with and without a training head: forward, losses, backward, optimiser, at the published batch.

The head is CSRE unless `--head` names another. Banks are filled beforehand, as after the first epoch. Memory is what a
step holds at its peak beyond what stands already (weights, optimiser state, banks). Clips are generated and on the
device: what reading them costs is the subject `data`. Beside the ratios measured with CSRE stand those of the paper
(Table 8, NTU RGB+D 120, minutes per epoch).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.arguments import count, duration
from csre import CSRE, BankContrast
from csre.loss import normalise_rows
from csre.ranks import ALONE
from engine.schema import RunConfig
from heads import HeadError, Moment, TrainingHead
from heads.registry import HEADS, build_heads
from model import Encoder, list_encoders
from tools.benchmark.encoder import CLIPS, example
from tools.benchmark.memory import peak_bytes
from tools.benchmark.timing import median_seconds

DIM = 256
"""Of a contrasted feature."""
ROWS = {"ntu": 40_091, "nw-ucla": 5_100}
"""Training clips, repeats included: NTU RGB+D 60 X-Sub and NW-UCLA."""
BATCH = {"ntu": 64, "nw-ucla": 16}
PUBLISHED_RATIOS = {"agcn": 8.8 / 5.1, "ctrgcn": 23.5 / 19.9}
"""Minutes per epoch with CSRE over minutes without."""
LATE = Moment(epoch=31, step=2, steps=3)
"""All losses of all heads act."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which encoders, and the clips that they get."""
    parser.add_argument("--encoders", nargs="+", default=list_encoders(), metavar="NAME", help="default: all")
    parser.add_argument("--benchmark", choices=list(CLIPS), default="nw-ucla", help="whose clips; default: %(default)s")
    parser.add_argument("--head", choices=list(HEADS), default="csre", help="default: %(default)s")
    parser.add_argument("--batch", type=count, help="clips of a batch; default: 64 for ntu, 16 for nw-ucla")
    parser.add_argument(
        "--rows", type=count, help="rows of memory banks; default: the training clips of NTU60, NW-UCLA"
    )
    parser.add_argument("--amp", action="store_true", help="encoder and heads under bfloat16 autocast")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="processor time of all threads instead of wall-clock time: steadier where other programs share the CPU",
    )
    parser.add_argument("--rounds", type=count, default=5, help="turns that each step has; medians are reported")
    parser.add_argument("--seconds", type=duration, default=0.3, help="at least so long per turn; default: %(default)s")


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Print the table; return its numbers, those of each encoder under its name."""
    clips = CLIPS[arguments.benchmark]
    batch = arguments.batch or BATCH[arguments.benchmark]
    rows = arguments.rows or ROWS[arguments.benchmark]
    clock = time.process_time if arguments.processor_time else time.perf_counter
    results: dict[str, dict[str, float]] = {}
    print(f"{arguments.benchmark}, {batch} clips, {'bfloat16' if arguments.amp else 'float32'}, banks of {rows:,} rows")
    title, published_ratios = f"+ {HEADS[arguments.head].title}", PUBLISHED_RATIOS if arguments.head == "csre" else {}
    width = len(title) + 3
    print(f"{'encoder':12}{'ms':>9}{title:>{width}}{'ratio':>8}{'paper':>8}{'clips/s':>10}{'MiB':>8}{title:>{width}}")
    for name in arguments.encoders:
        torch.manual_seed(0)
        encoder = clips.build(name).to(device)
        labels = torch.arange(rows) % clips.num_classes
        try:
            heads = {arguments.head: filled_head(arguments.head, encoder, labels).to(device)}
        except HeadError as error:
            print(f"{name:12} {error}")
            continue
        x = example(encoder, batch).to(device)
        indices = torch.arange(batch, device=device) % rows
        classes = labels.to(device)[indices]
        steps = {
            "plain": training_step(encoder, {}, x, classes, indices, arguments.amp),
            "head": training_step(encoder, heads, x, classes, indices, arguments.amp),
        }
        seconds = median_seconds(steps, arguments.rounds, arguments.seconds, clock)
        peaks = {what: peak_bytes(step, device) for what, step in steps.items()}
        results[name] = row = {
            "ms": 1e3 * seconds["plain"],
            "head_ms": 1e3 * seconds["head"],
            "ratio": seconds["head"] / seconds["plain"],
            "clips_per_second": batch / seconds["plain"],
            "peak_bytes": peaks["plain"],
            "head_peak_bytes": peaks["head"],
        }
        published = f"{published_ratios[name]:.2f}" if name in published_ratios else "-"
        print(
            f"{name:12}{row['ms']:>9.1f}{row['head_ms']:>{width}.1f}{row['ratio']:>8.3f}{published:>8}"
            f"{row['clips_per_second']:>10.1f}{row['peak_bytes'] / 2**20:>8.0f}"
            f"{row['head_peak_bytes'] / 2**20:>{width}.0f}",
            flush=True,
        )
    facts = {"benchmark": arguments.benchmark, "head": arguments.head, "batch": batch, "rows": rows}
    return {**facts, "amp": arguments.amp, "encoders": results}


def training_step(
    encoder: Encoder, heads: Mapping[str, TrainingHead], x: Tensor, labels: Tensor, indices: Tensor, amp: bool
) -> Callable[[], None]:
    """A step on x (N, 3, T, V, M) with labels (N,), whose rows of the banks are indices (N,)."""
    trained = [encoder, *(head.trained for head in heads.values())]
    parameters = [parameter for module in trained for parameter in module.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=4e-4, fused=True)
    reads = frozenset({"features"}).union(*(head.reads for head in heads.values()))
    generator = torch.Generator(x.device)
    encoder.train()

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
            observed = encoder.observe(x, reads=reads)
            logits = encoder.classify(observed.features).float()
            projected = {name: head.project(observed) for name, head in heads.items()}
            loss = cross_entropy(logits, labels, label_smoothing=encoder.label_smoothing)
            losses = [loss, *encoder.own_losses(labels).values()]
        for name, head in heads.items():
            losses += head.losses(projected[name], logits.detach(), labels, indices, LATE, ALONE, generator).values()
        torch.stack(losses).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def filled_head(section: str, encoder: Encoder, labels: Tensor) -> TrainingHead:
    """A head with its default options whose banks have every row written."""
    config = RunConfig()
    getattr(config, section).enabled = True
    head = build_heads(vars(config), encoder, labels)[section]
    for module in head.modules():
        if isinstance(module, BankContrast):
            fill(module, labels)
    return head


def filled_csre(feature_shape: tuple[int, int, int], labels: Tensor) -> CSRE:
    """CSRE with the paper's options whose banks have every row written."""
    csre = CSRE(feature_shape, labels)
    fill(csre, labels)
    return csre


def fill(contrast: BankContrast, labels: Tensor) -> None:
    """Write a random unit vector to every row of every bank."""
    for indices in torch.arange(len(labels)).split(4096):
        rows = {name: normalise_rows(torch.randn(len(indices), DIM)) for name in contrast.banks}
        contrast.write(rows, labels[indices], indices)
