"""Reading YAML configuration files and what they inherit, remembering which file each value came from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from engine.errors import ConfigError
from graph.nearest import did_you_mean


class Setting(NamedTuple):
    """A value and the place it was set in."""

    value: Any
    origin: str


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `1e-3` is a number, and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_settings(path: Path) -> Iterator[dict[str, Setting]]:
    """The settings of a file and of all that it inherits, by dotted key, the ones that others override first.

    `inherits:` names one file or a list of files, relative to the file that says so; later ones override earlier ones,
    and the file itself overrides them all. A file that is inherited on two ways is read on both.

    Raises:
        ConfigError: a file that is missing, is not YAML, is not a mapping, or inherits itself.
    """
    yield from _read(path, ())


def _read(path: Path, heirs: tuple[Path, ...]) -> Iterator[dict[str, Setting]]:
    path = Path(os.path.normpath(path))
    ancestors = [heir.resolve() for heir in heirs]
    if path.resolve() in ancestors:
        circle = [*heirs[ancestors.index(path.resolve()) :], path]
        raise ConfigError(
            f"{heirs[-1]}: inherits: the files inherit each other in a circle "
            f"({' -> '.join(map(str, circle))}); remove one link"
        )
    tree = _parse(path, heirs)
    parents = tree.pop("inherits", None) or []
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: inherits: expected a file name or a list of them, got {parents!r}")
    for parent in parents:
        yield from _read(path.parent / parent, (*heirs, path))
    yield dict(_flatten(tree, "", path))


def _parse(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    wanted = f"{heirs[-1]}: inherits: " if heirs else "--config: "
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = sorted(p.name for p in path.parent.glob("*.yaml"))
        raise ConfigError(f"{wanted}there is no file {path}{did_you_mean(path.name, siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{wanted}{path} cannot be read ({error}); give a YAML file") from None
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable as YAML"
        raise ConfigError(f"{path}{where}: not valid YAML ({problem}); mend this line") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got a {type(tree).__name__}")
    return tree


def _flatten(tree: dict[Any, Any], prefix: str, path: Path) -> Iterator[tuple[str, Setting]]:
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flatten(value, dotted + ".", path)
        else:
            yield dotted, Setting(value, str(path))
