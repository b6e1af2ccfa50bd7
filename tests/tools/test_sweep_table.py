"""Sweeps from records made by hand: which runs belong together, means, differences in pairs of seeds, the figure."""

from __future__ import annotations

import pytest
from matplotlib import pyplot as plt
from scipy.stats import t

from tests.tools.test_tables import row_of, run
from tools.sweep_table import draw, of_rivals, sweeps, table_of


def record(seed: int, test: float, held_out: float | None = None, heads=("csre",), **settings):
    made = run(seed, heads=heads, **{"optim.epochs": 7, **settings})
    best = {"best": {"epoch": 1, "top1": test + 1}}
    return made | best | {"curve": [1.0, test]} | ({} if held_out is None else {"validation_curve": [2.0, held_out]})


@pytest.fixture
def records():
    plain = [record(1, 90.0, 80.0, heads=()), record(2, 92.0, 84.0, heads=())]
    cold = [record(seed, test, 80.0, **{"csre.temperature": 0.1}) for seed, test in ((2, 94.0), (1, 91.0), (3, 0.0))]
    branch = [record(1, 89.0, 70.0, **{"csre.branches": ["spatial"]})]
    apart = [record(1, 50.0, heads=(), **{"optim.epochs": 8}), record(1, 51.0, **{"optim.epochs": 8})]
    return [*cold, *branch, *apart, *plain, record(1, 88.0)]


def test_settings_are_compared_with_the_run_without_heads_that_is_alike_otherwise(records):
    (found,) = sweeps(records)  # those of 8 epochs have no second setting
    titles = ["CTR-GCN", "CTR-GCN + CSRE", "CTR-GCN + CSRE, branches spatial", "CTR-GCN + CSRE, temperature 0.1"]
    assert [setting.title for setting in found] == titles
    rows = table_of([found])
    assert rows[1][1:] == ["CTR-GCN", "7", "2", "82.00 ± 2.83", "", "91.00 ± 1.41", "", "92.00 ± 1.41"]
    cold = row_of([row[1:] for row in rows[:1]] + [row[1:] for row in rows if row[1] == titles[3]], seeds="3")
    margin = t.ppf(0.975, 1) * 0.5  # of the differences +1 and +2 of seeds 1 and 2; seed 3 has no baseline
    assert cold["difference"] == f"+1.5 ± {margin:.1f}"
    assert rows[3][-2] == "-1.0", "one pair has no interval"
    assert rows[2][4:] == ["", "", "88.00", "-2.0", "89.00"], "a part that was not tested"


def test_what_all_runs_of_a_head_have_in_common_is_in_no_title(records):
    few, with_fr_head = {"csre.positives.hard": 3}, {"fr_head.enabled": True}
    rivals = [
        record(1, 90.0, heads=()),
        record(1, 91.0, heads=("fr_head",), **with_fr_head, **{"fr_head.temperature": 0.5}),
    ]
    both = record(1, 92.0, heads=("csre", "fr_head"), **few, **with_fr_head, **{"fr_head.temperature": 0.25})
    (found,) = sweeps([*rivals, record(1, 93.0, **few), both])
    assert [setting.title for setting in found] == [
        "CTR-GCN",
        "CTR-GCN + CSRE",
        "CTR-GCN + FR-Head, temperature 0.5",
        "CTR-GCN + CSRE + FR-Head, temperature 0.25",
    ]


def test_sweeps_of_one_head_compare_no_rivals(records):
    assert of_rivals(sweeps(records)) == []
    rivals = of_rivals(sweeps([*records, record(1, 90.5, heads=("fr_head",))]))
    assert "CTR-GCN + FR-Head" in [row[1] for row in table_of(rivals)]


def test_the_figure_has_means_and_margins(records, tmp_path, monkeypatch):
    kept: list = []
    monkeypatch.setattr(plt, "close", kept.append)
    draw(sweeps(records), tmp_path / "sweeps.png")
    (axes,) = kept[0].axes
    held_out, test = axes.containers
    assert test.lines[0].get_xdata().tolist() == [-2.0, -1.0, 1.5]
    assert held_out.lines[0].get_xdata().tolist() == [-10.0, -2.0]
    assert axes.get_yticklabels()[0].get_text() == "CTR-GCN + CSRE"
    assert (tmp_path / "sweeps.png").stat().st_size < 100_000
    monkeypatch.undo()
    plt.close(kept[0])


def test_without_a_sweep_there_is_a_head_alone():
    assert len(table_of(sweeps([record(1, 90.0)]))) == 1
