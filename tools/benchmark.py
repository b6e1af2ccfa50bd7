"""Speed and memory, measured: `python tools/benchmark.py csre`. All ratios come from one run on one machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from tools import benchmark_csre


def main() -> None:
    """Measure what the command line asks for, and print it as text and as one line of JSON."""
    parser = argparse.ArgumentParser(prog="tools/benchmark.py", description=__doc__)
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    subjects = parser.add_subparsers(dest="subject", required=True)
    benchmark_csre.add_arguments(subjects.add_parser("csre", help=benchmark_csre.__doc__))
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}")
    results = {"csre": benchmark_csre.measure}[arguments.subject](arguments, device)
    print(json.dumps({"subject": arguments.subject, "torch": torch.__version__, "machine": name, **results}))


if __name__ == "__main__":
    main()
