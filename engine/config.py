"""From configuration files and a command line to the settings of a run, each with its origin.

Order: defaults < inherited files < the files of `--config`, first to last < (with `--phase test`) the settings of the
training < the command line. Every mistake is one `ConfigError` that names place, key, reason and remedy, raised before
torch is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from common.files import ASIDE, user_path
from common.words import did_you_mean
from common.yaml_files import YamlError, parse_yaml, read_yaml
from engine.errors import ConfigError
from engine.schema import RunConfig, contradictions, flatten, in_effect, instantiate, leaves
from engine.settings_pages import help_text
from feeders.benchmarks import GENERATED, benchmark_name, get_benchmark
from feeders.errors import DataError
from model import list_encoders

COMMAND_LINE = "command line"
CONFIG_FILE = "config.yaml"
"""The file of a run folder that holds all its settings."""
OF_A_COMMAND = frozenset({"name", "phase", "weights", "resume", "allow_mismatch", "work_dir"})
"""Settings that belong to a command, not to a training that a later test repeats."""
LEAVES = leaves()


class Setting(NamedTuple):
    """A value and the place it was set in: a file, the command line, or `default`."""

    value: Any
    origin: str


Settings = dict[str, Setting]
"""Settings by dotted key: all of a run, or those that one file or the command line sets."""


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
        The configuration, or None if the line only asked to print something (`--help`, `--print-config`).

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, a missing file, a circle of inheritance.
    """
    command = _read_command_line(argv)
    if command.help:
        print(help_text(), end="")
        return None
    if not command.files:
        raise ConfigError(
            "--config: no configuration given; try --config config/demo/ctrgcn_csre_joint.yaml, or --help"
        )
    settings = {key: Setting(leaf.default, "default") for key, leaf in LEAVES.items()}
    for path in command.files:
        for layer in _read_layers(path):
            _merge(settings, layer)
    stream = settings["data.stream"].value
    _merge(settings, command.overrides)
    settings["name"] = _run_name(settings, command.files, stream)
    if settings["phase"].value == "test" and settings["weights"].value is None:
        _use_settings_of_training(settings)
        _merge(settings, {key: setting for key, setting in command.overrides.items() if key != "name"})
    resolved = Resolved(
        config=instantiate({key: setting.value for key, setting in settings.items()}),
        origins={key: setting.origin for key, setting in settings.items()},
    )
    _check_together(resolved)
    data = resolved.config.data
    if benchmark_name(data.benchmark) != data.benchmark:  # a file, which the run should find from any folder
        data.benchmark = str(user_path(data.benchmark).absolute())
    if command.print_config:
        print(resolved.as_yaml(), end="")
        return None
    return resolved


def run_path(work_dir: str, benchmark: str, name: str) -> Path:
    """The folder of a run."""
    return user_path(work_dir) / benchmark_name(benchmark) / name


def differing_keys(stored: dict[str, Any], config: RunConfig, ignore: Iterable[str] = ()) -> list[str]:
    """`key: stored -> now` for every setting that defines what a run computes and is not the same.

    A setting that is younger than what was stored had its default; those of a head that is off do not count.
    """
    now, before = flatten(config), {key: leaf.default for key, leaf in LEAVES.items()} | stored
    compared = in_effect(before).keys() - (now.keys() - in_effect(now).keys()) - set(ignore)
    return [
        f"{key}: {before[key]} -> {now.get(key, 'absent')}" for key in sorted(compared) if before[key] != now.get(key)
    ]


# --- the command line -------------------------------------------------------------------------------------------------


@dataclass
class _CommandLine:
    files: list[Path] = field(default_factory=list)
    overrides: Settings = field(default_factory=dict)
    help: bool = False
    print_config: bool = False


def _read_command_line(argv: Sequence[str]) -> _CommandLine:
    """Sort the words `--key value`, `--key=value` and, for true-or-false settings, `--key`."""
    command, words = _CommandLine(), list(argv)
    while words:
        word = words.pop(0)
        if word == "-h":
            word = "--help"
        if not word.startswith("--"):
            raise ConfigError(f"{COMMAND_LINE}: {word!r} belongs to no key; write --key value, see --help")
        key, equals, text = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if key in ("help", "print_config"):
            setattr(command, key, True)
            continue
        owner = _owner(key)
        if owner is None and key != "config":
            raise ConfigError(f"{COMMAND_LINE}: {_not_a_key(key)}")
        if not equals:
            if words and not words[0].startswith("--"):
                text = words.pop(0)
            elif owner is not None and LEAVES[owner].type is bool:
                text = "true"
            else:
                raise ConfigError(f"{COMMAND_LINE}: {key}: a value is missing; write --{key} VALUE")
        if owner is None:
            path = user_path(text)
            command.files.append(path / CONFIG_FILE if path.is_dir() else path)
        else:
            command.overrides[key] = Setting(_value_of(text, owner, key), COMMAND_LINE)
    return command


def _value_of(text: str, owner: str, key: str) -> Any:
    """The value that a word of the command line stands for: text for a setting of text, else what it is in YAML."""
    leaf = LEAVES[owner]
    if leaf.kind is str and not leaf.is_list:
        return None if text == "null" else text
    if leaf.is_list and not text.startswith("[") and text != "null":
        text = f"[{text}]"
    try:
        return parse_yaml(text, f"{COMMAND_LINE}: {key}")
    except YamlError as error:
        raise ConfigError(str(error)) from None


# --- files ------------------------------------------------------------------------------------------------------------


def _read_layers(path: Path, inherited_by: tuple[Path, ...] = ()) -> Iterator[Settings]:
    """The settings of a file and of all that it inherits, the ones that others override first.

    `inherits:` names one file or a list of files, relative to the file that says so; later ones override earlier ones,
    and the file itself overrides them all. A file that is inherited in two ways is read twice.
    """
    path = Path(os.path.normpath(path))
    chain = [child.resolve() for child in inherited_by]
    if path.resolve() in chain:
        circle = [*inherited_by[chain.index(path.resolve()) :], path]
        raise ConfigError(
            f"{inherited_by[-1]}: inherits: the files inherit each other in a circle "
            f"({' -> '.join(map(str, circle))}); remove one link"
        )
    try:
        tree = read_yaml(path)
    except YamlError as error:
        place = f"{inherited_by[-1]}: inherits" if inherited_by else "--config"
        raise ConfigError(f"{place}: {error}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold lines of `key: value`, but is a {type(tree).__name__}")
    parents = tree.pop("inherits", None) or []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: inherits: must be a file name or a list of them, got {parents!r}")
    for parent in parents:
        yield from _read_layers(path.parent / parent, (*inherited_by, path))
    layer: Settings = {}
    for key, value in _dotted(tree):
        if key in layer:
            raise ConfigError(f"{path}: {key}: is there more than once; keep one")
        layer[key] = Setting(value, str(path))
    yield layer


def _dotted(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# --- merging ----------------------------------------------------------------------------------------------------------


def _merge(settings: Settings, layer: Settings) -> None:
    """Lay settings over those so far: mappings are merged, lists replaced, `null` restores the default where it is not
    a value of its own."""
    for key, (value, origin) in layer.items():
        owner = _owner(key)
        if owner is None:
            inside = [name for name in LEAVES if name.startswith(f"{key}.")]
            if not inside or value not in ({}, None):
                raise ConfigError(f"{origin}: {_not_a_key(key)}")
            if value is None:
                settings.update({name: Setting(LEAVES[name].default, origin) for name in inside})
        elif owner != key:
            path = key.removeprefix(f"{owner}.").split(".")
            settings[owner] = Setting(_with_entry(settings[owner], path, Setting(value, origin), owner), origin)
        else:
            settings[key] = Setting(_checked(key, value, origin), origin)


def _use_settings_of_training(settings: Settings) -> None:
    """Where the run folder holds a run, take from its config.yaml what it was trained with, so that nothing is repeated
    to test it."""
    values = (settings[key].value for key in ("work_dir", "data.benchmark", "name"))
    stored = run_path(*values) / CONFIG_FILE
    if not stored.is_file():
        return
    for key in settings.keys() - OF_A_COMMAND:
        settings[key] = Setting(LEAVES[key].default, "default")
    for layer in _read_layers(stored):
        _merge(settings, {key: setting for key, setting in layer.items() if key not in OF_A_COMMAND})


def _checked(key: str, value: Any, origin: str) -> Any:
    leaf = LEAVES[key]
    if value is None:
        return None if leaf.may_be_null else leaf.default
    if not leaf.accepts(value):
        nearest = did_you_mean(value, leaf.choices) if isinstance(value, str) else ""
        raise ConfigError(f"{origin}: {key}: must be {leaf.requirement}, got {value!r}{nearest}")
    return float(value) if leaf.kind is float else value


def _with_entry(options: Setting, path: Sequence[str], entry: Setting, owner: str) -> dict[str, Any]:
    """The mapping of a free-form setting with one entry set (or, for null, deleted)."""
    name, *rest = path
    entries, key = dict(options.value), f"{owner}.{name}"
    known = entries.get(name)
    if rest and isinstance(known, dict | None):
        entries[name] = _with_entry(Setting(known or {}, options.origin), rest, entry, key)
    elif rest or (isinstance(known, dict) and entry.value is not None):
        here, there = ("a mapping", repr(known)) if rest else (repr(entry.value), "a mapping")
        raise ConfigError(f"{entry.origin}: {key}: {here} here, but {there} in {options.origin}; use one type in both")
    elif entry.value is None:
        entries.pop(name, None)
    else:
        entries[name] = entry.value
    return entries


def _owner(key: str) -> str | None:
    """The setting that a dotted key belongs to: itself, or the mapping that it is an entry of."""
    if key in LEAVES:
        return key
    return next((name for name, leaf in LEAVES.items() if leaf.is_mapping and key.startswith(f"{name}.")), None)


def _not_a_key(key: str) -> str:
    """What is wrong with a key that is no setting, and the nearest one that is."""
    if any(known.startswith(f"{key}.") for known in LEAVES):
        return f"{key}: is a section of keys, not a value; see --help for its keys"
    same_name = [known for known in LEAVES if known.rpartition(".")[2] == key.rpartition(".")[2]]
    nearest = f" (did you mean {same_name[0]!r}?)" if same_name else did_you_mean(key, LEAVES)
    return f"{key}: unknown key{nearest or '; see --help for all keys'}"


def _run_name(settings: Settings, files: Sequence[Path], stream_of_files: str) -> Setting:
    """The name of the run: by default that of its files, with the stream in it kept in step with `data.stream`.

    A given name may hold settings in braces: `{name}` for the default name, `{seed}`, `{csre.temperature}`; of a list
    it holds the items with a plus between them, as in `spatial+temporal`.
    """
    given, stream = settings["name"], settings["data.stream"]
    default = "+".join(path.stem for path in files)
    if stream.value != stream_of_files:
        _refuse_other_stream(files[0], stream_of_files, stream)
        default = _renamed(default, stream_of_files, stream.value)
    if given.value is None:
        return Setting(default, "names of the configuration files")

    def value_of(braces: re.Match[str]) -> str:
        key = braces[1]
        if key == "name":
            return default
        if key not in settings:
            raise ConfigError(f"{given.origin}: name: {{{key}}}: unknown key{did_you_mean(key, LEAVES)}")
        value = settings[key].value
        return "+".join(map(str, value)) if isinstance(value, list) else str(value)

    return Setting(re.sub(r"\{([\w.]*)\}", value_of, given.value), given.origin)


def _renamed(name: str, old: str, new: str) -> str:
    """A name with one stream in it replaced by another, or added where the name holds none."""
    renamed, count = re.subn(rf"(?<![^_]){old}(?![^_+])", new, name, count=1)
    return renamed if count else f"{name}_{new}"


def _refuse_other_stream(file: Path, stream_of_file: str, stream: Setting) -> None:
    """Raise ConfigError where a stream has a file of its own beside this one, because its recipe differs."""
    for family in (stream.value, stream.value.removesuffix("_motion")):
        own = file.with_stem(_renamed(file.stem, stream_of_file, family))
        if own.is_file() and not own.samefile(file):
            also = "" if family == stream.value else f" together with --data.stream {stream.value}"
            raise ConfigError(
                f"{stream.origin}: data.stream: {stream.value} has a recipe of its own; use --config {own}{also}"
            )


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
    for key, reason in contradictions(config):
        refuse(key, reason)
    for key, file in {"weights": config.weights, "resume": config.resume}.items():
        if file not in (None, "auto", "never") and not user_path(str(file)).is_file():
            alternatives = ", or auto or never" if key == "resume" else ""
            refuse(key, f"there is no file {file}; give a checkpoint{alternatives}")
    if config.data.path and config.data.benchmark not in GENERATED and not user_path(config.data.path).exists():
        refuse("data.path", f"there is nothing at {config.data.path}; name the folder or file of the clips")
    if not re.fullmatch(r"[\w+=-][\w.+=-]*", str(config.name)) or ASIDE in str(config.name):
        refuse("name", f"{config.name!r} cannot name a run; use letters, digits and _+=-., without {ASIDE!r}")
