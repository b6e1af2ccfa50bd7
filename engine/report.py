"""What is left of a run for its reader: a table, numbers as data, figures."""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE

from engine.evaluate import Outcome, pooled_features
from engine.experiment import Experiment
from engine.figures import draw_confusion, draw_curves, draw_per_class, draw_tsne
from engine.logs import Log
from engine.records import read_records
from engine.run_folder import RunFolder
from feeders.benchmarks import benchmark_name


def report(run: Experiment, folder: RunFolder, log: Log, outcome: Outcome) -> None:
    """Print the table of a run, and write results.json, confusion_*.csv and the figures into a folder."""
    figures, classes = folder.path / "figures", run.test_clips.class_names
    title = describe(run)
    for selection, (epoch, accuracy) in outcome.items():
        heading = f"{title}, {selection}" + (f" epoch {epoch}" if epoch is not None else "")
        lines = ["true \\ predicted," + ",".join(f'"{name}"' for name in classes)]
        lines += [f'"{name}",' + ",".join(map(str, row)) for name, row in zip(classes, accuracy.confusion, strict=True)]
        folder.write_text(f"confusion_{selection}.csv", "\n".join(lines) + "\n")
        if run.config.log.figures:
            draw_confusion(accuracy, classes, heading, figures / f"confusion_{selection}.png")
            draw_per_class(accuracy, classes, heading, figures / f"per_class_{selection}.png")
    if run.config.log.figures and (records := read_records(folder.metrics)):
        draw_curves(records, title, figures / "curves.png")
    if run.config.log.tsne_clips:
        _embed(run, folder, title)
    folder.write_json("results.json", _results(run, outcome))
    log.say(table_of(run, outcome))
    log.say(f"everything of this run is in {folder.path}")


def describe(run: Experiment) -> str:
    """`ctrgcn + CSRE, joint, nw-ucla`."""
    encoder = run.config.model.name + (" + CSRE" if run.config.csre.enabled else "")
    return f"{encoder}, {run.config.data.stream}, {benchmark_name(run.config.data.benchmark)}"


def table_of(run: Experiment, outcome: Outcome) -> str:
    """The accuracies of a run as a table of text."""
    lines = ["", f"{describe(run)}: {len(run.test_clips)} test clips"]
    lines.append(f"{'':24}{'epoch':>7}{'top-1 %':>9}{'top-5 %':>9}{'class mean %':>14}")
    names = {"last": "last epoch", "best": "best epoch *", "test": "given weights"}
    for selection in filter(outcome.__contains__, names):
        epoch, accuracy = outcome[selection]
        numbers = f"{accuracy.top1:9.2f}{accuracy.top5:9.2f}{accuracy.mean_class:14.2f}"
        lines.append(f"{names[selection]:24}{'' if epoch is None else epoch:>7}{numbers}")
    if "best" in outcome:
        lines.append("* chosen by its accuracy on these same test clips, as is usual for these benchmarks")
    return "\n".join(lines)


def _results(run: Experiment, outcome: Outcome) -> dict[str, object]:
    classes = run.test_clips.class_names
    return {
        "benchmark": benchmark_name(run.config.data.benchmark),
        "encoder": run.config.model.name,
        "csre": run.config.csre.enabled,
        "temperature": run.config.csre.temperature if run.config.csre.enabled else None,
        "stream": run.config.data.stream,
        "seed": run.config.seed,
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


def _embed(run: Experiment, folder: RunFolder, title: str) -> None:
    """t-SNE of the pooled features of test clips, from the weights that were tested last."""
    clips = run.config.log.tsne_clips
    features, labels = pooled_features(run.tested_encoder, run.test_clips, clips, run.config.optim, run.device)
    if len(features) < 4:  # too few points for any neighbourhood
        return
    perplexity = min(30.0, (len(features) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    np.savez(folder.path / "tsne.npz", points=points, labels=labels)
    if run.config.log.figures:
        draw_tsne(points, labels, run.test_clips.class_names, title, folder.path / "figures" / "tsne.png")
