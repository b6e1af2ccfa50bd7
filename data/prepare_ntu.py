"""Make one packed store of the raw clips of NTU RGB+D: `python data/prepare_ntu.py --raw FOLDER --dataset ntu60`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.arguments import Parser, count, processors
from common.files import user_path
from common.front_door import run_command
from feeders.benchmarks import NTU_STORES, REPOSITORY
from feeders.ntu.clip_bar import ClipBar
from feeders.ntu.names import DATASETS, get_dataset
from feeders.ntu.prepare import Kind, Summary, prepare

COMPLETE, INCOMPLETE = 0, 3
LINES = 20
"""Files that are named on the screen; the report names all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0 the store is complete; 3 it is written, but clips were skipped or are absent; 2 no store was
        written, the reason on stderr in one line; 130 interrupted.
    """
    return run_command("prepare_ntu.py", lambda: _run(argv), interrupted="interrupted; no store was written")


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse(argv)
    dataset = get_dataset(options.dataset)
    out = options.output or REPOSITORY / NTU_STORES[dataset.name]
    with ClipBar("prepare") as bar:
        summary = prepare(options.raw, dataset, out, options.jobs, progress=bar)
    print(_describe(summary))
    return COMPLETE if summary.complete else INCOMPLETE


def _describe(summary: Summary) -> str:
    size = summary.store.stat().st_size / 1e6
    lines = [
        f"{summary.store}: {summary.clips:,} of {summary.dataset.usable:,} usable clips of {summary.dataset.name}, "
        f"{size:,.1f} MB, fingerprint {summary.fingerprint}, {summary.seconds:,.0f} s"
    ]
    if summary.missing or summary.foreign:
        lines.append(f"skipped: {summary.missing:,} on the missing list, {summary.foreign:,} of other set-ups")
    shown = [note for note in summary.notes if note.kind != Kind.DUPLICATE]
    lines += [f"{note.kind}: {note.file}: {note.reason}" for note in shown[:LINES]]
    if len(shown) > LINES:
        lines.append(f"... and {len(shown) - LINES:,} more")
    if summary.counts:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(summary.counts.items()))
        lines.append(f"report: {summary.report} ({kinds})")
    if summary.absent:
        lines.append(f"not complete: {summary.absent:,} usable clips are not in the store")
    return "\n".join(lines)


def _parser() -> Parser:
    parser = Parser(
        prog="prepare_ntu.py",
        usage="python data/prepare_ntu.py --raw PLACE [PLACE ...] --dataset ntu60|ntu120 [--output FILE] [--jobs N]",
        description="Make one packed store of the raw clips of NTU RGB+D. The store appears when it is whole. Exit "
        "code: 0 complete, 3 written but clips were skipped or are absent, 2 refused, 130 interrupted.",
    )
    add = parser.add_argument
    add(
        "--raw",
        nargs="+",
        type=user_path,
        required=True,
        metavar="PLACE",
        help="folders and .zip archives of raw clips",
    )
    add("--dataset", required=True, metavar="NAME", help=" or ".join(DATASETS))
    add("--output", type=user_path, metavar="FILE", help="the store (default: data/ntu60.h5 or data/ntu120.h5)")
    add("--jobs", type=count, default=processors(), metavar="N", help="most processes (default: one per processor)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
