"""What tests of the documents share: code blocks, tables, and a training with code that stands in a document."""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def read(name: str) -> str:
    """The text of a document, by its path in the repository."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


def code_block(text: str, word: str, language: str = "python") -> str:
    """The one code block with this word in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    found = [code for code in blocks if word in code]
    assert len(found) == 1
    return found[0]


def table(section: str) -> dict[str, dict[str, str]]:
    """The one table of a section: its rows by their first cell without backticks, each by the head of its column."""
    lines = [re.split(r"\s*\|\s*", line.strip("| \n")) for line in section.splitlines() if line.startswith("|")]
    head, rule, *rows = lines
    assert set("".join(rule)) == {"-"}
    assert len(set(head)) == len(head)
    assert all(len(row) == len(head) for row in rows), "a row with more or fewer cells than the head"
    found = {row[0].strip("`"): dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    assert len(found) == len(rows)
    return found


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    found = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{len(found)} headings {title!r}"
    return found[0]


def train_on_the_demo(code: str, encoder: str, demo: Path, folder: Path, monkeypatch) -> type:
    """Train a slim encoder of a document for one epoch with CSRE through the front door; its class.

    `encoder` is `module:Class`, as on the command line; the code becomes that module. It has an option `channels`.
    `demo` is where the generated clips lie, or will.
    """
    import main

    module, _, class_name = encoder.partition(":")
    (folder / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    (folder / "run.yaml").write_text(
        f"inherits: {REPOSITORY}/config/demo/ctrgcn_csre_joint.yaml\n"
        f"optim: {{epochs: 1}}\nlog: {{tsne_clips: 0, figures: false}}\nwork_dir: {folder}/runs\n"
        f"data: {{path: {demo}, window: 16}}\n"
    )
    words = ["--model.name", encoder, "--model.options", "{channels: 16}", "--name", "mine", "--device", "cpu"]
    assert main.main(["--config", str(folder / "run.yaml"), *words]) == 0
    assert (folder / "runs/demo/mine/scores_last.npz").exists()
    return getattr(sys.modules[module], class_name)
