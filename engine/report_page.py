"""report.html of a run folder: what a reader wants first, in one file without links, made of the files beside it."""

from __future__ import annotations

import csv
import json
import shlex
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from common import html_page
from common.files import write_atomically
from common.yaml_files import read_yaml
from engine.config import CONFIG_FILE
from engine.figures import worst_pairs
from engine.schema import EXECUTION_KEYS, leaves
from heads.registry import title_of_head

PAGE = "report.html"
SELECTIONS = {"last": "last epoch", "best": "best epoch *", "test": "given weights"}
"""The weights that a table of accuracies may be about; the asterisk is explained by `chosen_by`."""
FIGURES = {"curves": "Curves", "confusion": "Confusion", "per_class": "Classes", "tsne": "t-SNE of test clips"}


def write_page(folder: Path, results: dict[str, Any]) -> None:
    """Write report.html into a folder that has config.yaml, environment.json, confusion_*.csv and, maybe, figures.

    Args:
        folder: the run folder, or that of a test.
        results: what results.json holds.

    Raises:
        WriteError: the disk refuses.
    """
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    outcome = {selection: results[selection] for selection in SELECTIONS if selection in results}
    parts = [
        f"<h1>{escape(folder.resolve().name)}</h1>",
        f"<p>{escape(title_of(results))}: {results['test_clips']} test clips</p>",
        _accuracies(outcome, (read_yaml(folder / CONFIG_FILE) or {}).get("data", {}).get("validation", 0)),
        *(_figures(folder, name, title, outcome) for name, title in FIGURES.items()),
        _worst_pairs(folder, outcome),
        _classes(folder, outcome),
        _settings(folder),
        "<h2>Environment</h2>",
        html_page.table(("", ""), [(key, str(value)) for key, value in environment.items() if key != "command"]),
        "<h2>The command that repeats it</h2>",
        f"<pre>{escape(shlex.join(['python', *environment['command']]))}</pre>",
        "<p class=aside>From the repository's root; if the run folder is still there, add <code>--resume never</code>, "
        "which sets it aside, or <code>--name</code> with another name.</p>",
    ]
    page = html_page.document(folder.resolve().name, parts)
    write_atomically(folder / PAGE, lambda file: file.write(page.encode()))


def title_of(results: dict[str, Any]) -> str:
    """What figures and tables call a run, of which results.json says as much: encoder and heads, stream, benchmark."""
    encoder = " + ".join([results["encoder"], *map(title_of_head, results.get("heads", ()))])
    return f"{encoder}, {results['stream']}, {results['benchmark']}"


def chosen_by(validation: float) -> str:
    """How the best epoch was chosen, given `data.validation`."""
    clips = "clips held out of training" if validation else "these same test clips, as is usual for these benchmarks"
    return f"* chosen by its accuracy on {clips}"


def _accuracies(outcome: dict[str, Any], validation: float) -> str:
    rows = [
        (SELECTIONS[name], "" if of["epoch"] is None else of["epoch"], *(of[k] for k in ("top1", "top5", "mean_class")))
        for name, of in outcome.items()
    ]
    table = html_page.table(("", "epoch", "top-1 %", "top-5 %", "class mean %"), rows)
    return table + (f"<p class=aside>{chosen_by(validation)}</p>" if "best" in outcome else "")


def _figures(folder: Path, name: str, title: str, outcome: dict[str, Any]) -> str:
    """The figures of one kind; that of the last epoch is folded beside that of the best one."""
    stems = [name, *(f"{name}_{selection}" for selection in ("best", "test", "last") if selection in outcome)]
    paths = [path for stem in stems if (path := folder / "figures" / f"{stem}.png").exists()]
    if not paths:
        return ""
    shown, *folded = [html_page.image(path, path.stem.replace("_", " ")) for path in paths]
    more = "".join(f"<details><summary>last epoch</summary><div class=wide>{image}</div></details>" for image in folded)
    return f"<h2>{title}</h2><div class=wide>{shown}</div>{more}"


def _worst_pairs(folder: Path, outcome: dict[str, Any]) -> str:
    selection = "best" if "best" in outcome else next(iter(outcome))
    names, confusion = _confusion(folder, selection)
    rows = [(f"{names[p.true]} → {names[p.predicted]}", p.percent, p.clips) for p in worst_pairs(confusion)]
    if not rows:
        return ""
    title = f"<h2>Worst pairs ({SELECTIONS[selection].removesuffix(' *')})</h2>"
    return title + html_page.table(("true → predicted", "% of the class", "clips"), rows)


def _classes(folder: Path, outcome: dict[str, Any]) -> str:
    """Accuracy of every class, worst first."""
    names, confusion = _confusion(folder, next(iter(outcome)))
    of_class = [[of["per_class"][name] for of in outcome.values()] for name in names]
    rows = [
        (name, int(row.sum()), *("–" if value is None else value for value in values))
        for name, row, values in zip(names, confusion, of_class, strict=True)
    ]
    rows.sort(key=lambda row: 101 if row[-1] == "–" else row[-1])
    heads = ("class", "test clips", *(f"{SELECTIONS[selection].removesuffix(' *')} %" for selection in outcome))
    return f"<details><summary>Accuracy of all {len(rows)} classes</summary>{html_page.table(heads, rows)}</details>"


def _settings(folder: Path) -> str:
    """What is not at its default, with where it was set; what only says how the run executes is omitted."""
    tree, origins = read_yaml(folder / CONFIG_FILE) or {}, {}
    section: list[str] = []
    for line in (folder / CONFIG_FILE).read_text(encoding="utf-8").splitlines():
        key, _, rest = line.partition(":")
        section = [*section[: (len(key) - len(key.lstrip())) // 2], key.strip()]
        origins[".".join(section)] = rest.rpartition(" # ")[2]
    rows = []
    for key, leaf in leaves().items():
        value: Any = tree
        for part in key.split("."):
            value = value.get(part, leaf.default) if isinstance(value, dict) else leaf.default
        if value != leaf.default and key not in EXECUTION_KEYS:
            rows.append((key, json.dumps(value, ensure_ascii=False), origins.get(key, "")))
    return "<h2>Settings that differ from the defaults</h2>" + html_page.table(("setting", "value", "set in"), rows)


def _confusion(folder: Path, selection: str) -> tuple[list[str], np.ndarray]:
    """Class names and counts (K, K)."""
    with (folder / f"confusion_{selection}.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return [row[0] for row in rows], np.array([row[1:] for row in rows], np.int64)
