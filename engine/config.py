"""From a configuration file and a command line to the settings of a run, each with its origin.

Order: defaults < inherited files < the file < the command line. Every mistake is one `ConfigError`, raised before torch
is imported.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from common.words import did_you_mean
from engine.config_files import Setting, read_settings
from engine.errors import ConfigError
from engine.schema import EXECUTION_KEYS, Leaf, RunConfig, flatten, instantiate, leaves
from feeders.benchmarks import get_benchmark
from feeders.errors import DataError
from model import list_encoders

COMMAND_LINE = "command line"
PRINT_CONFIG = "--print_config"
FLAGS = {"--allow-mismatch": ("--allow_mismatch", "true")}
"""Words of the command line that stand for a setting with its value."""
ASIDE = ".old-"
"""What stands in the name of a run folder that was set aside."""
LEAVES = leaves()


@dataclass(frozen=True)
class Resolved:
    """A complete configuration and where each value came from (a file, the command line, or `default`)."""

    config: RunConfig
    origins: dict[str, str]

    def as_yaml(self) -> str:
        """The configuration as YAML that can be given to `--config` again, with each value's origin as a comment."""
        lines: list[str] = []
        section: list[str] = []
        for key, value in flatten(self.config).items():
            *parents, name = key.split(".")
            for depth, parent in enumerate(parents):
                if section[: depth + 1] != parents[: depth + 1]:
                    lines.append(f"{'  ' * depth}{parent}:")
                    section = parents[: depth + 1]
            section = parents
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
            lines.append(f"{'  ' * len(parents) + name + ': ' + text:<60} # {self.origins[key]}")
        return "\n".join(lines) + "\n"


def resolve(argv: Sequence[str]) -> Resolved | None:
    """Resolve a command line such as `["--config", "run.yaml", "--csre.temperature", "0.5"]`.

    Returns:
        The configuration, or None if the line only asked to print something (`--help`, `--print_config`).

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, a missing file, a circle of inheritance.
    """
    parser = _parser()
    front = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    front.add_argument("--config", type=Path, nargs="?")
    front.add_argument("-h", "--help", action="store_true")
    asked, _ = front.parse_known_args(argv)
    if asked.help:
        parser.print_help()
        return None
    if asked.config is None:
        raise ConfigError(
            "--config: no configuration given; try --config config/demo/ctrgcn_csre_joint.yaml, or --help"
        )

    settings = {key: Setting(leaf.default, "default") for key, leaf in LEAVES.items()}
    for fragment in read_settings(asked.config):
        _merge(settings, fragment, parser)
    words = [word for word in argv if word != PRINT_CONFIG]
    _override(settings, [part for word in words for part in FLAGS.get(word, (word,))], parser)
    if settings["name"].value is None:
        settings["name"] = Setting(asked.config.stem, "name of the configuration file")
    config = instantiate({key: setting.value for key, setting in settings.items()})
    resolved = Resolved(config, {key: setting.origin for key, setting in settings.items()})
    _check_together(resolved)
    if PRINT_CONFIG in argv:
        print(resolved.as_yaml(), end="")
        return None
    return resolved


def differing_keys(stored: dict[str, Any], config: RunConfig, ignore: Iterable[str] = ()) -> list[str]:
    """`key: stored -> now` for every setting that defines what a run computes and is not the same."""
    now = flatten(config)
    skipped = EXECUTION_KEYS | set(ignore)
    return [
        f"{key}: {stored.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted((stored.keys() | now.keys()) - skipped)
        if stored.get(key) != now.get(key)
    ]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="main.py",
        description="Train a skeleton encoder, with or without CSRE, from one YAML file; then test it.",
        epilog="Every key can stand in the YAML file or on the command line, which wins.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file of the run; it may inherit others (`inherits:`)")
    parser.add_argument(PRINT_CONFIG, action="store_true", help="print every setting with its origin, and stop")
    groups: dict[str, Any] = {}
    for key, leaf in LEAVES.items():
        section = key.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section or "run", leaf.section)
        bounds = f" ({leaf.range})" if leaf.range else ""
        groups[section].add_argument(f"--{key}", type=leaf.type, default=leaf.default, help=leaf.help + bounds)
    return parser


def _merge(settings: dict[str, Setting], fragment: dict[str, Setting], parser: ArgumentParser) -> None:
    """Lay one file's settings over those so far: mappings are merged, lists replaced, `null` restores the default."""
    for key, (value, origin) in fragment.items():
        owner = _owner(key)
        if owner is None:
            inside = [name for name in LEAVES if name.startswith(f"{key}.")]
            if not inside or value not in ({}, None):
                raise ConfigError(f"{origin}: {_not_a_key(key)}")
            if value is None:
                settings.update({name: Setting(LEAVES[name].default, origin) for name in inside})
            continue
        leaf = LEAVES[owner]
        if value is None and owner == key:
            settings[key] = Setting(leaf.default, origin)
        elif owner == key:
            _check(key, leaf, value, origin, parser)
            settings[key] = Setting(_converted(key, value, parser), origin)
        else:
            entries = _with_entry(settings[owner], key.removeprefix(owner + "."), Setting(value, origin), owner)
            settings[owner] = Setting(entries, origin)


def _with_entry(mapping: Setting, dotted: str, entry: Setting, owner: str) -> dict[str, Any]:
    """The mapping of a free-form setting with one entry set (or, for null, deleted)."""
    name, _, rest = dotted.partition(".")
    value, origin = entry
    entries, full = dict(mapping.value), f"{owner}.{name}"
    if rest or isinstance(value, dict):
        inner = entries.get(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"{origin}: {full}: a mapping here, but {inner!r} in {mapping.origin}; both must be of one type"
            )
        entries[name] = _with_entry(Setting(inner, mapping.origin), rest, entry, full) if rest else value
    elif value is None:
        entries.pop(name, None)
    elif isinstance(entries.get(name), dict):
        raise ConfigError(
            f"{origin}: {full}: {value!r} here, but a mapping in {mapping.origin}; both must be of one type"
        )
    else:
        entries[name] = value
    return entries


def _override(settings: dict[str, Setting], argv: Sequence[str], parser: ArgumentParser) -> None:
    parser.set_defaults({key: setting.value for key, setting in settings.items()})
    given = [match[1] for word in argv if (match := re.match(r"--([\w.]+)", word))]
    for key in given:
        if _owner(key) is None and key != "config":
            raise ConfigError(f"{COMMAND_LINE}: {_not_a_key(key)}")
    try:
        parsed = parser.parse_args(list(argv))
    except (ArgumentError, argparse.ArgumentError, TypeError) as error:
        raise ConfigError(f"{COMMAND_LINE}: {_command_line_reason(str(error), argv)}") from None
    for key in given:
        owner = _owner(key)
        if owner is not None:
            value = parsed[owner]
            _check_range(owner, LEAVES[owner], value, COMMAND_LINE)
            settings[owner] = Setting(value.as_dict() if isinstance(value, Namespace) else value, COMMAND_LINE)


def _command_line_reason(message: str, argv: Sequence[str]) -> str:
    """What jsonargparse says over several lines, in our words."""
    for key, leaf in LEAVES.items():
        if re.search(rf'"{re.escape(key)}"', message):
            words = [word for flag, word in pairwise(argv) if flag == f"--{key}"]
            words += [word.partition("=")[2] for word in argv if word.startswith(f"--{key}=")]
            nearest = "" if "list" in str(leaf.type) else did_you_mean(words[-1], leaf.choices)
            return f"{key}: expected {_expected(leaf)}, got {', '.join(words)}{nearest}"
    return " ".join(message.split()) + "; see --help"


def _owner(key: str) -> str | None:
    """The setting that a dotted key belongs to: itself, or the mapping that it is an entry of."""
    if key in LEAVES:
        return key
    return next((name for name, leaf in LEAVES.items() if leaf.is_mapping and key.startswith(name + ".")), None)


def _not_a_key(key: str) -> str:
    """What is wrong with a key that is no setting, and the nearest one that is."""
    is_section = any(known.startswith(f"{key}.") for known in LEAVES)
    reason = "is a section of keys, not a value" if is_section else "unknown key"
    same_name = [known for known in LEAVES if known.rpartition(".")[2] == key.rpartition(".")[2]]
    nearest = f" (did you mean {same_name[0]!r}?)" if same_name else did_you_mean(key, LEAVES)
    return f"{key}: {reason}{nearest or '; see --help for all keys'}"


def _check(key: str, leaf: Leaf, value: Any, origin: str, parser: ArgumentParser) -> None:
    try:
        _converted(key, value, parser)
    except (ArgumentError, TypeError):
        nearest = did_you_mean(value, leaf.choices) if isinstance(value, str) else ""
        raise ConfigError(f"{origin}: {key}: expected {_expected(leaf)}, got {value!r}{nearest}") from None
    _check_range(key, leaf, value, origin)


def _check_range(key: str, leaf: Leaf, value: Any, origin: str) -> None:
    if not leaf.in_range(value):
        raise ConfigError(f"{origin}: {key}: must be {leaf.range or 'finite'}, got {value}")


def _converted(key: str, value: Any, parser: ArgumentParser) -> Any:
    tree = value
    for name in reversed(key.split(".")):
        tree = {name: tree}
    return parser.parse_object(tree, defaults=False)[key]


def _expected(leaf: Leaf) -> str:
    text = str(leaf.type)
    null = " or null" if "None" in text else ""
    if leaf.choices:
        return ("a list of words from " if "list" in text else "one of ") + ", ".join(leaf.choices) + null
    words = {"dict": "a mapping", "list[int]": "a list of whole numbers", "float": "a number", "int": "a whole number"}
    kind = next((word for name, word in words.items() if name in text), "true or false" if "bool" in text else "text")
    return kind + null


def _check_together(resolved: Resolved) -> None:
    """What no single value shows."""
    config, origins = resolved.config, resolved.origins

    def refuse(key: str, reason: str) -> None:
        raise ConfigError(f"{origins[key]}: {key}: {reason}")

    try:
        get_benchmark(config.data.benchmark)
    except DataError as error:
        refuse("data.benchmark", str(error).removeprefix("benchmark: "))
    if ":" not in config.model.name and config.model.name not in list_encoders():
        nearest = did_you_mean(config.model.name, list_encoders())
        known = ", ".join(list_encoders())
        refuse(
            "model.name", f"unknown encoder {config.model.name!r}{nearest} (known: {known}, or package.module:Class)"
        )
    for side in ("positives", "negatives"):
        counts = getattr(config.csre, side)
        if counts.hard + counts.random == 0:
            refuse(f"csre.{side}.hard", f"without {side} there is nothing to contrast; raise it or csre.{side}.random")
    if not config.csre.branches or len(set(config.csre.branches)) < len(config.csre.branches):
        refuse("csre.branches", f"must name each branch once, and at least one, got {config.csre.branches}")
    if config.optim.nesterov and config.optim.name == "sgd" and config.optim.momentum == 0:
        refuse("optim.nesterov", "needs optim.momentum above 0; set optim.nesterov to false")
    if config.optim.milestones != sorted(set(config.optim.milestones)):
        refuse("optim.milestones", f"must rise, got {config.optim.milestones}")
    for key, file in {"weights": config.weights, "resume": config.resume}.items():
        if file not in (None, "auto", "never") and not Path(str(file)).is_file():
            alternatives = ", or auto or never" if key == "resume" else ""
            refuse(key, f"there is no file {file}; give a checkpoint{alternatives}")
    if config.data.path and config.data.benchmark != "demo" and not Path(config.data.path).expanduser().exists():
        refuse("data.path", f"there is nothing at {config.data.path}; name the folder or file of the clips")
    if config.csre.denominator == "split" and config.csre.repeated_negatives == "once":
        refuse("csre.repeated_negatives", "once has no meaning with csre.denominator split; use twice, or joint")
    if not re.fullmatch(r"[\w+=-][\w.+=-]*", str(config.name)) or ASIDE in str(config.name):
        refuse("name", f"{config.name!r} cannot name a run; use letters, digits and _+=-., without {ASIDE!r}")
