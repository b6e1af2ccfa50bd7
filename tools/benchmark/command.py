"""Speed and memory, measured: `python tools/benchmark.py SUBJECT`.

All ratios come from one run on one machine. `python tools/benchmark.py encoder --help` lists the options of a subject.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch

from common.allocator import keep_freed_memory
from common.arguments import Parser, count
from common.errors import UserError
from common.front_door import run_command
from tools.benchmark import csre, data, encoder, evaluation, fused, sharded, step

SUBJECTS = {
    "csre": csre,
    "data": data,
    "encoder": encoder,
    "evaluation": evaluation,
    "fused": fused,
    "sharded": sharded,
    "step": step,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, and print it as text and as one line of JSON.

    Returns:
        The exit code: 0 done; 2 refused, the reason on stderr in one line.
    """
    keep_freed_memory()
    return run_command("tools/benchmark.py", lambda: _measure(_parser().parse(argv)))


def _measure(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32; `step --matmul high` allows it again
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; take --device cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}")
    results = SUBJECTS[arguments.subject].measure(arguments, device)
    print(json.dumps({"subject": arguments.subject, "torch": torch.__version__, "machine": name, **results}))


def _parser() -> Parser:
    parser = Parser(prog="tools/benchmark.py", description=__doc__)
    _add_machine(parser, threads=None, device="cuda" if torch.cuda.is_available() else "cpu")
    subjects = parser.add_subparsers(dest="subject", required=True)
    for subject, module in SUBJECTS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        described = subjects.add_parser(subject, help=summary, description=module.__doc__)
        _add_machine(described, threads=argparse.SUPPRESS, device=argparse.SUPPRESS)  # before or after the subject
        module.add_arguments(described)
    return parser


def _add_machine(parser: argparse.ArgumentParser, threads: str | None, device: str) -> None:
    parser.add_argument("--threads", type=count, default=threads, help="CPU threads; default: torch's choice")
    parser.add_argument("--device", default=device, choices=["cpu", "cuda"], help="default: cuda where there is one")
