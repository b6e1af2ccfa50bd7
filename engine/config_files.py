"""Reading YAML configuration files and what they inherit, remembering which file each value came from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common.yaml_files import YamlError, read_yaml
from engine.errors import ConfigError


class Setting(NamedTuple):
    """A value and the place it was set in."""

    value: Any
    origin: str


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
        tree = read_yaml(path)
    except YamlError as error:
        raise ConfigError(f"{wanted}{error}") from None
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
