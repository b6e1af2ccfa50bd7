"""report.html of a run, read back as a reader's browser would."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from engine.report import confusion_as_csv
from engine.report_page import PAGE, write_page


class Page(HTMLParser):
    """Tables as rows of texts, embedded pictures by their description, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.pictures: dict[str, bytes] = {}
        self.text = ""
        self.in_cell = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe"), "the page is text and pictures alone"
        if tag == "img":
            kind, _, data = given["src"].partition(",")
            assert kind == "data:image/png;base64", "no picture is fetched from elsewhere"
            self.pictures[given["alt"]] = base64.b64decode(data)
        self.in_cell = tag in ("td", "th") or (self.in_cell and tag not in ("tr", "table"))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def table(self, head: str) -> list[list[str]]:
        """The rows below the head of the one table with this column."""
        (found,) = [rows for rows in self.tables if rows and head in rows[0]]
        return found[1:]


@pytest.fixture
def run(tmp_path):
    return page_of(tmp_path)


def page_of(tmp_path, settings: str = "", outcome: tuple[str, ...] = ("last", "best")) -> Page:
    """That of a finished run of three classes with awkward names."""
    names = ["<b>pick & drop</b>", 'say "a, b"', "rest"]
    counts = {"best": [[8, 2, 0], [3, 7, 0], [0, 0, 0]], "last": [[9, 1, 0], [5, 5, 0], [0, 0, 0]]}
    results = {
        selection: {
            "epoch": epoch,
            "top1": top1,
            "top5": 100.0,
            "mean_class": top1,
            "per_class": dict(zip(names, per_class, strict=True)),
        }
        for selection, epoch, top1, per_class in (
            ("last", 9, 70.0, (90.0, 50.0, None)),
            ("best", 4, 75.0, (80.0, 70.0, None)),
        )
        if selection in outcome
    }
    for selection, rows in counts.items():
        (tmp_path / f"confusion_{selection}.csv").write_text(confusion_as_csv(names, np.array(rows)))
    facts = {"benchmark": "mine", "encoder": "ctrgcn", "heads": ["csre"], "stream": "bone", "test_clips": 20}
    environment = {"command": ["main.py", "--config", "my run.yaml"], "torch": "2.13.0", "threads": 2}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    (tmp_path / "config.yaml").write_text(
        "name: x     # default\nseed: 7     # command line\n"
        "model:\n  name: ctrgcn   # default\n  options: {width: 3}  # base/a.yaml\n"
        "optim:\n  lr: 0.25  # my run.yaml\n  momentum: 0.9  # default\nlog:\n  every_steps: 3  # command line\n"
        + settings
    )
    (tmp_path / "figures").mkdir()
    for name in ("curves", "confusion_best", "confusion_last"):
        (tmp_path / f"figures/{name}.png").write_bytes(name.encode())
    write_page(tmp_path, facts | results)
    return Page((tmp_path / PAGE).read_text())


def test_accuracies_pairs_and_classes(run):
    assert run.table("top-1 %") == [
        ["last epoch", "9", "70.00", "100.00", "70.00"],
        ["best epoch *", "4", "75.00", "100.00", "75.00"],
    ]
    first, second = "<b>pick & drop</b>", 'say "a, b"'
    assert run.table("true → predicted") == [
        [f"{second} → {first}", "30.00", "3"],
        [f"{first} → {second}", "20.00", "2"],
    ]
    assert run.table("test clips") == [
        [second, "10", "50.00", "70.00"],
        [first, "10", "90.00", "80.00"],
        ["rest", "0", "–", "–"],
    ]


def test_settings_that_differ_with_their_place(run):
    assert run.table("set in") == [
        ["seed", "7", "command line"],
        ["model.options", '{"width": 3}', "base/a.yaml"],
        ["optim.lr", "0.25", "my run.yaml"],
    ]


def test_environment_command_and_pictures(run):
    assert ["torch", "2.13.0"] in [row for table in run.tables for row in table]
    assert "python main.py --config 'my run.yaml'" in run.text
    assert run.pictures == {
        "curves": b"curves",
        "confusion best": b"confusion_best",
        "confusion last": b"confusion_last",
    }


def test_the_page_says_on_which_clips_the_best_epoch_was_chosen(tmp_path):
    assert "* chosen by its accuracy on these same test clips" in page_of(tmp_path).text
    (tmp_path / "held_out").mkdir()
    held_out = page_of(tmp_path / "held_out", "data:\n  validation: 0.1  # command line\n")
    assert "* chosen by its accuracy on clips held out of training" in held_out.text


def test_figures_of_earlier_weights_are_left_out(tmp_path):
    assert page_of(tmp_path, outcome=("last",)).pictures.keys() == {"curves", "confusion last"}


def test_a_run_ends_with_its_page(call, run_folder, coarse_figures):
    done = call("--log.figures", "true")
    assert done.code == 0, done.err
    page = Page((run_folder / PAGE).read_text())
    assert {"curves", "confusion best", "per class last"} <= page.pictures.keys()
    assert page.pictures["curves"] == (run_folder / "figures/curves.png").read_bytes()
    results = json.loads((run_folder / "results.json").read_text())
    assert page.table("top-1 %")[0][1:3] == ["2", f"{results['last']['top1']:.2f}"]
    assert PAGE in done.out
