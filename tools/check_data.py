"""What a data set is and whether it is whole and good: `python tools/check_data.py data/ntu60.h5`.

Says format, skeleton, clips per side and class against the known numbers, missing and bad clips by name, and a
fingerprint of the content. Exit codes: 0 whole and good, 1 not, 2 it cannot be read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from feeders.benchmarks import get_benchmark
from feeders.check import LINES_SHOWN, check_data
from feeders.errors import DataError, why


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tools/check_data.py", description=__doc__)
    parser.add_argument("path", type=Path, help="packed store, folder of clips, or another format that training reads")
    parser.add_argument("--benchmark", help="a benchmark, or the YAML file of your own; default: all that fit")
    parser.add_argument("--all", action="store_true", help=f"name all missing and bad clips, not {LINES_SHOWN} of each")
    parser.add_argument("--verify", action="store_true", help="compare each clip of a packed store with its checksum")
    arguments = parser.parse_args(argv)
    try:
        benchmark = get_benchmark(arguments.benchmark) if arguments.benchmark else None
        findings = check_data(arguments.path.expanduser(), benchmark, arguments.verify)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or arguments.path}: {why(error)}", file=sys.stderr)
        return 2
    try:
        print("\n".join(findings.lines(None if arguments.all else LINES_SHOWN)), flush=True)
    except BrokenPipeError:
        # Whoever reads, such as `head`, has enough; what is still buffered must not be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if findings.good else 1


if __name__ == "__main__":
    sys.exit(main())
