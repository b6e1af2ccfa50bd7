"""Figures of a run, as PNG files; the numbers behind each lie beside it as CSV, NPZ or JSON lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed, nor looked for

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay

from engine.evaluate import Accuracy
from engine.records import read_records


def draw_confusion(accuracy: Accuracy, classes: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrix in percent of each class; numbers in the cells where there are few enough classes."""
    totals = accuracy.confusion.sum(axis=1, keepdims=True)
    percent = 100 * accuracy.confusion / np.maximum(totals, 1)
    side = max(6.0, 0.3 * len(classes))
    figure, axes = plt.subplots(figsize=(side + 1, side))
    ConfusionMatrixDisplay(percent, display_labels=classes).plot(
        ax=axes,
        include_values=len(classes) <= 20,
        values_format=".0f",
        xticks_rotation="vertical",
        cmap="Blues",
        im_kw={"vmin": 0, "vmax": 100},
    )
    axes.set(title=f"{title}: {accuracy.top1:.2f} % of {accuracy.clips} clips (cells: % of the true class)")
    _save(figure, path)


def draw_per_class(accuracy: Accuracy, classes: Sequence[str], title: str, path: Path) -> None:
    """Accuracy of each class as bars, worst first."""
    order = np.argsort(np.nan_to_num(accuracy.per_class, nan=-1.0))[::-1]
    figure, axes = plt.subplots(figsize=(7, max(3.0, 0.22 * len(classes) + 1)))
    axes.barh([classes[index] for index in order], np.nan_to_num(accuracy.per_class[order]), color="tab:blue")
    axes.axvline(accuracy.mean_class, color="tab:orange", label=f"mean of the classes {accuracy.mean_class:.2f} %")
    axes.set(xlim=(0, 100), xlabel="top-1 accuracy [%]", title=title)
    axes.legend(loc="lower right")
    _save(figure, path)


def draw_curves(metrics: Path, title: str, path: Path) -> None:
    """Losses and accuracies over the epochs, from a run's JSON lines."""
    lines = read_records(metrics)
    train = [line for line in lines if line["kind"] == "train"]
    test = [line for line in lines if line["kind"] == "test"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name in ("cross_entropy", "spatial", "temporal", "global"):
        counted = [line for line in train if name in line]  # an epoch whose steps were all left out has no means
        if counted:
            left.plot(
                [line["epoch"] for line in counted], [line[name] for line in counted], label=name.replace("_", " ")
            )
    left.set(xlabel="epoch", ylabel="training loss", title=title)
    if left.lines:
        left.legend()
    for name, rows in {"train": train, "test": test}.items():
        counted = [row for row in rows if "top1" in row]
        right.plot([row["epoch"] for row in counted], [row["top1"] for row in counted], marker=".", label=name)
    right.set(xlabel="epoch", ylabel="top-1 accuracy [%]", ylim=(0, 100))
    right.legend()
    _save(figure, path)


def draw_tsne(points: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str, path: Path) -> None:
    """A t-SNE embedding (n, 2), coloured by class."""
    figure, axes = plt.subplots(figsize=(8, 6))
    colours = plt.get_cmap("turbo")(np.linspace(0, 1, len(classes)))
    for index, name in enumerate(classes):
        mine = labels == index
        if mine.any():
            axes.scatter(points[mine, 0], points[mine, 1], s=12, color=colours[index], label=name)
    axes.set(xticks=[], yticks=[], title=title)
    if len(classes) <= 20:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
