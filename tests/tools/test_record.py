"""Records of finished runs: what they hold, that they repeat the run; those in results/ fit today's configurations."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import torch

import main as main_program
from engine.checkpoint import save_checkpoint
from engine.config import resolve
from engine.report import confusion_as_csv
from engine.schema import leaves
from fusion.scores import Scores, save_scores
from tools.record import main
from tools.runs import RESULTS, RecordError, load_records, renewed, settings_of_command, standard_words, wall_seconds

CONFIG = "config/nw-ucla/hcn_csre_joint.yaml"


def train(argv):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)  # which the run folder keeps
        return main_program.main(argv[1:])


DEFAULTS = {key: leaf.default for key, leaf in leaves().items()}


def write_run(tmp_path, *words: str, name="hcn_csre_joint_s3", stream="joint"):
    """A finished run folder, written by hand: 3 epochs, two classes with 3 and 1 test clips."""
    folder = tmp_path / "runs/nw-ucla" / name
    (folder / "checkpoints").mkdir(parents=True)
    argv = ["--config", CONFIG, "--name", name, "--optim.epochs", "3", "--seed", "3", "--data.stream", stream, *words]
    resolved = resolve(argv)
    assert resolved is not None
    (folder / "config.yaml").write_text(resolved.as_yaml())
    environment = {"command": ["main.py", *argv], "torch": "2.13.0", "platform": "Linux", "device": "cpu", "threads": 1}
    (folder / "environment.json").write_text(json.dumps({**environment, "cpu": "Xeon", "commit": "abc"}))
    results = {"epoch": 3, "top1": 75.0, "per_class": {"sit down": 66.7, 'say "hi", twice': 100.0}}
    (folder / "results.json").write_text(
        json.dumps({"benchmark": "nw-ucla", "last": results, "best": {**results, "epoch": 2, "top1": 100.0}})
    )
    for selection, correct in (("last", 2), ("best", 3)):
        confusion = np.array([[correct, 3 - correct], [0, 1]])
        (folder / f"confusion_{selection}.csv").write_text(confusion_as_csv(list(results["per_class"]), confusion))
    lines = [{"kind": "train", "epoch": epoch, "peak_memory_mb": 100.0 + epoch} for epoch in (1, 2, 3)]
    lines += [{"kind": "test", "epoch": epoch, "top1": top1} for epoch, top1 in ((1, 50.0), (2, 100.0), (3, 75.0))]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "log.txt").write_text(
        "2026-01-01 10:00:00 hcn: 4 test clips, run folder x\n2026-01-01 10:10:00 epoch 1/3\n"
        "2026-01-02 09:00:00 hcn: 4 test clips, run folder x\n2026-01-02 09:05:00 epoch 2/3\n  a table\n"
    )
    content = {"data": {"train": "11", "test": "22"}, "encoder": {"weight": torch.ones(2)}}
    save_checkpoint(folder / "checkpoints/last.pt", content)
    scores = Scores(
        ["a", "b"], np.array([0, 1]), np.eye(2, dtype=np.float32), run=name, stream=stream, encoder="hcn", heads="csre"
    )
    for selection, epoch in (("last", 3), ("best", 2)):
        save_scores(
            folder / f"scores_{selection}.npz",
            Scores(**{**vars(scores), "benchmark": "nw-ucla", "selection": selection, "epoch": epoch}),
        )
    return folder


@pytest.fixture
def record(tmp_path):
    """Record something and read the records."""

    def call(*words: object):
        code = main([*map(str, words), "--results", str(tmp_path / "results")])
        assert code == 0
        return load_records(tmp_path / "results")

    return call


def test_a_record_says_what_was_run_and_what_came_out(record, tmp_path):
    (made,) = record(write_run(tmp_path, "--csre.temperature", "0.5", "--device", "cpu"))
    assert (made["benchmark"], made["encoder"], made["heads"], made["stream"]) == ("nw-ucla", "hcn", ["csre"], "joint")
    assert (made["seed"], made["epochs"], made["commit"], made["torch"]) == (3, 3, "abc", "2.13.0")
    assert made["last"] == {"epoch": 3, "top1": 75.0}
    assert made["best"] == {"epoch": 2, "top1": 100.0}
    assert made["curve"] == [50.0, 100.0, 75.0]
    assert made["classes"] == {"sit down": [3, 2, 3], 'say "hi", twice': [1, 1, 1]}
    assert made["data"] == {"train": "11", "test": "22"}
    assert made["wall_seconds"] == 900
    assert made["peak_memory_mb"] == 103.0
    assert made["machine"]["cpu"] == "Xeon"
    assert made["config"] == CONFIG
    assert made["settings"]["csre.temperature"] == 0.5
    assert "device" not in made["settings"]  # says where a run executes, not what it computes


def test_a_real_run_can_be_recorded(record, demo, tmp_path):
    """From main.py's own folder: what the other tests write by hand is what it writes."""
    words = ["--config", "config/demo/ctrgcn_csre_joint.yaml", "--model.name", "tests.engine.tiny:TinyEncoder"]
    words += ["--model.options", "{}", "--data.window", "8", "--optim.epochs", "1", "--name", "mine", "--device", "cpu"]
    words += ["--log.figures", "false", "--log.tsne_clips", "0", "--data.path", str(demo), "--optim.batch_size", "60"]
    assert train(["main.py", *words, "--work_dir", str(tmp_path / "runs")]) == 0
    (made,) = record(tmp_path / "runs/demo/mine")
    assert made["heads"] == ["csre"]
    assert made["curve"] == [made["last"]["top1"]]
    clips, correct, _ = zip(*made["classes"].values(), strict=True)
    assert (len(clips), sum(clips)) == (12, 240)
    assert sum(correct) / 2.4 == pytest.approx(made["last"]["top1"], abs=1e-3)
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", made["commit"])
    assert set(made["data"]) == {"train", "test"}
    assert made["wall_seconds"] >= 0


def test_the_command_of_a_record_repeats_its_settings(record, tmp_path):
    words = [
        "--csre.temperature",
        "0.5",
        "--optim.milestones",
        "1,2",
        "--csre.branches",
        "global",
        "--optim.amp",
        "bf16",
    ]
    (made,) = record(write_run(tmp_path, *words))
    assert made["command"].startswith(f"python main.py --config {CONFIG} ")
    settings = settings_of_command(made["command"])
    assert settings["optim.milestones"] == [1, 2]
    assert {key: value for key, value in settings.items() if value != DEFAULTS[key]} == made["settings"]


def test_a_run_that_held_clips_out_and_stopped_early(record, tmp_path):
    folder = write_run(tmp_path, "--data.validation", "0.1", "--optim.epochs", "9", "--optim.patience", "1")
    with (folder / "metrics.jsonl").open("a") as metrics:
        for epoch, top1 in ((2, 88.0), (3, 87.0)):
            metrics.write("\n" + json.dumps({"kind": "validation", "epoch": epoch, "top1": top1}))
    (made,) = record(folder)
    assert made["epochs"] == 9
    assert made["curve"] == [50.0, 100.0, 75.0]
    assert made["validation_curve"] == [None, 88.0, 87.0]


@pytest.mark.parametrize("words", [("--optim.epochs", "9"), ("--optim.epochs", "9", "--optim.patience", "2")])
def test_a_longer_training_in_progress_is_not_recorded_as_a_finished_one(tmp_path, capsys, words):
    """results.json is that of the shorter one until the longer one ends."""
    validation = ("--data.validation", "0.1") if "--optim.patience" in words else ()
    folder = write_run(tmp_path, *words, *validation)  # last epoch 3, best epoch 2
    assert main([str(folder), "--results", str(tmp_path / "results")]) == 2
    assert "hcn_csre_joint_s3: its results are of epoch 3 of 9; let its command finish it" in capsys.readouterr().err


def test_streams_that_had_files_of_their_own_are_settings_today(record, tmp_path):
    folder = write_run(tmp_path, stream="bone_motion")
    environment = json.loads((folder / "environment.json").read_text())
    environment["command"][2] = "elsewhere/config/nw-ucla/hcn_csre_bone_motion.yaml"
    (folder / "environment.json").write_text(json.dumps(environment))
    (made,) = record(folder)
    assert made["config"] == CONFIG
    assert settings_of_command(made["command"])["data.stream"] == "bone_motion"


def test_options_that_a_run_did_not_know_have_their_defaults(record, tmp_path):
    folder = write_run(tmp_path)
    lines = (folder / "config.yaml").read_text().splitlines(keepends=True)
    (folder / "config.yaml").write_text("".join(line for line in lines if "clip_norm" not in line))
    (made,) = record(folder)
    assert "optim.clip_norm" not in made["settings"]
    assert settings_of_command(made["command"])["optim.clip_norm"] is None  # today's HCN recipe clips


def test_encoder_options_that_are_the_default_are_no_difference(record, tmp_path):
    (made,) = record(write_run(tmp_path, "--model.options", "{}"))  # the recipe says hidden: 512, HCN's default
    assert "model.options" not in made["settings"]
    assert "model.options" not in made["command"]


def truncate(file):
    file.write_bytes(file.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "results.json").unlink(), "no results.json in it; name the folder of a finished"),
        (lambda folder: (folder / "checkpoints/last.pt").unlink(), "last.pt: missing"),
        (lambda folder: (folder / "config.yaml").write_text("optim: {speed: 3}"), "unknown setting optim.speed today"),
        (lambda folder: (folder / "environment.json").write_text("{"), "environment.json: not JSON"),
        (
            lambda folder: (folder / "environment.json").write_text("{}"),
            "damaged (KeyError: 'command'); train it again",
        ),
        (lambda folder: (folder / "config.yaml").write_text("[1]"), "hcn_csre_joint_s3: a file in it is damaged"),
        (
            lambda folder: (folder / "results.json").write_text('{"last": 3}'),
            "hcn_csre_joint_s3: a file in it is damaged",
        ),
        (
            lambda folder: (folder / "confusion_last.csv").write_text("true"),
            "hcn_csre_joint_s3: a file in it is damaged",
        ),
        (lambda folder: truncate(folder / "checkpoints/last.pt"), "last.pt: not a readable checkpoint"),
        (
            lambda folder: (folder / "metrics.jsonl").unlink(),
            "the test accuracy of epoch 3 is missing in metrics.jsonl",
        ),
    ],
)
def test_what_cannot_be_recorded(tmp_path, capsys, spoil, message):
    folder = write_run(tmp_path)
    spoil(folder)
    assert main([str(folder), "--results", str(tmp_path / "results")]) == 2
    assert message in capsys.readouterr().err


NO_RECORD = "not a record; those are made by `python tools/record.py RUN_FOLDER`"
NO_FUSION = "no fusion in it; `python ensemble.py RUN RUN ... --output FILE` makes one"
UNKNOWN_SETTING = "unknown setting optim.epchs (did you mean 'optim.epochs'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"benchmark": "nw-ucla", "last": {}}, NO_RECORD),  # a results.json
        (3, NO_RECORD),
        ([], NO_FUSION),  # of ensemble.py with one run
        ([1, 2], NO_FUSION),
        ([{"members": []}], NO_FUSION),
        ({"kind": "run", "settings": {"optim.epchs": 3}}, UNKNOWN_SETTING),
    ],
)
def test_files_that_are_neither_records_nor_fusions(tmp_path, capsys, content, message):
    file = tmp_path / "some.json"
    file.write_text(json.dumps(content))
    assert main([str(file), "--results", str(tmp_path / "results")]) == 2
    assert f"{file}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"kind": "run", "settings": {"optim.epchs": 3}}'])
def test_what_is_no_record_among_the_records_is_refused(tmp_path, content):
    (tmp_path / "nw-ucla").mkdir()
    (tmp_path / "nw-ucla/some.json").write_text(content)
    with pytest.raises(RecordError, match=r"nw-ucla/some\.json: (not a record|unknown setting optim\.epchs)"):
        load_records(tmp_path)


@pytest.mark.parametrize(
    ("benchmark", "encoder", "stream", "words"),
    [
        ("sbu-fold2", "hcn", "joint", "--config config/sbu/hcn_joint.yaml --data.benchmark sbu-fold2"),
        ("nw-ucla", "ctrgcn", "bone", "--config config/nw-ucla/ctrgcn_joint.yaml --data.stream bone"),
        (
            *("nw-ucla", "hyperformer", "bone_motion"),  # its bones have a file of their own, for their motion too
            "--config config/nw-ucla/hyperformer_bone.yaml --data.stream bone_motion",
        ),
        ("ntu60-xsub", "hcn", "joint", "--config config/ntu60-xsub/hcn_joint.yaml"),
    ],
)
def test_the_words_of_the_published_recipe(benchmark, encoder, stream, words):
    assert standard_words(benchmark, encoder, [], stream) == words.split()
    assert settings_of_command(f"python main.py {words}")["data.benchmark"] == benchmark


def test_a_commit_can_be_given_for_folders_that_do_not_say(record, tmp_path, capsys):
    folder = write_run(tmp_path)
    environment = json.loads((folder / "environment.json").read_text())
    del environment["commit"], environment["cpu"]
    (folder / "environment.json").write_text(json.dumps(environment))
    assert main([str(folder), "--results", str(tmp_path / "results")]) == 2
    assert "add --commit HASH" in capsys.readouterr().err
    (made,) = record(folder, "--commit", "def")
    assert (made["commit"], made["machine"]["cpu"]) == ("def", None)


def test_another_run_of_the_same_name_is_not_replaced_unasked(record, tmp_path, capsys):
    folder = write_run(tmp_path)
    record(folder)
    record(folder)  # the same again is no other
    assert main([str(folder), "--commit", "other", "--results", str(tmp_path / "results")]) == 2
    assert "holds another run of this name" in capsys.readouterr().err
    (made,) = record(folder, "--commit", "other", "--replace")
    assert made["commit"] == "other"


def test_fused_runs_are_recorded_with_their_members(record, tmp_path):
    import ensemble

    folders = [write_run(tmp_path, name=f"hcn_csre_{stream}_s3", stream=stream) for stream in ("joint", "bone")]
    fused = tmp_path / "fused.json"
    assert ensemble.main([*map(str, folders), "--output", str(fused)]) == 0
    (made,) = record(fused)
    assert (made["kind"], made["name"]) == ("ensemble", "hcn_csre_s3_2s_equal_last")
    assert (made["streams"], made["heads"], made["seed"], made["top1"]) == (["joint", "bone"], ["csre"], 3, 100.0)
    assert [(member["run"], member["epoch"]) for member in made["members"]] == [
        ("hcn_csre_joint_s3", 3),
        ("hcn_csre_bone_s3", 3),
    ]
    assert ensemble.main([*map(str, folders), "--output", str(fused), "--normalise", "l2"]) == 0
    made = next(made for made in record(fused) if "l2" in made["name"])
    assert (made["name"], made["weights"]) == (
        "hcn_csre_s3_2s_equal_l2_last",
        {"name": "equal l2", "values": [1, 1]},
    )


def test_wall_time_skips_the_pause_before_a_resumption(tmp_path):
    assert wall_seconds(write_run(tmp_path)) == 600 + 300
    assert wall_seconds(tmp_path) is None


def test_a_damaged_log_tells_no_time(tmp_path):
    (tmp_path / "log.txt").write_text("2026-01-01 10:00:00 hcn\n2026-13-01 10:00:00 epoch 1/3\n")
    assert wall_seconds(tmp_path) is None


# What is in results/


@pytest.mark.parametrize("file", sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.glob("*/*.json")))
def test_every_record_resolves_with_the_configurations_of_today(file):
    """`python tools/record.py results/*/*.json` renews the commands after a change of configurations."""
    made = json.loads((RESULTS / file).read_text())
    assert file == f"{made['benchmark']}/{made['name']}.json"
    if made["kind"] == "ensemble":
        known = {record["name"] for record in load_records()}
        assert {member["run"] for member in made["members"]} <= known
    else:
        settings = settings_of_command(made["command"])
        assert {key: value for key, value in settings.items() if value != DEFAULTS[key]} == made["settings"]
        assert renewed(made) == made
        deciding = made.get("validation_curve", made["curve"])
        assert deciding[made["best"]["epoch"] - 1] == max(filter(None, deciding))
        assert made["curve"][made["best"]["epoch"] - 1] == made["best"]["top1"]
        assert made["curve"][-1] == made["last"]["top1"]
