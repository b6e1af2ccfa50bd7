"""Figures of a run, each as PNG and PDF; the numbers behind each lie beside it as CSV, NPZ or JSON lines.

Letters: K classes, n clips.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed, nor looked for

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from common.colours import BLUE, GREY, ORANGE, SERIES
from engine.evaluate import Accuracy, Outcome
from engine.logs import GRADIENT

STYLE = Path(__file__).with_name("figures.mplstyle")
FEW = 20
"""Up to so many classes, each has its name in every figure."""
WORST = 20
"""Pairs that are listed beside a confusion matrix."""
GRADIENTS = "gradient norm at the last map"
MARKERS = "os^DvPX*<>"
LABELLED_BARS = 30


class Pair(NamedTuple):
    """Clips of class `true` that were taken for class `predicted`: their number, and their share of the class in %."""

    true: int
    predicted: int
    clips: int
    percent: float


def percent_of_class(confusion: np.ndarray) -> np.ndarray:
    """Counts (K, K) in percent of each row's class; NaN in the row of a class without clips."""
    totals = confusion.sum(axis=1, keepdims=True)
    return np.where(totals > 0, 100 * confusion / np.maximum(totals, 1), np.nan)


def worst_pairs(confusion: np.ndarray, number: int = WORST) -> list[Pair]:
    """The pairs of classes that are confused most, by the share of the true class; fewer if there are fewer."""
    percent = np.nan_to_num(percent_of_class(confusion))
    np.fill_diagonal(percent, 0)
    order = np.argsort(-percent, axis=None, kind="stable")[:number]
    places = zip(*np.unravel_index(order, percent.shape), strict=True)
    return [
        Pair(int(true), int(predicted), int(confusion[true, predicted]), float(percent[true, predicted]))
        for true, predicted in places
        if percent[true, predicted] > 0
    ]


def confused_classes(confusion: np.ndarray) -> list[int]:
    """Up to 20 classes to show together: all if there are no more, else those of the worst pairs."""
    if len(confusion) <= FEW:
        return list(range(len(confusion)))
    return list(dict.fromkeys(index for pair in worst_pairs(confusion) for index in (pair.true, pair.predicted)))[:FEW]


def cluster_order(confusion: np.ndarray) -> np.ndarray:
    """The classes (K,) in an order that puts those that are confused with each other side by side."""
    share = np.nan_to_num(percent_of_class(confusion)) / 100
    distance = 1 - np.maximum(share, share.T)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))


def draw_confusion(accuracy: Accuracy, classes: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrix in percent of each true class, and the list of the worst pairs.

    Many classes are ordered by what is confused with what; then the matrix has no names, but a second one shows the
    classes of the worst pairs with theirs.
    """
    confusion, pairs, many = accuracy.confusion, worst_pairs(accuracy.confusion), len(classes) > FEW
    heading = f"{title}: {accuracy.top1:.2f} % of {accuracy.clips} clips"
    if not many:
        side = 2.5 + 0.42 * len(classes)
        with _figure(path, 1, 2, size=(side + 4.2, max(side, 3.8)), width_ratios=(side, 3.2)) as (figure, (axes,)):
            figure.suptitle(heading, x=0.01, ha="left")
            _matrix(axes[0], percent_of_class(confusion), np.arange(len(classes)), classes, figure)
            _list_pairs(axes[1], pairs, classes)
        return
    order = cluster_order(confusion)
    confused = {index for pair in pairs for index in (pair.true, pair.predicted)}
    block = np.array([index for index in order if index in confused])
    with _figure(path, 1, 3, size=(19, 7.6), width_ratios=(6, 8, 4)) as (figure, (axes,)):
        figure.suptitle(heading, x=0.01, ha="left")
        _matrix(axes[0], percent_of_class(confusion), order, None)
        axes[0].set_title(f"all {len(classes)} classes, confused ones side by side")
        places = np.flatnonzero(np.isin(order, block))
        for axis in (axes[0].xaxis, axes[0].yaxis):
            axis.set_ticks(places, [""] * len(places), color=ORANGE)
            axis.set_tick_params(color=ORANGE)
        if len(block):
            _matrix(axes[1], percent_of_class(confusion), block, classes, figure)
            axes[1].set_title("the classes of the worst pairs (at the marks of the left matrix)")
        else:
            axes[1].axis("off")
        _list_pairs(axes[2], pairs, classes)


def _matrix(
    axes: Axes, percent: np.ndarray, order: np.ndarray, classes: Sequence[str] | None, figure: Figure | None = None
) -> None:
    """The rows and columns `order` of a matrix; with names and numbers if `classes` are given, else without."""
    colours = mpl.colormaps["Blues"].with_extremes(bad="#eeeeee")
    shown = percent[np.ix_(order, order)]
    # The root of the share, so that a few percent off the diagonal are seen.
    image = axes.imshow(shown, cmap=colours, norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    if figure is not None:
        bar = figure.colorbar(image, ax=axes, ticks=[0, 1, 5, 10, 25, 50, 100], fraction=0.04, pad=0.02)
        bar.set_label("% of the true class")
    if classes is None:
        return
    names = [classes[index] for index in order]
    size = min(9.0, 260 / len(order))
    axes.set_xticks(range(len(order)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(order)), names, fontsize=size)
    for (row, column), value in np.ndenumerate(shown):
        if value >= 0.5:
            colour = "white" if value > 35 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=0.85 * size)


def _list_pairs(axes: Axes, pairs: Sequence[Pair], classes: Sequence[str]) -> None:
    axes.axis("off")
    axes.set_title(f"the {len(pairs)} worst pairs" if pairs else "no clip was confused")
    for line, pair in enumerate(pairs):
        text = f"{pair.percent:3.0f} % ({pair.clips})  {classes[pair.true]} → {classes[pair.predicted]}"
        axes.text(0, 1 - (line + 0.5) / WORST, text, transform=axes.transAxes, va="center", fontsize=8)


def draw_per_class(accuracy: Accuracy, classes: Sequence[str], title: str, path: Path) -> None:
    """Accuracy of each class, worst at the top; of many classes the worst by name, and the profile of all beside them.

    A class without test clips has no bar and says so.
    """
    order = np.argsort(np.nan_to_num(accuracy.per_class, nan=np.inf), kind="stable")
    many = len(order) > LABELLED_BARS
    named = order[:LABELLED_BARS]
    size = (11 if many else 7.5, 1.4 + 0.2 * len(named))
    with _figure(path, 1, 1 + many, size=size) as (figure, (row,)):
        figure.suptitle(f"{title}: mean of the classes {accuracy.mean_class:.2f} %", x=0.01, ha="left")
        row[0].barh([classes[index] for index in named], np.nan_to_num(accuracy.per_class[named]), color=BLUE)
        row[0].invert_yaxis()
        row[0].margins(y=0.01)
        for place, index in enumerate(named):
            value = accuracy.per_class[index]
            text = "no test clips" if np.isnan(value) else f"{value:.0f}"
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            row[0].text(0 if np.isnan(value) else value + 0.8, place, text, va="center", fontsize=7, bbox=box)
        if many:
            profile = np.sort(accuracy.per_class[~np.isnan(accuracy.per_class)])
            row[0].set_title(f"the worst {len(named)} of {len(profile)} classes with test clips")
            row[1].plot(np.arange(1, len(profile) + 1), profile, color=BLUE)
            row[1].axvspan(1, min(len(named), len(profile)), color=BLUE, alpha=0.1, linewidth=0)
            row[1].set(ylim=(0, 102), xlabel="class, worst first", title="all classes (shaded: those on the left)")
            row[1].axhline(accuracy.mean_class, color=ORANGE)
        row[0].axvline(accuracy.mean_class, color=ORANGE, zorder=0.5)
        row[0].set(xlim=(0, 107), xticks=range(0, 101, 20), xlabel="top-1 accuracy [%], the line is their mean")
        row[0].grid(False, axis="y")


def draw_outcome(
    outcome: Outcome, classes: Sequence[str], title: str, records: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """Confusion and accuracies of the classes for each of the weights; of a run with `records`, its curves."""
    for selection, (epoch, accuracy) in outcome.items():
        heading = f"{title}, {title_of_weights(selection, epoch)}"
        draw_confusion(accuracy, classes, heading, folder / f"confusion_{selection}.png")
        draw_per_class(accuracy, classes, heading, folder / f"per_class_{selection}.png")
    if records:
        draw_curves(records, title, folder / "curves.png")


def title_of_weights(selection: str, epoch: int | None) -> str:
    """What figures call the weights that they are about: `last epoch 65`, `given weights`."""
    if epoch is None:
        return "given weights"
    return f"given weights of epoch {epoch}" if selection == "test" else f"{selection} epoch {epoch}"


def losses_of(record: Mapping[str, Any]) -> list[str]:
    """The losses in a record of a training epoch: what stands between the epoch and their sum, `loss`."""
    names = list(record)
    return names[names.index("epoch") + 1 : names.index("loss")] if "loss" in record else []


def gradients_of(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The losses' gradients at the encoder's last map, of each epoch the means over the steps that have a record."""
    by_epoch: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        if any(name.startswith(GRADIENT) for name in record):
            by_epoch.setdefault(record["epoch"], []).append(record)
    means: list[Mapping[str, Any]] = []
    for epoch, steps in by_epoch.items():
        names = dict.fromkeys(name for step in steps for name in step if name.startswith(GRADIENT))
        of_steps = {name: [step[name] for step in steps if name in step] for name in names}
        means.append({"epoch": epoch} | {name: float(np.mean(values)) for name, values in of_steps.items()})
    return means


def draw_curves(records: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """By epoch: losses (between their bounds where a head logs them), similarities, the means of the losses' gradients,
    accuracies and learning rate."""
    train = [record for record in records if record["kind"] == "train"]
    test = [record for record in records if record["kind"] == "test"]
    held_out = [record for record in records if record["kind"] == "validation"]
    losses = list(dict.fromkeys(name for record in train for name in losses_of(record)))
    logged = list(dict.fromkeys(name for record in train for name in record))
    panels = []
    for loss in losses:
        bounds = {f"{side} bound": (f"bound_{loss}_{side}", train) for side in ("lower", "upper")}
        bounds = {label: line for label, line in bounds.items() if line[0] in logged}
        panels += [(loss.replace("_", " "), {"": (loss, train)} | bounds)]
    for loss in losses:
        start = f"similarity_{loss}_"
        kinds = {name.removeprefix(start).replace("_", " "): (name, train) for name in logged if name.startswith(start)}
        panels += [(f"similarity, {loss.replace('_', ' ')}", kinds)] if kinds else []
    gradients = gradients_of(records)
    terms = {name: None for record in gradients for name in record if name.startswith(GRADIENT)}
    lines = {name.removeprefix(GRADIENT).replace("_", " "): (name, gradients) for name in terms}
    panels += [("sum of the losses", {"": ("loss", train)})] if len(losses) > 1 else []
    panels += [(GRADIENTS, lines)] if lines else []
    accuracies = {"training": ("top1", train), "validation": ("top1", held_out), "test": ("top1", test)}
    panels += [
        ("top-1 accuracy [%]", {name: line for name, line in accuracies.items() if held_out or name != "validation"})
    ]
    panels += [("learning rate", {"": ("lr", train)})]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with _figure(path, rows, columns, size=(3.6 * columns, 2.6 * rows + 0.5)) as (figure, grid):
        figure.suptitle(title, x=0.01, ha="left")
        for axes, (heading, lines) in zip(grid.flat, panels, strict=False):
            for label, (name, source) in lines.items():
                points = [(record["epoch"], record[name]) for record in source if name in record]
                marker = "o" if len(points) <= FEW else None  # of a single epoch a line alone shows nothing
                style = "--" if name.startswith("bound_") else "-"
                axes.plot(*zip(*points, strict=True), style, marker=marker, label=label) if points else None
            axes.set(title=heading, xlabel="epoch")
            axes.set_yscale("log" if heading == GRADIENTS and axes.lines else "linear")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if len(lines) > 1 and axes.lines:
                axes.legend(loc="best")
        for axes in grid.flat[len(panels) :]:
            axes.axis("off")


def draw_tsne(
    points: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    title: str,
    path: Path,
    chosen: Sequence[int],
) -> None:
    """A t-SNE embedding (n, 2), coloured by class; the classes that are not `chosen` are grey."""
    with _figure(path, 1, 1, size=(8, 5.5)) as (figure, ((axes,),)):
        figure.suptitle(title, x=0.01, ha="left")
        others = ~np.isin(labels, chosen)
        if others.any():
            axes.scatter(*points[others].T, s=8, color=GREY, alpha=0.3, linewidths=0, label="other classes")
        styles = [(colour, marker) for marker in MARKERS for colour in SERIES]
        for index, (colour, marker) in zip(chosen, cycle(styles), strict=False):
            mine = labels == index
            if mine.any():
                axes.scatter(*points[mine].T, s=16, color=colour, marker=marker, linewidths=0, label=classes[index])
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.set_aspect("equal", "datalim")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def add_to_tensorboard(figures: Path, board: Path, step: int) -> None:
    """Copy the PNG files of a folder into a file of TensorBoard's events. Raises OSError when the disk refuses."""
    board.mkdir(exist_ok=True)
    with (board / f"events.out.tfevents.{time.time():.0f}.figures").open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for path in sorted(figures.glob("*.png")):
            with Image.open(path) as opened:
                width, height = opened.size
            image = Summary.Image(encoded_image_string=path.read_bytes(), width=width, height=height, colorspace=3)
            value = Summary.Value(tag=f"figures/{path.stem}", image=image)
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=[value]))
            records.write(event.SerializeToString())


@contextmanager
def _figure(
    path: Path, rows: int, columns: int, size: tuple[float, float], width_ratios: Sequence[float] | None = None
) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure and its axes (rows, columns) in the project's style, saved as PNG and PDF."""
    with mpl.rc_context(fname=STYLE, rc={"axes.prop_cycle": cycler(color=SERIES)}):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, width_ratios=width_ratios)
        yield figure, axes
        for suffix in (".png", ".pdf"):
            figure.savefig(path.with_suffix(suffix))
        plt.close(figure)
