"""What is left of a run for its reader: a table, numbers as data, figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.evaluate import Accuracy, Outcome, embedded, pooled_features
from engine.experiment import Experiment
from engine.figures import add_to_tensorboard, confused_classes, draw_outcome, draw_tsne, title_of_weights
from engine.logs import Log, read_records
from engine.report_page import PAGE, SELECTIONS, chosen_by, title_of, write_page
from engine.run_folder import RunFolder
from engine.schema import flatten
from feeders.benchmarks import benchmark_name
from heads.registry import head_names


def report(run: Experiment, folder: RunFolder, log: Log, outcome: Outcome) -> None:
    """Print the table of a run, and write confusion_*.csv, the figures and report.html into a folder.

    results.json comes last: where it is, the report is whole.
    """
    figures, classes = folder.path / "figures", run.test_clips.class_names
    title, results = describe(run), _results(run, outcome)
    for selection, (_, accuracy) in outcome.items():
        folder.write_text(f"confusion_{selection}.csv", confusion_as_csv(classes, accuracy.confusion))
    log.say(table_of(run, outcome))
    if run.config.log.figures:
        draw_outcome(outcome, classes, title, read_records(folder.metrics), figures)
    for path in (*folder.path.glob("tsne.npz"), *figures.glob("tsne.*")):
        path.unlink()  # of other weights, where this report has none
    if run.config.log.tsne_clips:
        selection = "last" if "last" in outcome else "test"  # what the encoder holds
        epoch, accuracy = outcome[selection]
        _embed(run, folder, log, accuracy, f"{title}, {title_of_weights(selection, epoch)}")
    if run.config.log.figures:
        add_to_tensorboard(figures, folder.path / "tensorboard", step=run.counters.tested)
    write_page(folder.path, results)
    folder.write_json("results.json", results)
    log.say(f"everything of this run is in {folder.path}; open {PAGE} there first")


def confusion_as_csv(classes: Sequence[str], confusion: np.ndarray) -> str:
    """A line of names (in quotes), and for each class its name and the counts (K, K) of clips taken for each."""
    text = io.StringIO()
    rows = [[name, *row] for name, row in zip(classes, confusion.tolist(), strict=True)]
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([["true \\ predicted", *classes], *rows])
    return text.getvalue()


def describe(run: Experiment) -> str:
    """Encoder and heads, stream and benchmark, such as `ctrgcn, joint, nw-ucla`."""
    return title_of(_facts(run))


def table_of(run: Experiment, outcome: Outcome) -> str:
    """The accuracies of a run as a table of text."""
    lines = ["", f"{describe(run)}: {len(run.test_clips)} test clips"]
    lines.append(f"{'':24}{'epoch':>7}{'top-1 %':>9}{'top-5 %':>9}{'class mean %':>14}")
    for selection in filter(outcome.__contains__, SELECTIONS):
        epoch, accuracy = outcome[selection]
        numbers = f"{accuracy.top1:9.2f}{accuracy.top5:9.2f}{accuracy.mean_class:14.2f}"
        lines.append(f"{SELECTIONS[selection]:24}{'' if epoch is None else epoch:>7}{numbers}")
    if "best" in outcome:
        lines.append(chosen_by(run.config.data.validation))
    return "\n".join(lines)


def _facts(run: Experiment) -> dict[str, Any]:
    return {
        "benchmark": benchmark_name(run.config.data.benchmark),
        "encoder": run.config.model.name,
        "heads": head_names(flatten(run.config)),
        "stream": run.config.data.stream,
        "seed": run.config.seed,
    }


def _results(run: Experiment, outcome: Outcome) -> dict[str, Any]:
    classes = run.test_clips.class_names
    return {
        **_facts(run),
        "test_clips": len(run.test_clips),
        **{
            selection: {
                "epoch": epoch,
                "top1": accuracy.top1,
                "top5": accuracy.top5,
                "mean_class": accuracy.mean_class,
                "per_class": {
                    name: None if np.isnan(value) else float(value)
                    for name, value in zip(classes, accuracy.per_class, strict=True)
                },
            }
            for selection, (epoch, accuracy) in outcome.items()
        },
    }


def _embed(run: Experiment, folder: RunFolder, log: Log, accuracy: Accuracy, title: str) -> None:
    """t-SNE of the pooled features of test clips, from the weights that were tested last."""
    clips = run.config.log.tsne_clips
    log.say(f"computing the t-SNE of {min(clips, len(run.test_clips))} test clips")
    features, labels = pooled_features(run.tested_encoder, run.test_clips, clips, run.config.optim, run.device)
    points = embedded(features)
    if points is None:
        log.say(f"no t-SNE of {len(features)} test clips: it needs at least 4 whose features differ")
        return
    np.savez(folder.path / "tsne.npz", points=points, labels=labels)
    if run.config.log.figures:
        chosen, path = confused_classes(accuracy.confusion), folder.path / "figures" / "tsne.png"
        draw_tsne(points, labels, run.test_clips.class_names, title, path, chosen)
