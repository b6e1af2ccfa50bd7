"""One CSRE step against the plain loop over clips, and its share in a whole CTR-GCN training step."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.benchmark import Measurement, Timer

from common.arguments import count, duration
from common.errors import UserError
from csre import CSRE, ContrastOptions
from csre.loss import normalise_rows
from graph import get_skeleton
from model import Encoder, build_encoder
from tools.benchmark.plain_contrast import reference_contrast
from tools.benchmark.step import fill

DIM = 256
"""Of a contrasted feature."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sizes; their defaults are those of NTU RGB+D 120 X-Sub."""
    parser.add_argument("--rows", type=count, default=63_026, help="training clips, hence rows of each bank")
    parser.add_argument("--classes", type=count, default=120)
    parser.add_argument("--clips", type=count, default=64, help="clips of a batch")
    parser.add_argument("--seconds", type=duration, default=10.0, help="at least so long per measurement")


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Print both comparisons; return medians in milliseconds and their ratios."""
    rows, clips = arguments.rows, arguments.clips
    if rows < clips:
        raise UserError(f"--rows {rows}: fewer than the {clips} clips of a batch; raise it, or lower --clips")
    torch.manual_seed(0)
    labels = torch.randint(arguments.classes, (rows,))
    indices = torch.randperm(rows)[:clips]

    encoder = build_encoder(
        "ctrgcn", skeleton=get_skeleton("ntu"), num_classes=arguments.classes, num_persons=2, window=64
    ).to(device)
    csre = CSRE(encoder.feature_shape, labels, dim=DIM)
    fill(csre, labels)
    csre.to(device)
    batch_labels, batch_indices = labels[indices].to(device), indices.to(device)

    ours = _time(_csre_step(csre, batch_labels, batch_indices, device), arguments.seconds)
    plain = _time(_plain_step(csre, labels, indices), arguments.seconds)
    x = torch.randn(clips, 3, 64, 25, 2, device=device)
    alone = _time(_training_step(encoder, x, batch_labels), arguments.seconds)
    features = torch.randn(clips, 2, *encoder.feature_shape, device=device, requires_grad=True)
    part = _time(lambda: _sum(csre(features, batch_labels, batch_indices)).backward(), arguments.seconds)

    print(f"{clips} clips, two banks of {rows:,} x {DIM}, forward + backward, median and interquartile range:")
    for what, time in {
        "CSRE step": ours,
        "the same as a plain loop over the clips (CPU)": plain,
        "CTR-GCN training step (NTU, 64 frames, 2 persons)": alone,
        "CSRE in that step: heads and contrast": part,
    }.items():
        print(f"  {what:52}{time.median * 1e3:10.1f} ms  +- {time.iqr * 1e3:.1f}  ({len(time.times)} runs)")
    ratio, share = plain.median / ours.median, part.median / (alone.median + part.median)
    print(f"  CSRE is {ratio:.1f} times as fast as the plain loop; it takes {share:.1%} of a training step")
    return {
        "csre_step_ms": ours.median * 1e3,
        "plain_step_ms": plain.median * 1e3,
        "speed_up": ratio,
        "training_step_ms": alone.median * 1e3,
        "csre_in_training_step_ms": part.median * 1e3,
        "share_of_csre": share,
    }


def _csre_step(csre: CSRE, labels: Tensor, indices: Tensor, device: torch.device) -> Callable[[], None]:
    """Normalise, write, contrast, differentiate both branches; the heads belong to neither side of the comparison."""
    features = {name: torch.randn(len(labels), DIM, device=device, requires_grad=True) for name in csre.heads}

    def step() -> None:
        queries = {name: normalise_rows(feature) for name, feature in features.items()}
        csre.write({name: query.detach() for name, query in queries.items()}, labels, indices)
        _sum(csre.contrast(queries, labels, indices)).backward()

    return step


def _plain_step(csre: CSRE, labels: Tensor, indices: Tensor) -> Callable[[], None]:
    """The same as the reference states it, on the host."""
    features = {name: torch.randn(len(indices), DIM, requires_grad=True) for name in csre.heads}
    banks = {name: normalise_rows(torch.randn(len(labels), DIM)) for name in csre.heads}
    written = torch.ones(len(labels), dtype=torch.bool)
    options = ContrastOptions()

    def step() -> None:
        for name, feature in features.items():
            loss, _ = reference_contrast(feature, labels[indices], indices, banks[name], written, labels, options)
            loss.backward()

    return step


def _training_step(encoder: Encoder, x: Tensor, labels: Tensor) -> Callable[[], None]:
    """Forward and backward of encoder and cross entropy; no optimiser."""
    encoder.train()

    def step() -> None:
        cross_entropy(encoder(x), labels).backward()
        encoder.zero_grad()

    return step


def _sum(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _time(step: Callable[[], None], seconds: float) -> Measurement:
    step()  # warm-up
    return Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads()).blocked_autorange(
        min_run_time=seconds
    )
