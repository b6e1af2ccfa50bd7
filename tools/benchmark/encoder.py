"""The encoders side by side: size, speed, memory, and how much of the machine's arithmetic they turn into clips.

Forward is evaluation without gradients; forward + backward is a training step without the optimiser, with cross
entropy and the encoder's own losses. MACs are the multiply-accumulates of convolutions and matrix products in one
clip's evaluation. The fraction is 2 x MACs x clips/s (forward + backward: 3 times that, as a backward pass computes
about twice as much) over the operations per second of a large square matrix product, measured in the same run and
number format. Memory is the tensors of torch at their peak: weights, clips and what a step allocates, without the
libraries' own working space.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from common.arguments import count, duration
from graph import get_skeleton
from model import Encoder, EncoderError, build_encoder, fitting_window, list_encoders
from tools.benchmark.memory import peak_bytes
from tools.benchmark.timing import median_seconds

PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product measures the machine's rate."""


@dataclass(frozen=True)
class Clips:
    """What the clips of a data set look like to an encoder."""

    skeleton: str
    num_classes: int
    num_persons: int
    window: int

    def build(self, encoder: str, window: int | None = None, **options: Any) -> Encoder:
        """The encoder of that name for such clips; where it takes none so short, for the shortest that it takes."""
        return build_encoder(
            encoder,
            skeleton=get_skeleton(self.skeleton),
            num_classes=self.num_classes,
            num_persons=self.num_persons,
            window=window or fitting_window(encoder, self.window),
            **options,
        )


CLIPS = {
    "ntu": Clips("ntu", num_classes=60, num_persons=2, window=64),
    "nw-ucla": Clips("nw-ucla", num_classes=10, num_persons=1, window=52),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which encoders, and the clips that they get."""
    parser.add_argument(
        "--encoders", nargs="+", default=list_encoders(), metavar="NAME", help="or package.module:Class; default: all"
    )
    parser.add_argument("--benchmark", choices=list(CLIPS), default="ntu", help="whose clips; default: %(default)s")
    parser.add_argument(
        "--window", type=count, help="frames of a clip; default: 64 for ntu, 52 for nw-ucla or the encoder's next"
    )
    parser.add_argument("--batch", type=count, default=16, help="clips of a batch; default: %(default)s")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast, matrix product in bfloat16")
    parser.add_argument("--rounds", type=count, default=5, help="turns that each encoder has; medians are reported")
    parser.add_argument("--seconds", type=duration, default=0.3, help="at least so long per turn; default: %(default)s")


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Print the table; return its numbers, those of each encoder under its name."""
    torch.manual_seed(0)
    clips = CLIPS[arguments.benchmark]
    encoders = {name: clips.build(name, arguments.window).to(device) for name in arguments.encoders}
    steps: dict[str, Callable[[], object]] = {"product": _product(device, arguments.amp)}
    rows: dict[str, dict[str, float]] = {}
    for name, encoder in encoders.items():
        x = example(encoder, arguments.batch).to(device)
        labels = torch.arange(arguments.batch, device=device) % encoder.num_classes
        forward = steps[f"{name} forward"] = _forward(encoder, x, arguments.amp)
        training = steps[f"{name} training"] = _training(encoder, x, labels, arguments.amp)
        rows[name] = {"parameters": count_parameters(encoder), "macs": count_macs(encoder)}
        standing = _bytes_of([*encoder.parameters(), *encoder.buffers(), x])
        for what, step in (("forward", forward), ("training", training)):
            _try(step, arguments.batch)
            rows[name][f"{what}_peak_bytes"] = standing + peak_bytes(step, device)

    longer = {name: e.window for name, e in encoders.items() if e.window != (arguments.window or clips.window)}
    seconds = median_seconds(steps, arguments.rounds, arguments.seconds)
    rate = 2 * PRODUCT_SIZE[device.type] ** 3 / seconds["product"]
    for name, row in rows.items():
        for what, passes in (("forward", 1), ("training", 3)):
            clips_per_second = arguments.batch / seconds[f"{name} {what}"]
            row[f"{what}_clips_per_second"] = clips_per_second
            row[f"{what}_fraction"] = passes * 2 * row["macs"] * clips_per_second / rate
    _print_table(rows, rate, arguments)
    for name, window in longer.items():
        print(f"{name}: clips of {window} frames instead of {clips.window}")
    return {
        "benchmark": arguments.benchmark,
        "window": arguments.window or clips.window,
        "batch": arguments.batch,
        "amp": arguments.amp,
        "product_flops_per_second": rate,
        "encoders": rows,
    }


def count_parameters(encoder: Encoder) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)


def count_macs(encoder: Encoder) -> int:
    """Multiply-accumulates of convolutions and matrix products in the evaluation of one clip, for all its persons."""
    training = encoder.training
    encoder.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(example(encoder, 1).to(next(encoder.parameters()).device))
    encoder.train(training)
    return counter.get_total_flops() // 2


def example(encoder: Encoder, num_clips: int) -> Tensor:
    """Random clips (N, C, T, V, M) of the shape that the encoder takes."""
    return torch.randn(num_clips, encoder.in_channels, encoder.window, encoder.skeleton.num_joints, encoder.num_persons)


def _try(step: Callable[[], None], batch: int) -> None:
    """Take a step for the first time. Says in words of the command line why an encoder refuses the batch."""
    try:
        step()
    except EncoderError as error:
        raise EncoderError(f"{error}; here: --batch 2" if batch == 1 else str(error)) from error


def _forward(encoder: Encoder, x: Tensor, amp: bool) -> Callable[[], None]:
    def step() -> None:
        encoder.eval()
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
            encoder(x)

    return step


def _training(encoder: Encoder, x: Tensor, labels: Tensor, amp: bool) -> Callable[[], None]:
    def step() -> None:
        encoder.train()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
            loss = cross_entropy(encoder(x), labels, label_smoothing=encoder.label_smoothing)
            loss = loss + sum(encoder.own_losses(labels).values())
        loss.backward()
        encoder.zero_grad()

    return step


def _product(device: torch.device, amp: bool) -> Callable[[], None]:
    size = PRODUCT_SIZE[device.type]
    left, right = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if amp else torch.float32)

    def step() -> None:
        # cuDNN's convolutions use TF32 unless set otherwise, matrix products only when asked: a rate without it would
        # flatter the encoders. On the CPU it means nothing.
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        torch.mm(left, right)
        torch.backends.cuda.matmul.allow_tf32 = before

    return step


def _bytes_of(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _print_table(rows: dict[str, dict[str, float]], rate: float, arguments: argparse.Namespace) -> None:
    numbers = "bfloat16" if arguments.amp else "float32"
    print(f"{arguments.benchmark}, {arguments.batch} clips, {numbers}; matrix product: {rate / 1e9:,.1f} GFLOP/s")
    print(f"{'':12}{'':12}{'':8}  {'forward':^29}  {'forward + backward':^29}")
    part = f"{'clips/s':>11}{'peak MiB':>10}{'of rate':>8}"
    print(f"{'encoder':12}{'parameters':>12}{'GMACs':>8}  {part}  {part}")
    for name, row in rows.items():
        parts = [
            f"{row[f'{what}_clips_per_second']:>11,.1f}{row[f'{what}_peak_bytes'] / 2**20:>10,.0f}"
            f"{row[f'{what}_fraction']:>8.0%}"
            for what in ("forward", "training")
        ]
        print(f"{name:12}{row['parameters']:>12,}{row['macs'] / 1e9:>8.3f}  {'  '.join(parts)}")
