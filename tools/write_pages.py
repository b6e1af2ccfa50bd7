"""Write the pages that are made from the schema and the configurations: `python tools/write_pages.py`.

docs/configuration.md   every setting, from engine/schema.py
docs/recipes.md         what each configuration trains with, and how that compares with docs/published_recipes.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from common.arguments import Parser
from common.front_door import run_command
from common.yaml_files import read_yaml
from engine.config import resolve
from engine.schema import RunConfig, flatten
from engine.settings_pages import configuration_page
from feeders.benchmarks import get_benchmark
from heads.registry import head_names
from model.registry import option_defaults

REPOSITORY = Path(__file__).resolve().parent.parent
BENCHMARKS = ("ntu60-xsub", "ntu60-xview", "ntu120-xsub", "ntu120-xset", "nw-ucla")
"""The benchmarks of the CSRE paper."""
NAMES = {
    "optim.name": "optimiser",
    "optim.lr": "rate",
    "optim.momentum": "momentum",
    "optim.nesterov": "Nesterov",
    "optim.weight_decay": "weight decay",
    "optim.batch_size": "batch",
    "optim.test_batch_size": "test batch",
    "optim.epochs": "epochs",
    "optim.warmup_epochs": "warm-up",
    "optim.milestones": "steps",
    "optim.gamma": "factor",
    "optim.decay": "decay per epoch",
    "optim.cosine": "cosine to",
    "optim.clip_norm": "gradient norm",
    "optim.published_amp": "precision",
    "data.variant": "variant",
    "data.window": "window",
    "data.repeat": "repeat",
    "data.rotation": "rotation",
    "data.origin": "origin",
    "data.second_person": "second person",
    "model.options": "options",
    "seed": "seed",
}
"""What the pages call the settings of a recipe; others by their last word."""
OF_NTU = ("rotation", "origin", "second_person")
NOT_OF_ADAM = ("optim.momentum", "optim.nesterov")
HEAD = """\
# Recipes

`python tools/write_pages.py` makes this page from the configurations and from
[published_recipes.yaml](published_recipes.yaml), which holds what is known about the published ones.

## What the configurations train with

Momentum of SGD is 0.9 with Nesterov. "Steps" are the epochs, counted from 0, from which the rate is multiplied by the
factor; the warm-up is linear. "Cosine to" is the fraction of the rate at which half a cosine after the warm-up ends.
"Precision" is the authors': `optim.amp: auto` uses it on CUDA and trains in float32 on the CPU. In the variant
`centred`, joint and bone streams are relative to the root joint, which keeps its trajectory. A CSRE run has the recipe
of its encoder; where it differs, there is a row `+ CSRE`.

"""
SOURCES = """\

## Sources, and what no setting expresses

In all published repositories but HCN's, every data-loading worker draws the same augmentation in each epoch. This is
deliberately not reproduced: here every visit to a clip draws anew.
"""
COMPARISON = """\

## Where those of the CSRE paper's benchmarks equal the published ones

| benchmark | encoder | recipe equals the published one in | differs in | not published |
|---|---|---|---|---|
"""


class Recipe(NamedTuple):
    """One configuration of one benchmark."""

    benchmark: str
    encoder: str
    settings: dict[str, Any]

    @property
    def title(self) -> str:
        """The encoder as the tables call it."""
        return self.encoder.replace("+csre", " + CSRE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused with a line on stderr."""
    return run_command("tools/write_pages.py", lambda: _write(_parser().parse(argv)))


def _write(_: argparse.Namespace) -> None:
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(REPOSITORY))


def pages() -> dict[Path, str]:
    """The pages by path."""
    docs = REPOSITORY / "docs"
    return {docs / "configuration.md": configuration_page(), docs / "recipes.md": recipes_page()}


def recipes_page() -> str:
    """Both tables of the recipes."""
    published = read_yaml(REPOSITORY / "docs" / "published_recipes.yaml")
    recipes = list(_recipes(published))
    parts = [HEAD, _table_of_settings(recipes), COMPARISON]
    parts += [_comparison(recipe, published.get(recipe.encoder, {})) for recipe in recipes]
    parts.append(SOURCES)
    for encoder, facts in published.items():
        parts.append(f"\n**{encoder.replace('+csre', ' + CSRE')}**: {facts['source']}.\n")
        parts += [f"- {line}\n" for line in facts.get("beyond", ())]
    return "".join(parts)


def _recipes(published: dict[str, Any]) -> Iterator[Recipe]:
    for benchmark in BENCHMARKS:
        folder = REPOSITORY / "config" / benchmark
        encoders = {path.stem.removesuffix("_joint") for path in folder.glob("*_joint.yaml")}
        own = {name for name in encoders if not head_names(flatten(_load(folder / f"{name}_joint.yaml")))}
        for encoder in sorted({*own, *(name for name in published if name.endswith("+csre"))}):
            config = _load(folder / f"{encoder.replace('+', '_')}_joint.yaml")
            facts = get_benchmark(benchmark)
            settings = flatten(config)
            options = option_defaults(config.model.name) | config.model.options
            settings |= {f"model.options.{key}": value for key, value in options.items()}
            for name in ("window", "repeat", *(OF_NTU if facts.transforms == "ntu" else ())):
                if settings[f"data.{name}"] is None:
                    settings[f"data.{name}"] = getattr(facts, name)
            yield Recipe(benchmark, encoder, settings)


def _load(path: Path) -> RunConfig:
    resolved = resolve(["--config", str(path)])
    assert resolved is not None
    return resolved.config


def _table_of_settings(recipes: list[Recipe]) -> str:
    keys = ["optim.name", "optim.lr", "optim.weight_decay", "optim.batch_size", "optim.epochs", "optim.warmup_epochs"]
    keys += ["optim.milestones", "optim.gamma", "optim.decay", "optim.cosine", "optim.clip_norm", "optim.published_amp"]
    keys += [
        "seed",
        "data.variant",
        "data.window",
        "data.rotation",
        "data.origin",
        "data.second_person",
        "model.options",
    ]
    heads = ["encoder", "benchmark", *map(_name, keys)]
    rows: dict[tuple[str, ...], list[str]] = {}
    for recipe in sorted(recipes, key=lambda recipe: recipe.encoder):
        values = tuple(_shown(recipe.settings[key]) for key in keys)
        if recipe.encoder.endswith("+csre") and (recipe.encoder.removesuffix("+csre"), *values) in rows:
            continue
        rows.setdefault((recipe.encoder, *values), []).append(recipe.benchmark)
    lines = [heads, ["---"] * len(heads)]
    lines += [[row[0].replace("+csre", " + CSRE"), ", ".join(names), *row[1:]] for row, names in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _comparison(recipe: Recipe, facts: dict[str, Any]) -> str:
    """A row of the second table. Raises KeyError for a difference without a reason."""
    published = dict(_dotted(facts.get("settings", {}).get(recipe.benchmark, {})))
    equal: list[str] = []
    differing: dict[str, list[str]] = {}
    for key, value in published.items():
        if recipe.settings.get(key) == value:
            equal.append(_name(key))
        else:
            reason = facts["reasons"].get(f"{recipe.benchmark}/{key}") or facts["reasons"][key]
            text = f"{_name(key)} ({_shown(value)} there, {_shown(recipe.settings.get(key))} here)"
            differing.setdefault(reason, []).append(text)
    unknown = [name for key, name in NAMES.items() if key not in published and _applies(key, recipe.settings)]
    proposal = facts.get("proposals", {}).get(recipe.benchmark)
    cells = [
        recipe.benchmark,
        recipe.title,
        ", ".join(equal) or "-",
        "; ".join(f"{', '.join(texts)}: {reason}" for reason, texts in differing.items()) or "-",
        (", ".join(unknown) if published else "all of it") + (f"; proposed here: {proposal}" if proposal else ""),
    ]
    return f"| {' | '.join(cells)} |\n"


def _name(key: str) -> str:
    return NAMES.get(key, key.removeprefix("csre.").removeprefix("model.options.").removeprefix("data."))


def _applies(key: str, settings: dict[str, Any]) -> bool:
    """Whether a setting does anything in this recipe."""
    if key == "model.options":
        return False
    if key == "optim.decay":
        return bool(settings[key] != 1)
    if key in ("optim.gamma", "optim.milestones"):
        return bool(settings["optim.milestones"])
    return bool(settings[key] is not None and (settings["optim.name"] == "sgd" or key not in NOT_OF_ADAM))


def _dotted(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    """A value in a cell."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _parser() -> Parser:
    return Parser(prog="tools/write_pages.py", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
