"""What the settings of training heads change: each of a sweep against the runs without heads, in pairs of seeds.

All numbers are of the last epoch, unless they are said to be of the best, and from records alone. Runs belong together
if they differ in their heads, the heads' settings and the seed only.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt

from common.colours import BLUE, ORANGE
from engine.figures import STYLE
from heads.registry import HEADS, OWN
from tools.compare import Difference, paired_difference
from tools.paper_tables import Table, benchmark_title, epochs_of, spread, title_of, variation
from tools.runs import Record

PARTS = {"held-out part": ("validation_curve", ORANGE), "test part": ("curve", BLUE)}
"""By name: where records have its accuracies, and its colour."""


class Setting(NamedTuple):
    """One setting of a sweep: its title, without what all settings of a head share; its records; by part its difference
    to the baseline (None: none to compare with)."""

    title: str
    records: list[Record]
    differences: dict[str, Difference | None]

    def last(self, part: str) -> list[float]:
        """Top-1 (%) after the last epoch, by seed; empty for a part that was not tested."""
        return [record[PARTS[part][0]][-1] for record in self.records if PARTS[part][0] in record]


def sweeps(records: Sequence[Record]) -> list[list[Setting]]:
    """The sweeps among all runs: the baseline, then every other setting; two of these at least."""
    families: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["kind"] == "run":
            alike = {key: value for key, value in record["settings"].items() if not _of_heads(key) and key != "seed"}
            families[json.dumps(alike, sort_keys=True)][_title(record)].append(record)
    found = []
    for _, family in sorted(families.items()):
        titles = sorted(family, key=lambda title: (len(family[title][0]["heads"]), title))
        baseline = family[titles[0]]
        if len(titles) > 2 and not baseline[0]["heads"]:
            groups = [sorted(family[title], key=lambda record: record["seed"]) for title in titles]
            shared = _shared([group[0] for group in groups])
            found.append([Setting(_title(group[0], shared), group, _differences(baseline, group)) for group in groups])
    return found


def of_rivals(found: Sequence[list[Setting]]) -> list[list[Setting]]:
    """The sweeps that compare one head with another."""
    return [settings for settings in found if len({tuple(row.records[0]["heads"]) for row in settings}) > 2]


def table_of(found: Sequence[Sequence[Setting]]) -> Table:
    """A row for each setting: means and spreads over seeds, and differences with their 95 % t-intervals."""
    heads = [head for part in PARTS for head in (part, "difference")]
    rows = [["benchmark", "run", "epochs", "seeds", *heads, "test part, best epoch"]]
    for setting in (setting for settings in found for setting in settings):
        cells = []
        for part, difference in setting.differences.items():
            margin = f" ± {difference.margin:.1f}" if difference and difference.margin is not None else ""
            cells += [spread(setting.last(part)), f"{difference.mean:+.1f}{margin}" if difference else ""]
        cells.append(spread([record["best"]["top1"] for record in setting.records]))
        benchmark, epochs = benchmark_title(setting.records[0]["benchmark"]), epochs_of(setting.records)
        rows.append([benchmark, setting.title, epochs, str(len(setting.records)), *cells])
    return rows


def draw(found: Sequence[Sequence[Setting]], path: Path) -> None:
    """The differences with their intervals, as PNG: one panel for each sweep."""
    heights = [len(settings) - 1 for settings in found]
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            len(found), 1, squeeze=False, figsize=(7, 1.1 + 0.36 * sum(heights)), height_ratios=heights
        )
        for axes, (baseline, *others) in zip(grid[:, 0], found, strict=True):
            for shift, (part, (_, colour)) in zip((-0.13, 0.13), PARTS.items(), strict=True):
                points = [
                    (place + shift, difference.mean, difference.margin or 0)
                    for place, setting in enumerate(others)
                    if (difference := setting.differences[part])
                ]
                if points:
                    places, means, margins = zip(*points, strict=True)
                    axes.errorbar(means, places, xerr=margins, fmt="o", color=colour, capsize=3, label=part)
            axes.axvline(0, color="black", linewidth=0.8)
            axes.set_yticks(range(len(others)), [setting.title for setting in others])
            axes.set_ylim(len(others) - 0.5, -0.5)
            benchmark, epochs = (baseline.records[0][key] for key in ("benchmark", "epochs"))
            about = f"{benchmark_title(benchmark)}, {epochs} epochs, {len(baseline.records)} seeds"
            axes.set_title(f"{about}: difference to {baseline.title}", loc="left")
        grid[-1, 0].set_xlabel("top-1 after the last epoch [points], with 95 % interval over pairs of seeds")
        grid[0, 0].legend(loc="upper left", bbox_to_anchor=(1.01, 1))
        figure.savefig(path, dpi=100, bbox_inches="tight")
        plt.close(figure)


def _differences(baseline: Sequence[Record], group: Sequence[Record]) -> dict[str, Difference | None]:
    differences: dict[str, Difference | None] = dict.fromkeys(PARTS)
    for part, (curve, _) in PARTS.items():
        sides: list[dict[int, float]] = [
            {record["seed"]: record[curve][-1] for record in side if curve in record} for side in (baseline, group)
        ]
        seeds = sorted(sides[0].keys() & sides[1].keys())
        if seeds and group[0]["heads"]:
            differences[part] = paired_difference(*([side[seed] for seed in seeds] for side in sides))
    return differences


def _of_heads(key: str) -> bool:
    return key.partition(".")[0] in (*HEADS, OWN)


def _title(record: Record, shared: Sequence[str] = ()) -> str:
    """`HCN + CSRE, temperature 0.1`: the heads and their settings, without the recipe's and those in `shared`."""
    varied = {key.partition(".")[2]: value for key, value in _varied(record).items() if key not in shared}
    return ", ".join(
        [title_of(record["encoder"], record["heads"]), *(f"{key} {_text(value)}" for key, value in varied.items())]
    )


def _varied(record: Record) -> dict[str, Any]:
    changed = variation(record)
    settings = record["settings"] if changed is None else changed
    return {key: value for key, value in settings.items() if _of_heads(key)}


def _shared(records: Sequence[Record]) -> list[str]:
    """The settings that tell none of these runs apart, as all with their head have them."""
    values = defaultdict(list)
    for record in records:
        for key, value in _varied(record).items():
            values[key].append(value)
    heads = [head for record in records for head in record["heads"]]
    return [
        key
        for key, found in values.items()
        if len(found) == heads.count(key.partition(".")[0]) and all(value == found[0] for value in found)
    ]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
