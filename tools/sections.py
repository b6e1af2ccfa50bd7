"""A report of sections as text and as one HTML page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import NamedTuple

from common import html_page


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

    def as_text(self) -> str:
        """For the terminal: words to the left, numbers to the right."""
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        numeric = html_page.numeric_columns(self.rows[1:]) or [False] * len(widths)
        lines = [textwrap.fill(self.text, 120)]
        for row in self.rows:
            cells = zip(row, widths, numeric, strict=True)
            lines.append("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells))
        return "\n".join([self.title, *lines, *(f"figure: {figure.path}" for figure in self.figures)])

    def as_html(self) -> str:
        """For the page."""
        parts = [f"<h2>{escape(self.title)}</h2>", f"<p>{escape(self.text)}</p>"]
        parts += [html_page.table(self.rows[0], self.rows[1:])] if self.rows else []
        images = [html_page.image(*figure) for figure in self.figures]
        return "\n".join([*parts, *([f'<div class="figures">{"".join(images)}</div>'] if images else [])])


def page_of(title: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """The HTML page of a report."""
    head = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    return html_page.document(title, [*head, *(section.as_html() for section in sections)])
