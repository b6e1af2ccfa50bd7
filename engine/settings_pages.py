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
    default = yaml.safe_dump(leaf.default, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return f"default: {default}; {leaf.range}" if leaf.range else f"default: {default}"
