"""One HTML page that needs nothing else: no links, no scripts, pictures within; readable on a phone."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
body { margin: 0 auto; max-width: 68rem; padding: .8rem 1rem 2.5rem; font: 15px/1.5 system-ui, sans-serif; }
body { color: #222; background: #fff; } p { margin: .25rem 0; } .aside { color: #666; font-size: .92em; }
h1 { margin: .5rem 0 0; font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 1.8rem 0 .4rem; font-size: 1.15rem; } summary { cursor: pointer; margin: .4rem 0; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #bbb; vertical-align: bottom; } td { border-bottom: 1px solid #eee; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } .wide img { max-width: 100%; min-width: min(640px, 160vw); height: auto; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.figures img { flex: 1 1 20rem; min-width: 0; max-width: 100%; height: auto; align-self: flex-start; }
pre, code { background: #f4f4f4; font-size: .92em; overflow-wrap: anywhere; }
pre { padding: .5rem .6rem; white-space: pre-wrap; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The page of these parts, each HTML; empty ones are left out."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(filter(None, parts))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def image(path: Path, description: str) -> str:
    """A PNG file within the page, and what it shows in words."""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{content}">'


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; floats have two decimals, columns of numbers stand to the right. Empty heads make no row."""
    cells = [[f"{value:.2f}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    kinds = [' class="number"' if numeric else "" for numeric in numeric_columns(cells)]
    lines = [("td", row) for row in cells]
    if any(heads):
        lines.insert(0, ("th", list(heads)))
        kinds = kinds or [""] * len(heads)
    written = (
        "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(row, kinds, strict=True))
        for tag, row in lines
    )
    return '<div class="wide"><table>' + "".join(f"<tr>{line}</tr>" for line in written) + "</table></div>"


def numeric_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns of rows without their head hold numbers rather than words."""
    return [all(re.fullmatch(r"[-+–.\d]*", cell) for cell in column) for column in zip(*rows, strict=True)]
