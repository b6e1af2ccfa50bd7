"""The settings for people to look up: the text of `--help`, and the tables of docs/configuration.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby

import yaml

from engine.schema import Leaf, leaves

USAGE = """\
usage: python main.py --config FILE [--config FILE ...] [--KEY VALUE ...]

Train a skeleton encoder, with or without training heads such as CSRE, and test it. Every key below can be set in a YAML
file (`optim: {lr: 0.05}`) or on the command line (`--optim.lr 0.05`), which wins.

  --config FILE    YAML file of settings, which may inherit others (`inherits: FILE`). Given several times, later files
                   override earlier ones. A run folder stands for the config.yaml in it.
  --print-config   print every setting with its origin, and stop
  --help           print this text, and stop
"""
PAGE_HEAD = """\
# Settings

Every setting of a run. `python tools/write_pages.py` makes this page from `engine/schema.py`; `python main.py --help`
prints the same.

Settings are read in this order, and later ones override earlier ones: defaults, inherited files (`inherits:`), the
files of `--config` from first to last, with `--phase test` the settings that the run was trained with, the command
line. Mappings are merged, lists are replaced, `null` restores the default where it is not a value of its own. On the
command line a setting is `--section.key VALUE`, with dashes or underscores; lists are `10,20` or `[10, 20]`; a mapping
is given entry by entry (`--model.options.dropout 0.1`), since `--model.options '{dropout: 0.1}'` replaces all of it.
`--print-config` shows each value with its origin.
"""
WIDTH, MARGIN = 120, 28


def help_text() -> str:
    """All settings in groups, one paragraph each with its kind, default and range."""
    parts = [USAGE]
    for title, section, group in _sections():
        parts.append(f"\n{title}: {section}\n")
        for key, leaf in group:
            head = f"  --{key} {_kind(leaf)}"
            body = textwrap.wrap(f"{leaf.help} ({_facts(leaf)})", WIDTH - MARGIN)
            if len(head) > MARGIN - 2:
                parts.append(f"{head}\n")
            else:
                parts.append(f"{head:<{MARGIN}}{body.pop(0)}\n")
            parts += [f"{'':<{MARGIN}}{line}\n" for line in body]
    return "".join(parts)


def configuration_page() -> str:
    """The same settings as a Markdown page, a table per section."""
    parts = [PAGE_HEAD]
    for title, section, group in _sections():
        parts.append(f"\n## {title}\n\n{section}\n\n| setting | value | default | meaning |\n|---|---|---|---|\n")
        for key, leaf in group:
            parts.append(f"| `{key}` | {leaf.requirement} | `{_default(leaf)}` | {leaf.help} |\n")
    return "".join(parts)


def _sections() -> Iterator[tuple[str, str, list[tuple[str, Leaf]]]]:
    """Title, first line of the docstring and settings of each section."""
    for title, group in groupby(leaves().items(), key=lambda item: item[0].rpartition(".")[0]):
        members = list(group)
        yield title or "run", members[0][1].section.strip().partition("\n")[0], members


def _kind(leaf: Leaf) -> str:
    """What stands for the value."""
    if leaf.choices:
        word = "|".join(leaf.choices)
    else:
        word = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT", dict: "MAPPING"}[leaf.kind]
    return f"{word}[,...]" if leaf.is_list else word


def _facts(leaf: Leaf) -> str:
    return f"default: {_default(leaf)}; {leaf.range}" if leaf.range else f"default: {_default(leaf)}"


def _default(leaf: Leaf) -> str:
    return yaml.safe_dump(leaf.default, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
