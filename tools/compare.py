"""Compare runs with and without CSRE (or any two settings): is the difference more than chance, and where does it lie?

    python tools/compare.py BASELINE... -- CSRE... --output comparison
    python tools/compare.py work_dir/nw-ucla/hcn_joint_s* -- work_dir/nw-ucla/hcn_csre_joint_s* --tsne "throw,carry"

Runs are paired by seed, those on several folds of a data set by fold and seed. A RUN/test folder stands for the weights
that the test was given, such as those in weights/. Printed, and written to the folder as
text, CSV, PNG and one HTML page without links:

- the runs of each side, and the settings in which the sides differ;
- the mean difference of the pairs with its 95 % t-interval;
- for every seed McNemar's exact test over the clips: of those that one run has right and the other wrong, how likely is
  a split as uneven as this, or more so, if both were equally good;
- over all paired seeds the classes that are hard (< 80 %), medium (80-90 %) and easy (> 90 %) for the baseline (paper,
  Table 7), those that moved by more than 3 points (Figure 5), and the most confused pairs of classes, before and after;
- with --tsne the features of some classes side by side (Figure 6), of the first pair of seeds.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, t

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from common.arguments import Parser
from common.colours import BLUE, ORANGE
from common.errors import UserError
from common.files import user_path
from common.front_door import run_command
from common.words import find_word
from engine.figures import STYLE, draw_tsne, worst_pairs
from engine.schema import leaves
from feeders.benchmarks import benchmark_name
from fusion.scores import load_scores
from heads.registry import head_names
from tools.paper_tables import levels, title_of
from tools.runs import computed, naming_damage, read_json, settings_of
from tools.sections import Figure, Section, page_of

MOVED = 3.0
"""Points by which a class must move to be in Figure 5."""
PAIRS = 10
CONFIDENCE = 0.95


class CompareError(UserError):
    """Runs that cannot be compared."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: where it lies, and of every test clip the class and the predicted class (n,).

    settings: what it computes, and the commit of its training. weights: those whose predictions they are.
    """

    folder: Path
    title: str
    settings: dict[str, Any]
    weights: Path
    classes: list[str]
    names: Sequence[str]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @property
    def benchmark(self) -> str:
        """Whose test clips they are."""
        return benchmark_name(self.settings["data.benchmark"])

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.settings["seed"])

    @property
    def is_epoch(self) -> bool:
        """Whether the weights are of an epoch of this run, not given to a test."""
        return self.weights.parent.parent == self.folder

    @property
    def chosen_on(self) -> str:
        """The clips that the best epoch was chosen on."""
        return "held-out training clips" if self.settings["data.validation"] else "these same test clips"

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Of every clip (n,)."""
        return self.predicted == self.labels

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return 100 * float(self.correct.mean())

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Clips (K, K) of class i taken for class j."""
        counts = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts


class Difference(NamedTuple):
    """The mean of paired differences, and the half-width of its interval; None for a single pair."""

    mean: float
    margin: float | None


class McNemar(NamedTuple):
    """Clips that only the first or only the second run has right, and the two-sided p of such a split."""

    only_first: int
    only_second: int
    p: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused with a line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command("tools/compare.py", lambda: _compare(words))


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """The mean of `after` minus `before`, pair by pair, with its 95 % t-interval."""
    differences = [second - first for first, second in zip(before, after, strict=True)]
    if len(differences) < 2:
        return Difference(mean(differences), None)
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1))
    return Difference(mean(differences), quantile * stdev(differences) / sqrt(len(differences)))


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test of two runs on the same clips, correct or not (n,)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, total).pvalue) if total else 1.0)


def read_run(folder: Path, selection: str) -> Run:
    """A finished run by its score file, or a finished test, where `selection` means nothing.

    Raises:
        CompareError: no finished run. ScoresError: a damaged score file. RecordError: another damaged file.
    """
    if not (folder / "results.json").exists():
        raise CompareError(f"{folder}: no results.json in it; name folders of finished runs")
    values, tested = settings_of(folder), (folder / "scores_test.npz").exists()
    weights = Path(values["weights"]) if tested else folder / "checkpoints" / f"{selection}.pt"
    selection = "test" if tested else selection
    scores = load_scores(folder / f"scores_{selection}.npz")
    assert scores.labels is not None, "our own score files carry labels"
    with naming_damage(folder):
        commit = {} if tested else {"commit": read_json(folder / "environment.json").get("commit") or "unknown"}
        classes = list(read_json(folder / "results.json")[selection]["per_class"])
    return Run(
        folder=folder,
        title=f"{title_of(values['model.name'], head_names(values))}, {values['data.stream'].replace('_', ' ')}",
        settings=computed(values) | commit,
        weights=weights,
        classes=classes,
        names=scores.names,
        labels=scores.labels,
        predicted=scores.logits.argmax(axis=1),
    )


def pair_up(baseline: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    """The runs of equal benchmarks and seeds, their clips in one order.

    Raises:
        CompareError: two runs of one seed on a side, no seed on both sides, other clips or classes.
    """
    sides: list[dict[tuple[str, int], Run]] = []
    for runs in (baseline, others):
        paired_by = {(run.benchmark, run.seed): run for run in runs}
        for run in runs:
            other = paired_by[run.benchmark, run.seed]
            if other is not run:
                raise CompareError(
                    f"{run.folder} and {other.folder}: both of {run.benchmark}, seed {run.seed}; name one"
                )
        sides.append(paired_by)
    keys = sorted(sides[0].keys() & sides[1].keys())
    if not keys:
        before, after = (", ".join(f"{name} {seed}" for name, seed in sorted(side)) for side in sides)
        raise CompareError(f"no seed of a benchmark on both sides (before --: {before}; after: {after}); train one")
    pairs = [(sides[0][key], _in_order_of(sides[0][key], sides[1][key])) for key in keys]
    for run, _ in pairs:
        if run.classes != pairs[0][0].classes:
            raise CompareError(
                f"{run.folder} and {pairs[0][0].folder}: different classes; compare one data set at a time"
            )
    return pairs


def _in_order_of(first: Run, second: Run) -> Run:
    row_of = {name: row for row, name in enumerate(second.names)}
    if row_of.keys() != set(first.names) or first.classes != second.classes:
        raise CompareError(f"{first.folder} and {second.folder}: different test clips; compare runs of one benchmark")
    order = np.array([row_of[name] for name in first.names])
    return replace(second, names=first.names, labels=second.labels[order], predicted=second.predicted[order])


# --- the parts of the comparison --------------------------------------------------------------------------------------


def in_settings(pairs: Sequence[tuple[Run, Run]]) -> Section:
    """The settings in which the sides differ; a head's default counts as none where the other side is without it."""
    rows = [["setting", "baseline", "compared"]]
    sides = [[run.settings for run in side] for side in zip(*pairs, strict=True)]
    defaults = {key: {"", str(leaf.default)} for key, leaf in leaves().items()}
    for key in sorted({key for side in sides for settings in side for key in settings} - {"seed"}):
        cells = [", ".join(dict.fromkeys(str(run[key]) for run in side if key in run)) for side in sides]
        if cells[0] != cells[1] and set(cells) != defaults.get(key):
            rows.append([key, *cells])
    text = "Settings, and the commit of the training, that are not the same on both sides; the seed apart."
    return Section("What differs", text, "settings", rows)


def by_seed(pairs: Sequence[tuple[Run, Run]]) -> Section:
    """Accuracies of every pair, McNemar's test, and the mean difference."""
    several = len({run.benchmark for run, _ in pairs}) > 1
    rows = [["seed", "baseline", "compared", "difference", "only baseline right", "only compared right", "McNemar p"]]
    for first, second in pairs:
        test = mcnemar(first.correct, second.correct)
        numbers = [f"{first.top1:.2f}", f"{second.top1:.2f}", f"{second.top1 - first.top1:+.2f}"]
        seed = f"{first.benchmark}, {first.seed}" if several else str(first.seed)
        rows.append([seed, *numbers, str(test.only_first), str(test.only_second), f"{test.p:.2g}"])
    difference = paired_difference(*[[run.top1 for run in side] for side in zip(*pairs, strict=True)])
    if difference.margin is None:
        text = f"Difference {difference.mean:+.2f} points with one seed, which has no interval; train further seeds."
    else:
        low, high = difference.mean - difference.margin, difference.mean + difference.margin
        verdict = "excludes 0" if low > 0 or high < 0 else "includes 0: no difference shown"
        what = "benchmarks and seeds" if several else "seeds"
        text = (
            f"Mean difference {difference.mean:+.2f} points over {len(pairs)} pairs of {what}, 95 % interval "
            f"{low:+.2f} to {high:+.2f}; the interval {verdict}."
        )
    if several:
        text += " The benchmarks share training clips, as folds do, so that the interval is too narrow."
    else:
        text += f" One test clip is {100 / len(pairs[0][0].labels):.2f} points."
    return Section("Accuracy by seed", text, "seeds", rows)


def by_level(counts: tuple[dict[str, list[int]], dict[str, list[int]]]) -> Section:
    """Table 7."""
    sides = ("baseline", "compared", "difference")
    heads = [f"{mean} mean, {side}" for mean in ("class", "clip") for side in sides]
    rows = [["level", "classes", "clips", *heads]]
    for level, (classes, clips, *means) in levels(*counts).items():
        cells = [f"{means[0]:.2f}", f"{means[1]:.2f}", f"{means[1] - means[0]:+.2f}"] if means else [""] * 3
        cells += [f"{means[2]:.2f}", f"{means[3]:.2f}", f"{means[3] - means[2]:+.2f}"] if means else [""] * 3
        rows.append([level, str(classes), str(clips), *cells])
    text = "Hard: the baseline has less than 80 % of the class right; easy: more than 90 %. Classes were sorted by the "
    text += "baseline's own errors, so that by chance alone hard ones rise and easy ones fall."
    return Section("Hard, medium and easy classes (Table 7)", text, "levels", rows)


def by_class(counts: tuple[dict[str, list[int]], dict[str, list[int]]], out: Path) -> Section:
    """Figure 5: the classes that moved, and the table of all."""
    changes = []
    for name, (clips, correct) in counts[0].items():
        if clips:
            after = 100 * counts[1][name][1] / clips
            changes.append((after - 100 * correct / clips, name, clips, 100 * correct / clips, after))
    changes.sort()
    rows = [["class", "clips", "baseline", "compared", "difference"]]
    rows += [[name, str(clips), f"{a:.2f}", f"{b:.2f}", f"{change:+.2f}"] for change, name, clips, a, b in changes]
    moved = [entry for entry in changes if abs(entry[0]) > MOVED]
    rise, fall = sum(entry[0] > 0 for entry in moved), sum(entry[0] < 0 for entry in moved)
    text = f"Classes that rose by more than {MOVED:g} points: {rise}; that fell: {fall}; of {len(changes)}."
    figures = []
    if moved:
        with plt.style.context(STYLE):
            figure, axes = plt.subplots(figsize=(7, 1.2 + 0.3 * len(moved)))
            axes.barh(
                [entry[1] for entry in moved],
                [entry[0] for entry in moved],
                color=[BLUE if entry[0] > 0 else ORANGE for entry in moved],
            )
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set(xlabel="change of accuracy [points]", title=f"Classes that moved by more than {MOVED:g} points")
            figures.append(_saved(figure, out / "moved_classes.png", "Bars: change of each class's accuracy in points"))
    return Section("Classes that moved (Figure 5)", text, "classes", rows, figures)


def by_pair(pairs: Sequence[tuple[Run, Run]]) -> Section:
    """The pairs of classes that either side confuses most."""
    classes = pairs[0][0].classes
    before, after = (np.sum([run.confusion for run in side], axis=0) for side in zip(*pairs, strict=True))
    worst = dict.fromkeys((p.true, p.predicted) for side in (before, after) for p in worst_pairs(side, PAIRS))
    rows = [["true class", "taken for", "clips", "baseline", "compared", "difference"]]
    for true, predicted in sorted(worst, key=lambda place: -before[place]):
        counts = int(before[true, predicted]), int(after[true, predicted])
        total = int(before[true].sum())
        rows.append([classes[true], classes[predicted], str(total), *map(str, counts), f"{counts[1] - counts[0]:+d}"])
    text = f"Clips of one class taken for another, the {PAIRS} worst pairs of either side; over all paired seeds."
    return Section("Most confused pairs", text, "pairs", rows)


def features(pair: tuple[Run, Run], chosen: Sequence[str], out: Path) -> Section:
    """Figure 6: t-SNE of the pooled features of some classes, a figure for each run."""
    from engine.evaluate import embedded

    classes = [find_word(name, pair[0].classes, "--tsne", "classes", CompareError) for name in chosen]
    figures = []
    for side, run in zip(("baseline", "compared"), pair, strict=True):
        pooled, labels = _pooled_features(run)
        mine = np.isin(labels, classes)
        pooled, labels = pooled[mine], labels[mine]
        points = embedded(pooled)
        if points is None:
            raise CompareError(
                f"--tsne {','.join(chosen)}: t-SNE needs at least 4 test clips whose features differ, these are "
                f"{len(labels)}; name more classes"
            )
        path = out / f"features_{side}.png"
        draw_tsne(points, labels, run.classes, f"{run.title}, seed {run.seed}: {run.top1:.2f} %", path, classes)
        figures.append(Figure(path, f"Points of the classes {', '.join(chosen)} in the features of {run.title}"))
    text = "t-SNE of the last feature map, averaged over persons, frames and joints. "
    text += "Distances between clusters mean little, and another start draws another picture."
    return Section("Features of chosen classes (Figure 6)", text, figures=figures)


def _pooled_features(run: Run) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (n, C) and labels (n) of all test clips, from its weights."""
    from engine.config import resolve
    from engine.evaluate import pooled_features
    from engine.experiment import build
    from model import load_weights_file

    words = ["--config", str(run.folder), "--phase", "test", "--weights", str(run.weights), "--device", "cpu"]
    resolved = resolve(words)
    assert resolved is not None
    experiment = build(resolved.config)
    load_weights_file(experiment.encoder, run.weights)
    clips = experiment.test_clips
    return pooled_features(experiment.encoder, clips, len(clips), resolved.config.optim, experiment.device)


def _counts(pairs: Sequence[tuple[Run, Run]]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Of each side, by class: clips, and correct ones, over all paired seeds."""
    classes = pairs[0][0].classes
    sides = []
    for side in zip(*pairs, strict=True):
        confusion = np.sum([run.confusion for run in side], axis=0)
        totals, correct = confusion.sum(axis=1).tolist(), confusion.diagonal().tolist()
        sides.append({name: [total, right] for name, total, right in zip(classes, totals, correct, strict=True)})
    return sides[0], sides[1]


def _saved(figure: plt.Figure, path: Path, description: str) -> Figure:
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
    return Figure(path, description)


def _compare(words: list[str]) -> None:
    options = _parse(words)
    baseline = [read_run(folder, options.epoch) for folder in options.baseline]
    others = [read_run(folder, options.epoch) for folder in options.compared]
    pairs = pair_up(baseline, others)
    options.output.mkdir(parents=True, exist_ok=True)
    counts = _counts(pairs)
    sections = [in_settings(pairs), by_seed(pairs), by_level(counts), by_class(counts, options.output), by_pair(pairs)]
    if options.tsne:
        chosen = [name.strip() for name in options.tsne.split(",")]
        sections.append(features(pairs[0], chosen, options.output))
    title = f"{pairs[0][1].title} compared with {pairs[0][0].title}"
    before, after = (" or ".join(dict.fromkeys(run.chosen_on for run in side)) for side in (baseline, others))
    chosen_on = before if before == after else f"{before} by the baseline, on {after} by the others"
    epoch = "last epoch" if options.epoch == "last" else f"best epoch, chosen on {chosen_on}"
    if not any(run.is_epoch for run in [*baseline, *others]):
        epoch = "given weights"
    clips = sum({run.benchmark: len(run.labels) for run, _ in pairs}.values())
    notes = [f"{clips} test clips; {epoch}."]
    for side, runs in (("Baseline", baseline), ("Compared", others)):
        folders = [str(run.folder) if run.is_epoch else f"{run.folder} (weights {run.weights})" for run in runs]
        notes.append(f"{side}: {', '.join(folders)}.")
    if len({run.seed for run, _ in pairs}) > 1:
        notes.append("Below the accuracies by seed, every clip counts once for each of its seeds.")
    paired = {run.folder for pair in pairs for run in pair}
    alone = [str(run.folder) for run in [*baseline, *others] if run.folder not in paired]
    if alone:
        notes.append(f"Not paired, for want of a run of the same seed on the other side: {', '.join(alone)}.")
    text = "\n\n".join([title, *notes, *(section.as_text() for section in sections)])
    print(text)
    (options.output / "comparison.txt").write_text(text + "\n", encoding="utf-8")
    for section in sections:
        if section.rows:
            with (options.output / f"{section.name}.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(section.rows)
    (options.output / "comparison.html").write_text(page_of(title, notes, sections), encoding="utf-8")
    print(f"\nall of it is in {options.output}, as one page in {options.output / 'comparison.html'}")


def _parse(words: list[str]) -> argparse.Namespace:
    usage = "python tools/compare.py BASELINE... -- COMPARED... [options]"
    parser = Parser(prog="tools/compare.py", usage=usage, description=__doc__)
    add = parser.add_argument
    add("compared", nargs="+", type=user_path, metavar="COMPARED", help="run folders of the other side, after --")
    add("--epoch", choices=("last", "best"), default="last", help="which epoch is compared (default: %(default)s)")
    add("--tsne", metavar="CLASS,CLASS", help="classes whose features are drawn, by name")
    add("--output", type=user_path, default=Path("comparison"), metavar="FOLDER", help="(default: %(default)s)")
    if "--" not in words and not {"-h", "--help"} & set(words):
        raise CompareError("name the baseline's runs, then --, then those to compare with them")
    start = words.index("--") if "--" in words else 0
    before, options = words[:start], parser.parse(words[start + bool(start) :])
    if not before or any(word.startswith("-") for word in before):
        raise CompareError("before -- stand the run folders of the baseline alone; options come at the end")
    options.baseline = [Path(word) for word in before]
    return options


if __name__ == "__main__":
    sys.exit(main())
