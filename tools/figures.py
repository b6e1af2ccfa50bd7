"""Draw the figures of a finished run again: `python tools/figures.py RUN [--classes NAME NAME ...]`.

For runs that were trained with --log.figures false or by an earlier version, and for a t-SNE that shows chosen classes
in colour and all others in grey. Needs the run folder alone, nothing of the data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

import numpy as np

from common.arguments import Parser
from common.errors import UserError
from common.files import user_path
from common.front_door import run_command
from common.words import find_word
from engine.evaluate import read_outcome
from engine.figures import FEW, confused_classes, draw_outcome, draw_tsne, title_of_weights
from engine.logs import read_records
from engine.report_page import title_of, write_page
from engine.run_folder import RunFolder
from tools.runs import read_json


class FiguresError(UserError):
    """A run whose figures cannot be drawn, or classes that it does not have."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused with a line on stderr."""
    return run_command("tools/figures.py", lambda: _draw(_parser().parse(argv)))


def draw(run: Path, classes: Sequence[str]) -> None:
    """Draw everything that the folder has the numbers of, and renew report.html.

    Raises:
        FiguresError: no finished run there; an unknown class; more classes than colours can distinguish.
        ScoresError: a damaged score file.
    """
    folder, figures = RunFolder(run), run / "figures"
    if not (run / "results.json").exists():
        raise FiguresError(f"{run}: no results.json in it; name the folder of a finished run")
    results = read_json(run / "results.json")
    selections = [selection for selection in ("best", "last", "test") if selection in results]
    names = list(results[selections[0]]["per_class"])
    chosen = [find_word(name, names, "--classes", "classes", FiguresError) for name in classes]
    if len(chosen) > FEW:
        raise FiguresError(f"--classes: {len(chosen)} given; at most {FEW} can be distinguished by colour")
    figures.mkdir(exist_ok=True)
    title = title_of(results)
    outcome = read_outcome(folder, selections)
    draw_outcome(outcome, names, title, read_records(folder.metrics), figures)
    if (run / "tsne.npz").exists():
        tested_last = selections[-1]
        epoch, accuracy = outcome[tested_last]
        heading = f"{title}, {title_of_weights(tested_last, epoch)}"
        with np.load(run / "tsne.npz") as stored:
            points, labels = stored["points"], stored["labels"]
        draw_tsne(points, labels, names, heading, figures / "tsne.png", chosen or confused_classes(accuracy.confusion))
    elif classes:
        tested = run if "test" in results else run / "test"
        remedy = f"test the run with --log.tsne_clips 1000, then name {tested}"
        raise FiguresError(f"{run}: no tsne.npz in it; {remedy}")
    write_page(run, results)
    print(figures)


def _draw(options: argparse.Namespace) -> None:
    draw(options.run, options.classes)


def _parser() -> Parser:
    parser = Parser(prog="tools/figures.py", description=__doc__)
    parser.add_argument("run", type=user_path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"classes that the t-SNE colours (default: all of up to {FEW}, else those confused most)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
