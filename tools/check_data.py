"""What a data set is and whether it is complete and valid: `python tools/check_data.py data/ntu60.h5`.

Prints format, skeleton, clips per side and class beside the expected numbers, missing and bad clips by name, and a
fingerprint of the content. Exits with 0 only if the data are complete and valid, with 1 if not, with 2 if they cannot
be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from common.arguments import Parser
from common.files import user_path
from common.front_door import run_command
from feeders.benchmarks import get_benchmark
from feeders.check import LINES_SHOWN, check_data


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 complete and valid, 1 not, 2 refused with a line on stderr."""
    return run_command("tools/check_data.py", lambda: _check(_parser().parse(argv)))


def _check(options: argparse.Namespace) -> int:
    benchmark = get_benchmark(options.benchmark) if options.benchmark else None
    findings = check_data(options.path, benchmark, options.verify)
    print("\n".join(findings.lines(None if options.all else LINES_SHOWN)))
    return 0 if findings.good else 1


def _parser() -> Parser:
    parser = Parser(prog="tools/check_data.py", description=__doc__)
    add = parser.add_argument
    add("path", type=user_path, help="packed store, folder of clips, or another format that training reads")
    add("--benchmark", help="a benchmark, or the YAML file of your own; default: all that fit")
    add("--all", action="store_true", help=f"name all missing and bad clips, not {LINES_SHOWN} of each")
    add("--verify", action="store_true", help="compare each clip of a packed store with its checksum")
    return parser


if __name__ == "__main__":
    sys.exit(main())
