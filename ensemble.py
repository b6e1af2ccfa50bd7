"""Fuse the scores of several streams: `python ensemble.py RUN_OR_SCORES...`; without arguments, a table of all sets.

With `--evaluate` the named runs are tested first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.allocator import keep_freed_memory
from common.arguments import Parser
from common.files import user_path, write_atomically
from common.front_door import run_command
from fusion.report import NORMALISED, Fit, Report, check_request, report_named, report_sets
from fusion.scores import ScoresError
from fusion.weights import EQUAL, PRESETS
from heads.registry import HEADS

NEED_SCORES = ("evaluate", "epoch", "fit", "folds", "seed", "labels", "streams", "benchmark")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0 done; 2 refused, the reason on stderr in one line; 3 the logits of a run under `--evaluate` are
        not finite; 130 and 141 as in `run_command`.
    """
    return run_command("ensemble.py", lambda: _answer(sys.argv[1:] if argv is None else argv))


def _answer(argv: Sequence[str]) -> None:
    options = _parse(argv)
    report = _report(options)
    print(report.text)
    if options.output:
        content = json.dumps(report.fusions, indent=1).encode() + b"\n"
        write_atomically(options.output, lambda file: file.write(content))


def _report(options: argparse.Namespace) -> Report:
    weights, normalise = _weights(options.weights), options.normalise is not None
    head_titles = {name: head.title for name, head in HEADS.items()}
    if options.scores:
        fit = _fit(options)
        check_request(weights, fit, len(options.scores))  # before the runs are tested, which may take long
        return report_named(
            _evaluated(options) if options.evaluate else options.scores,
            head_titles,
            weights=weights,
            fit=fit,
            selection=options.epoch or "last",
            labels=options.labels,
            streams=options.streams,
            benchmark=options.benchmark,
            normalise=normalise,
        )
    useless = [key for key in NEED_SCORES if getattr(options, key) not in (None, False)]
    if useless or not isinstance(weights, str):
        option = useless[0].replace("_", "-") if useless else "weights with numbers"
        raise ScoresError(f"--{option} goes with score files or runs; name some, or omit it for the table of all")
    return report_sets(options.work_dir, head_titles, weights, options.fit_on_test_labels, normalise)


def _evaluated(options: argparse.Namespace) -> list[Path]:
    """The new score files of the runs that are named."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in main.py
    keep_freed_memory()
    from engine.evaluate_together import evaluate_together  # imports torch, which fusing does without

    return evaluate_together(options.scores, options.epoch or "last")


def _fit(options: argparse.Namespace) -> Fit | None:
    chosen = {key: getattr(options, key) for key in ("folds", "seed") if getattr(options, key) is not None}
    if options.fit or options.fit_on_test_labels:
        return Fit(on_test_labels=options.fit_on_test_labels, **chosen)
    if chosen:
        raise ScoresError(f"--{next(iter(chosen))} goes with --fit; add it, or omit this")
    return None


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="ensemble.py",
        usage="python ensemble.py [RUN_OR_SCORES ...] [options]",
        description="Fuse streams: weighted sums of their logits, clips matched by name. Without score files: a table "
        "of every complete set of streams under the runs' folder.",
    )
    add = parser.add_argument
    add(
        "scores", nargs="*", type=user_path, metavar="RUN_OR_SCORES", help="folder of a run, or score file (.npz, .pkl)"
    )
    add(
        "--work-dir",
        "--work_dir",
        type=user_path,
        default=Path("work_dir"),
        help="where the table looks for runs (default: %(default)s)",
    )
    add(
        "--evaluate",
        action="store_true",
        help="first test the named runs, all in one pass over the clips, and fuse what comes of it; each run's new "
        "scores are in its test/",
    )
    add("--epoch", choices=("best", "last"), help="which scores of a named run (default: last)")
    add(
        "--weights",
        nargs="+",
        default=[EQUAL],
        metavar="W",
        help=f"a number for each score file, in their order, or a preset: {', '.join(PRESETS)} (default: {EQUAL})",
    )
    add(
        "--normalise",
        choices=(NORMALISED,),
        help="first divide every stream's logits of a clip by their Euclidean norm, as HD-GCN's ensembles do "
        "(default: raw logits)",
    )
    fits = parser.add_mutually_exclusive_group()
    fits.add_argument(
        "--fit", action="store_true", help="also search for weights, judged on held-out folds of the clips"
    )
    fits.add_argument(
        "--fit-on-test-labels",
        action="store_true",
        help="also search for weights on the labels that judge them, as some published tables do: biased upwards; "
        "for the table of all sets too",
    )
    add("--folds", type=int, metavar="K", help=f"folds of --fit (default: {Fit.folds})")
    add("--seed", type=int, metavar="N", help=f"seed of the search and its folds (default: {Fit.seed})")
    add(
        "--labels",
        type=user_path,
        metavar="FILE",
        help="npz with names and labels (classes from 0), for pickled scores",
    )
    add("--streams", nargs="+", metavar="STREAM", help="stream of each score file, for pickled scores")
    add("--benchmark", metavar="NAME", help="for pickled scores and presets that differ between benchmarks")
    add("--output", type=user_path, metavar="FILE", help="also write the fusions and their members as JSON")
    return parser.parse(argv)


def _weights(words: list[str]) -> str | list[float]:
    """The name of a preset, or numbers."""
    try:
        return [float(word) for word in words]
    except ValueError:
        if len(words) == 1:
            return words[0]
    raise ScoresError(f"--weights {' '.join(words)}: numbers or one preset are expected; name score files before it")


if __name__ == "__main__":
    sys.exit(main())
