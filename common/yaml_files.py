"""The one YAML reader: `1e-3` is a number, dates and yes/no/on/off are text, a repeated key is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError, reason_of
from common.words import did_you_mean

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 20_000
"""More than any file here needs; a file of nested aliases grows to more than any memory holds."""


class YamlError(UserError):
    """A YAML file that cannot be used; the message names the file, the line where it is known, and the fix."""


_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Safe YAML with the rules of this module's first line."""

    # Without these resolvers, dates and times stay text (`name: 2024-01-13` is a name), and so do yes, no, on and off
    # (`amp: off` is a choice); true and false come back below.
    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (f"{_TAG}timestamp", f"{_TAG}bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked here, before `<<` merges what the mapping's own keys override.
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.composer.ComposerError(None, None, "a key must be one word", key.start_mark)
            if key.value in seen:
                problem = f"key {key.value!r} is there more than once; keep one"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Mappings that merge mappings that merge ... multiply, like aliases, but before `_check_size` sees them.
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")


_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: mappings, lists, text, numbers, truth values; None for an empty file.

    Raises:
        YamlError: no such file (with the nearest one beside it), not readable, not YAML, too large or too deep.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise YamlError(f"{path}: larger than {MAX_BYTES:,} bytes; this is not a file of settings")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = sorted(p.name for p in path.parent.glob("*.yaml"))
        raise YamlError(f"no such file: {path}{did_you_mean(path.name, siblings)}") from None
    except OSError as error:
        raise YamlError(f"{path} cannot be read ({reason_of(error)}); give a YAML file") from None
    except UnicodeDecodeError as error:
        raise YamlError(f"{path} cannot be read ({error}); give a YAML file in UTF-8") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, place: str) -> Any:
    """The content of a YAML text.

    Args:
        text: the YAML.
        place: where it comes from, for the messages.

    Raises:
        YamlError: not YAML, too large or too deep.
    """
    try:
        content = yaml.load(text, _Loader)
        _check_size(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable as YAML"
        raise YamlError(f"{place}{where}: not valid YAML ({problem}); fix this line") from None
    except Exception as error:  # PyYAML raises whatever an explicit tag (`!!bool maybe`) or too many levels lead to
        raise YamlError(f"{place}: not usable ({error}); write a plain mapping of keys and values") from None
    return content


def _check_size(content: Any) -> None:
    """Raise ValueError for a content that nests too deeply or, its aliases written out, holds too many values."""
    values, level = 0, [content]
    for depth in range(MAX_DEPTH + 1):
        if not level:
            return
        values += len(level)
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            if values + len(inner) > MAX_VALUES:
                raise ValueError(f"more than {MAX_VALUES:,} values")
        level = inner
        if depth == MAX_DEPTH and level:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
