"""A report of sections as text and as one HTML page that needs nothing else: no links, no scripts, figures within."""

from __future__ import annotations

import base64
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import NamedTuple

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #888; white-space: normal; vertical-align: bottom; } .word { text-align: left; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
img { flex: 1 1 20rem; min-width: 0; max-width: 100%; height: auto; align-self: flex-start; }
@media (max-width: 30rem) { body { font-size: 15px; padding: .6rem; } th, td { padding: .2rem .4rem; } }
"""


class Figure(NamedTuple):
    """A PNG file, and what it shows in words."""

    path: Path
    description: str


@dataclass(frozen=True)
class Section:
    """A part of a report: a sentence or two, a table (its first row the head) that is called `name`, figures."""

    title: str
    text: str
    name: str = ""
    rows: list[list[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    @property
    def words(self) -> list[bool]:
        """Which columns hold words rather than numbers."""
        columns = list(zip(*self.rows, strict=True))
        return [not all(re.fullmatch(r"[-+.\d]*", cell) for cell in column[1:]) for column in columns]

    def as_text(self) -> str:
        """For the terminal: words to the left, numbers to the right."""
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        lines = [textwrap.fill(self.text, 120)]
        for row in self.rows:
            cells = zip(row, widths, self.words, strict=True)
            lines.append("  ".join(cell.ljust(width) if word else cell.rjust(width) for cell, width, word in cells))
        return "\n".join([self.title, *lines, *(f"figure: {figure.path}" for figure in self.figures)])

    def as_html(self) -> str:
        """For the page."""
        parts = [f"<h2>{escape(self.title)}</h2>", f"<p>{escape(self.text)}</p>"]
        lines = []
        for row, tag in zip(self.rows, ["th"] + ["td"] * len(self.rows), strict=False):
            kinds = [' class="word"' if word else "" for word in self.words]
            cells = [f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(row, kinds, strict=True)]
            lines.append(f"<tr>{''.join(cells)}</tr>")
        if lines:
            parts.append(f'<div class="table"><table>{"".join(lines)}</table></div>')
        images = []
        for figure in self.figures:
            content = base64.b64encode(figure.path.read_bytes()).decode()
            images.append(f'<img alt="{escape(figure.description)}" src="data:image/png;base64,{content}">')
        if images:
            parts.append(f'<div class="figures">{"".join(images)}</div>')
        return "\n".join(parts)


def write_page(path: Path, title: str, notes: Sequence[str], sections: Sequence[Section]) -> None:
    """Write the page of a report."""
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    body += [section.as_html() for section in sections]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    content = "\n".join(body)
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'
    path.write_text(page, encoding="utf-8")
