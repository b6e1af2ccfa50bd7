"""What a test saves by computing absent persons once: the encoder as it is beside `model.evaluation`, in turns.

The clips are NTU's: of two persons, of whom the second is absent (all zeros) in four clips of five, unless `--absent`
says otherwise. Both sides compute the same logits from the same batch, in one process; the table gives milliseconds of
processor time per clip (on a GPU: wall-clock time) and their ratio.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from common.arguments import count, duration, share
from model import list_encoders
from model.evaluation import Evaluation
from tools.benchmark.encoder import CLIPS, example
from tools.benchmark.timing import median_seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which encoders, and the clips that they get."""
    parser.add_argument("--encoders", nargs="+", default=list_encoders(), metavar="NAME", help="default: all")
    parser.add_argument("--batch", type=count, default=20, help="clips of a batch; default: %(default)s")
    parser.add_argument(
        "--absent", type=share, default=0.8, help="share of clips without a second person; default: %(default)s"
    )
    parser.add_argument("--rounds", type=count, default=5, help="turns that each side has; medians are reported")
    parser.add_argument("--seconds", type=duration, default=0.3, help="at least so long per turn; default: %(default)s")


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Print the table; return its numbers, those of each encoder under its name."""
    results: dict[str, dict[str, float]] = {}
    absent = round(arguments.absent * arguments.batch)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    print(f"ntu, {arguments.batch} clips, {absent} without a second person, float32; milliseconds per clip")
    print(f"{'encoder':12}{'as it is':>10}{'in tests':>10}{'ratio':>8}")
    for name in arguments.encoders:
        torch.manual_seed(0)
        encoder = CLIPS["ntu"].build(name).to(device).eval()
        x = example(encoder, arguments.batch).to(device)
        x[:absent, ..., 1] = 0
        evaluation = Evaluation(encoder)
        with torch.inference_mode():
            sides = {
                "encoder": lambda encoder=encoder, x=x: encoder(x),
                "evaluation": lambda e=evaluation, x=x: e(x, x),
            }
            seconds = median_seconds(sides, arguments.rounds, arguments.seconds, clock)
        per_clip = {side: 1e3 * value / arguments.batch for side, value in seconds.items()}
        results[name] = row = {f"{side}_ms": value for side, value in per_clip.items()}
        row["ratio"] = per_clip["encoder"] / per_clip["evaluation"]
        print(f"{name:12}{row['encoder_ms']:>10.1f}{row['evaluation_ms']:>10.1f}{row['ratio']:>8.2f}", flush=True)
    return {"batch": arguments.batch, "absent": absent, "encoders": results}
