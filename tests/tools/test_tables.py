"""The paper's tables and the table of all runs, from records made by hand; the README holds the latter."""

from __future__ import annotations

import csv
import io
import json
import shlex
import statistics

import pytest

from engine.schema import leaves
from tests.documents import read
from tools.paper_tables import ENCODERS, PAPER, TITLES, Query, accuracies, find, levels, spread, table
from tools.runs import command_of, folder_of_words, settings_of_words, standard_words
from tools.sweep import cells_of
from tools.sweep_table import sweeps
from tools.tables import MARKERS, collect, formatted, main, of_recipes, page_with, runs_table, tables_of_pages

DEFAULTS = {key: leaf.default for key, leaf in leaves().items()}


def run(seed=1, last=90.0, best=91.0, encoder="ctrgcn", heads=(), stream="joint", benchmark="nw-ucla", **settings):
    words = standard_words(benchmark, encoder, heads, stream)
    values = settings_of_words(words) | {"seed": seed} | settings
    return {
        "kind": "run",
        "name": f"{encoder}_{'_'.join(heads)}_{stream}_{seed}_{settings}",
        "benchmark": benchmark,
        "encoder": encoder,
        "heads": list(heads),
        "stream": stream,
        "seed": seed,
        "epochs": values["optim.epochs"],
        "command": command_of(words[1], values),
        "settings": {key: value for key, value in values.items() if value != DEFAULTS[key]},
        "last": {"epoch": values["optim.epochs"], "top1": last},
        "best": {"epoch": 60, "top1": best},
        "classes": {"a": [10, 7, 7], "b": [10, 9, 9]},
        "wall_seconds": 650.0,
        "peak_memory_mb": 2500.0,
        "machine": {"device": "H100"},
    }


def row_of(rows, **cells: object):
    head, *rest = rows
    found = [dict(zip(head, row, strict=True)) for row in rest]
    (row,) = [row for row in found if all(row[key] == value for key, value in cells.items())]
    return row


def test_ours_is_the_mean_over_seeds_beside_the_papers_number():
    records = [run(seed, last, best) for seed, last, best in ((1, 93.0, 94.0), (2, 94.0, 95.0), (3, 92.0, 95.4))]
    row = row_of(table("3", records, "", ""), run="CTR-GCN", input="J")
    assert (row["paper"], row["last"], row["seeds"]) == ("94.6", "93.00 ± 1.00", "3")
    assert row["best"] == f"{statistics.mean([94, 95, 95.4]):.2f} ± {statistics.stdev([94, 95, 95.4]):.2f}"
    assert row["difference"] == "+0.20"
    assert row["to fill it"] == ""


def test_only_runs_of_the_recipe_count_in_any_precision():
    records = [
        run(1, best=90.0, **{"optim.amp": "bf16"}),
        run(2, best=80.0, **{"optim.epochs": 7}),
        run(3, best=70.0, benchmark="ntu60-xsub"),
        run(4, best=60.0, heads=("csre",)),
        run(5, best=50.0, stream="bone"),
    ]
    assert find(records, Query("nw-ucla", "ctrgcn"))[1] == [90.0]
    assert find(records, Query("nw-ucla", "ctrgcn", "csre"))[1] == [60.0]
    assert find(records, Query("nw-ucla", "ctrgcn", "", "B"))[1] == [50.0]


def test_ablations_are_told_apart_by_their_settings():
    records = [
        run(1, best=90.0, heads=("csre",)),
        run(1, best=91.0, heads=("csre",), **{"csre.branches": ["global"]}),
        run(1, best=92.0, heads=("csre",), **{"csre.negatives.random": 0}),
        run(1, best=93.0, heads=("csre",), **{"csre.positives.hard": 0, "csre.positives.random": 128}),
    ]
    fifth, sixth = (table(number, records, "nw-ucla", "ctrgcn") for number in "56")
    assert [row[1] for row in fifth[1:]] == ["CTR-GCN", "CSRE S", "CSRE T", "CSRE G", "CSRE S+T+G", "CSRE S+T"]
    assert row_of(fifth, run="CSRE G")["best"] == "91.00"
    assert row_of(fifth, run="CSRE S+T")["best"] == "90.00"
    assert row_of(sixth, run="positives H, negatives R+H")["best"] == "90.00"
    assert row_of(sixth, run="positives H, negatives H")["best"] == "92.00"
    assert row_of(sixth, run="positives R, negatives R+H")["best"] == "93.00"
    assert len(sixth) == 1 + 7


def test_fused_runs_count_if_all_their_members_are_of_the_recipe():
    joint, bone, short = run(1), run(1, stream="bone"), run(1, stream="bone", **{"optim.epochs": 7})

    def fused(second, name="equal", values=(1, 1)):
        return {
            "kind": "ensemble",
            **{key: joint[key] for key in ("benchmark", "encoder", "heads", "seed")},
            "name": "fused",
            "streams": ["joint", "bone"],
            "selection": "last",
            "top1": 95.0,
            "weights": {"name": name, "values": [*values]},
            "members": [{"run": joint["name"]}, {"run": second["name"]}],
        }

    query = Query("nw-ucla", "ctrgcn", "", "2S")
    assert find([joint, bone, fused(bone)], query)[0] == [95.0]
    assert find([joint, bone, short, fused(short)], query)[0] == []
    assert find([joint, bone, fused(bone, "tuned on test labels")], query)[0] == []
    row = row_of(runs_table([joint, bone, fused(bone)]), run="CTR-GCN, weights equal")
    assert (row["last"], row["command"].count("--")) == ("95.00", 0)
    assert find([joint, bone, fused(bone, "equal l2")], query)[0] == []
    normalised = runs_table([fused(bone, "given l2", (0.5, 2))])
    command = row_of(normalised, run="CTR-GCN, weights given l2")["command"]
    assert command.endswith(f"/{bone['name']} --weights 0.5 2 --normalise l2")


@pytest.mark.parametrize("number", "12345678")
def test_every_empty_row_says_a_command_that_main_would_take(number):
    rows = table(number, [], "ntu120-xsub", "ctrgcn")
    assert len(rows) > 2
    for row in rows[1:]:
        command = row[-1]
        if command.startswith("python tools/sweep.py "):
            assert command.endswith("--output fused.json && python tools/record.py fused.json")
        else:
            words = shlex.split(command)
            assert words[:2] == ["python", "main.py"]
            settings_of_words(words[2:])
            again = folder_of_words([*words[2:], "--seed", "7"])
            assert again != folder_of_words(words[2:]), "another seed would not be another run"


def cells_of_command(command):
    """The cells of `python tools/sweep.py --config ... --set ... --name ...`."""
    words = shlex.split(command)[2:]
    grid = {"config": [], "set": {}, "with": {}}
    for option, value in zip(words[::2], words[1::2], strict=True):
        if option in ("--set", "--with"):
            key, _, values = value.partition("=")
            grid[option[2:]][key] = values.split(",") if option == "--set" else json.loads(values)
        else:
            grid[option[2:]] = value
    return cells_of(grid)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (Query("nw-ucla", "ctrgcn", "csre", "2S"), ["ctrgcn_csre_joint_seed1", "ctrgcn_csre_bone_seed1"]),
        (
            Query("nw-ucla", "hyperformer", "", "4S"),  # its recipe's seed; bones have a configuration of their own
            [f"hyperformer_{stream}_seed2" for stream in ("joint", "bone", "joint_motion", "bone_motion")],
        ),
        (
            Query("ntu120-xsub", "ctrgcn", "csre+fr_head", "2S"),
            ["ctrgcn_fr_head_joint_csre_seed1", "ctrgcn_fr_head_bone_csre_seed1"],
        ),
    ],
)
def test_the_command_of_fused_streams_trains_the_runs_that_it_fuses(query, names):
    *trainings, fusion, recording = query.command.split(" && ")
    folders = [f"work_dir/{query.benchmark}/{name}" for name in names]
    assert fusion == f"python ensemble.py {' '.join(folders)} --output fused.json"
    assert recording == "python tools/record.py fused.json"
    cells = [cell for training in trainings for cell in cells_of_command(training)]
    assert sorted(str(cell.folder) for cell in cells) == sorted(folders)
    for cell, stream in zip(cells, ("joint", "joint_motion", "bone", "bone_motion") * (len(cells) > 2), strict=False):
        assert settings_of_words(cell.words)["data.stream"] == stream


@pytest.mark.parametrize(
    "query",
    [
        Query("nw-ucla", "ctrgcn", "csre", "B"),
        Query("nw-ucla", "hyperformer", "csre", "B"),
        Query("ntu120-xsub", "ctrgcn", "fr_head"),
        Query("ntu120-xsub", "ctrgcn", "csre+fr_head"),
        Query("ntu120-xsub", "ctrgcn", "csre", "J", {"csre.branches": ["spatial"]}, "CSRE S"),
        Query("sbu-fold2", "hcn", "csre"),
    ],
)
def test_a_run_of_that_command_fills_the_row(query):
    words = shlex.split(query.command)[2:]
    values = settings_of_words(words)
    made = run(1, encoder=query.encoder, heads=query.heads, benchmark=query.benchmark)
    made |= {"stream": values["data.stream"], "settings": {k: v for k, v in values.items() if v != DEFAULTS[k]}}
    assert find([made], query)[1] == [91.0]


def test_heads_that_runs_have_together_stand_in_table_4():
    rows = table("4", [run(heads=("csre", "skeleton_gcl"), best=77.0)], "nw-ucla", "ctrgcn")
    assert row_of(rows, run="CTR-GCN + CSRE + SkeletonGCL")["best"] == "77.00"
    fill = shlex.split(row_of(rows, run="CTR-GCN + CSRE + FR-Head")["to fill it"])
    name = ["--name", "{name}_csre_seed{seed}"]
    assert fill[3:] == ["config/nw-ucla/ctrgcn_fr_head_joint.yaml", "--csre.enabled", "true", *name]


def folds_of(seed, tops, **settings):
    return [
        run(seed, top, top + 1, encoder="hcn", benchmark=f"sbu-fold{fold}", **settings)
        for fold, top in enumerate(tops, 1)
    ]


def test_folds_have_a_row_each_and_one_of_their_mean():
    whole = [*folds_of(0, (70, 80, 90, 80, 80)), *folds_of(1, (80, 80, 90, 80, 90))]
    rows = runs_table([*whole, *folds_of(2, (10, 10, 10, 10))])  # a seed without its fifth fold has no mean
    third = row_of(rows, benchmark="SBU, fold 3")
    assert (third["run"], third["last"], third["seeds"]) == ("HCN", spread([90, 90, 10]), "0,1,2")
    assert "--with data.benchmark=sbu-fold3 " in third["command"]
    mean = row_of(rows, benchmark="SBU, five folds")
    assert (mean["last"], mean["best"], mean["seeds"]) == (spread([80, 84]), spread([81, 85]), "0,1")
    folds = [f"sbu-fold{fold}" for fold in range(1, 6)]
    words = f"--config config/sbu/hcn_joint.yaml --set data.benchmark={','.join(folds)} --seeds 0,1"
    assert mean["command"] == f"python tools/sweep.py {words} --name '{{name}}_seed{{seed}}'"
    assert len(of_recipes(whole)) == 10
    fourth = row_of(table("4", whole, "sbu", "hcn"), run="HCN")
    assert (fourth["benchmark"], fourth["last"], fourth["seeds"]) == ("SBU, five folds", spread([80, 84]), "2")


def test_the_command_of_a_row_over_folds_trains_all_of_them():
    cells = cells_of_command(Query("sbu", "hcn", "csre").command)
    assert [str(cell.folder) for cell in cells] == [f"work_dir/sbu-fold{n}/hcn_csre_joint_seed0" for n in range(1, 6)]


def test_of_two_runs_of_one_seed_the_record_counts_and_the_other_is_named(tmp_path, monkeypatch, capsys):
    first, again, other = run(1, 90.0), run(1, 92.0), run(2, 94.0)
    again["name"] = "under_another_name"
    for record in (first, again, other):
        record["curve"] = [record["last"]["top1"]]
    (tmp_path / "nw-ucla").mkdir()
    (tmp_path / "nw-ucla/one.json").write_text(json.dumps(first))
    monkeypatch.setattr("tools.tables.find_runs", lambda _: [first, again, other])  # the record's own run is no other
    monkeypatch.setattr("tools.tables.record_of", lambda folder: folder)
    records = collect(tmp_path, tmp_path)
    row = row_of(runs_table(records), run="CTR-GCN")
    assert (row["last"], row["seeds"]) == (spread([90.0, 94.0]), "1,2")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "skipped: nw-ucla/under_another_name: another run with the seed and settings of nw-ucla/ctrgcn"
    )


def test_a_seed_counts_once_in_a_row_whatever_its_precisions():
    records = [run(1, 90.0), run(1, 80.0, **{"optim.amp": "bf16"}), run(2, 92.0)]
    assert sorted(find(records, Query("nw-ucla", "ctrgcn"))[0]) == [90.0, 92.0]


def test_early_stopped_runs_say_how_long_they_trained():
    early = [run(seed) for seed in (1, 2)]
    assert row_of(runs_table(early), run="CTR-GCN")["epochs"] == "65"
    early[0]["last"]["epoch"] = 20
    assert row_of(runs_table(early), run="CTR-GCN")["epochs"] == "20-65 of 65"
    early[1]["last"]["epoch"] = 20
    assert row_of(runs_table(early), run="CTR-GCN")["epochs"] == "20 of 65"


def test_a_run_of_a_users_own_head_is_of_no_recipe():
    mine = run() | {"heads": ["csre", "Mine"]}
    mine["settings"] |= {"csre.enabled": True, "head.name": "my_head:Mine"}
    assert of_recipes([mine]) == []
    assert row_of(runs_table([mine]), run="CTR-GCN + CSRE + Mine")["best"] == "91.00"
    assert "Mine" not in str(table("4", [mine], "nw-ucla", "ctrgcn"))
    (compared,) = sweeps([run(), run(heads=("csre",)), mine])
    assert [setting.title for setting in compared][:2] == ["CTR-GCN", "CTR-GCN + CSRE"]
    assert compared[2].title.startswith("CTR-GCN + CSRE + Mine")


def test_table_7_groups_classes_by_the_baseline():
    baseline = {
        "a": [10, 7, 0],
        "b": [40, 31, 0],
        "c": [10, 8, 0],
        "d": [20, 18, 0],
        "e": [10, 10, 0],
        "none": [0, 0, 0],
    }
    other = {"a": [10, 9, 0], "b": [40, 30, 0], "c": [10, 9, 0], "d": [20, 19, 0], "e": [10, 9, 0], "none": [0, 0, 0]}
    found = levels(baseline, other)
    assert found["hard"] == pytest.approx((2, 50, (70 + 77.5) / 2, (90 + 75) / 2, 100 * 38 / 50, 100 * 39 / 50))
    assert found["medium"] == pytest.approx((2, 30, 85, (90 + 95) / 2, 100 * 26 / 30, 100 * 28 / 30))  # 80 and 90 %
    assert found["easy"] == pytest.approx((1, 10, 100, 90, 100, 90))


def test_table_7_pairs_runs_by_seed():
    records = [run(1), run(2), run(2, heads=("csre",))]
    rows = table("7", records, "", "")
    assert [row[1] for row in rows[1:]] == ["CTR-GCN, joint, seed 2"] * 3


def test_of_two_runs_of_one_seed_table_7_takes_the_first():
    first, later = run(1), run(1, **{"optim.amp": "bf16"}) | {"classes": {"a": [10, 1, 1], "b": [10, 1, 1]}}
    csre = run(1, heads=("csre",))
    assert table("7", [first, csre, later], "", "") == table("7", [first, csre], "", "")


def test_table_8_has_the_cost_of_an_epoch():
    row = row_of(table("8", [run(1, benchmark="ntu120-xsub")], "", ""), run="CTR-GCN")
    assert (row["paper GB"], row["paper min/epoch"], row["device"]) == ("11.5", "19.9", "H100")
    assert (row["GB"], row["min/epoch"]) == ("2.5", f"{650 / 60 / 65:.1f}")
    early = run(1, benchmark="ntu120-xsub") | {"last": {"epoch": 5, "top1": 80.0}}
    assert row_of(table("8", [early], "", ""), run="CTR-GCN")["min/epoch"] == f"{650 / 60 / 5:.1f}"


def test_table_8_is_about_runs_of_the_recipe_on_one_device():
    ntu = {"benchmark": "ntu120-xsub"}
    small = run(1, **ntu, **{"optim.batch_size": 16}) | {"peak_memory_mb": 900.0}
    slow = run(2, **ntu) | {"wall_seconds": 65000.0, "machine": {"device": "cpu"}}
    first, second = run(3, **ntu), run(4, **ntu) | {"peak_memory_mb": 3500.0}
    row = row_of(table("8", [small, first, slow, second], "", ""), run="CTR-GCN")
    assert (row["GB"], row["min/epoch"], row["device"]) == ("3.0", f"{650 / 60 / 65:.1f}", "H100")
    assert row_of(table("8", [small], "", ""), run="CTR-GCN")["GB"] == ""


def test_all_runs_stand_in_one_table_with_the_command_that_repeats_them():
    records = [run(seed, best=best, **{"optim.amp": "bf16"}) for seed, best in ((1, 90.0), (2, 92.0))]
    records.append(run(1, heads=("csre",), **{"csre.temperature": 0.5}))
    rows = runs_table(records)
    plain = row_of(rows, run="CTR-GCN")
    assert (plain["best"], plain["seeds"], plain["precision"], plain["paper"]) == (
        "91.00 ± 1.41",
        "1,2",
        "bf16",
        "94.6",
    )
    words = "--config config/nw-ucla/ctrgcn_joint.yaml --with optim.amp=bf16 --seeds 1,2"
    assert plain["command"] == f"python tools/sweep.py {words}"
    assert plain["validation"] == ""
    validated = run(1) | {"validation_curve": [None, 95.0, 94.0]}
    assert row_of(runs_table([validated]), run="CTR-GCN")["validation"] == "95.00"
    other = row_of(rows, run="CTR-GCN + CSRE, csre.temperature 0.5")
    assert "--with csre.temperature=0.5" in other["command"]
    assert other["paper"] == ""


def test_precision_is_that_of_the_device_where_the_recipe_leaves_it_open():
    on_gpu = run(1, **{"optim.amp": "auto", "optim.published_amp": "fp16"})
    on_cpu = on_gpu | {"machine": {"device": "cpu"}}
    assert row_of(runs_table([on_gpu]), run="CTR-GCN")["precision"] == "fp16"
    assert row_of(runs_table([on_cpu]), run="CTR-GCN")["precision"] == "float32"


def test_formats():
    rows = [["run", "best", "never"], ["A & B", "91.00 ± 1.00", ""], ["python x", "5 %", ""]]
    assert formatted(rows, "text").splitlines()[2] == "A & B     91.00 ± 1.00"
    assert formatted(rows, "markdown").splitlines()[1:] == [
        "|---|---|",
        "| A & B | 91.00 ± 1.00 |",
        "| `python x` | 5 % |",
    ]
    assert list(csv.reader(io.StringIO(formatted(rows, "csv")))) == rows
    latex = formatted(rows, "latex")
    assert r"A \& B & 91.00 $\pm$ 1.00 \\" in latex
    assert r"5 \% \\" in latex


def test_spread():
    assert spread([]) == ""
    assert spread([90.0]) == "90.00"
    assert spread([90.0, 92.0]) == "91.00 ± 1.41"


def test_papers_numbers_are_of_known_runs():
    assert {key[1] for key in PAPER} <= ENCODERS.keys()
    rows = [row for number in "123" for row in table(number, [], "", "")[1:]]
    shown = [row[3] for row in rows if row[3]]
    assert len(shown) == sum(map(len, PAPER.values())) - 1  # SkeletonGCL's is in Table 4
    assert accuracies([], [Query("ntu120-xsub", "ctrgcn", "skeleton_gcl")])[1][3] == "85.6"


def test_the_command(tmp_path, capsys):
    words = ["--results", str(tmp_path), "--work_dir", str(tmp_path)]
    assert main(["3", *words]) == 0
    assert "Table 3: NW-UCLA" in capsys.readouterr().out
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(f"Table {number}: " in out for number in TITLES)
    assert main(["4", "--benchmark", "nw-ucl", *words]) == 2
    assert "config/nw-ucl/ctrgcn_joint.yaml: no such recipe" in capsys.readouterr().err
    assert main(["9", *words]) == 2
    assert "table 9: name some of 1 to 8, or runs or sweeps" in capsys.readouterr().err
    assert main(["runs", "sweeps", *words]) == 0
    out, err = capsys.readouterr()
    assert (out.strip(), err.count(f"none in {tmp_path} and {tmp_path}")) == ("", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--work_dir", "no/such"], "--work_dir no/such: no such folder"),
        (["--results", "no/such"], "--results no/such: no such folder"),
        (["--weights", "equla"], "--weights equla: no such weights (did you mean 'equal'"),
        (["--readme", "3"], "--readme takes all from results/ and nothing else; omit tables"),
        (["--readme", "--format", "csv"], "omit format, or --readme"),
        (["--readme", "--results", "no/such"], "omit results, or --readme"),
    ],
)
def test_options_that_would_change_nothing_are_refused(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_pages_hold_the_tables_of_the_records(page):
    """`python tools/tables.py --readme` makes them anew."""
    text = read(page)
    assert MARKERS[0] in text
    assert text == page_with(text, tables_of_pages()[page])
