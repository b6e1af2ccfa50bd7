"""The command that fuses streams, without score files: the table of all sets that it finds."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np

from fusion.scores import load_scores, save_scores
from tests.fusion.runs import STREAMS, write_run, write_set


def rows_of(out):
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("benchmark"))
    columns = re.split(r"\s{2,}", lines[start])
    rows = []
    for line in lines[start + 1 :]:
        cells = re.split(r"\s{2,}", line)
        if len(cells) != len(columns):
            break
        rows.append(dict(zip(columns, cells, strict=True)))
    return rows


def test_table_of_all_sets(run, tmp_path):
    write_set(tmp_path, last=10, best=12)
    write_set(tmp_path, heads="", group="g2", last=8, best=9)
    write_set(tmp_path, encoder="agcn", heads="fr_head+Mine", group="g3", benchmark="demo", last=20, best=20)
    outcome = run("--work_dir", tmp_path)
    assert outcome.code == 0
    rows = rows_of(outcome.out)
    assert [(row["benchmark"], row["encoder"], row["runs"], row["epochs"], row["J"]) for row in rows] == [
        ("demo", "agcn + FR-Head + Mine", "agcn_fr_head+Mine_*", "best", "100.00"),
        ("demo", "agcn + FR-Head + Mine", "agcn_fr_head+Mine_*", "last", "100.00"),
        ("nw-ucla", "ctrgcn + CSRE", "ctrgcn_csre_*", "best", "60.00"),
        ("nw-ucla", "ctrgcn + CSRE", "ctrgcn_csre_*", "last", "50.00"),
        ("nw-ucla", "ctrgcn", "ctrgcn_*", "best", "45.00"),
        ("nw-ucla", "ctrgcn", "ctrgcn_*", "last", "40.00"),
    ]
    assert {row["clips"] for row in rows} == {"20"}
    assert list(rows[0])[-6:] == ["J", "B", "JM", "BM", "2S", "4S"]
    assert re.search("best: .*same test clips", outcome.out)
    assert "2S on demo: weights 1 1 (equal)" in outcome.out
    assert "skipped" not in outcome.out


def test_table_adds_up_the_right_streams(run, tmp_path):
    """Joint carries bone, and the motion streams outvote both."""
    folders = write_set(tmp_path)
    votes = {"joint": (3, 1), "bone": (-1, 1), "joint_motion": (-3, 2), "bone_motion": (-3, 4)}
    for folder, stream in zip(folders, STREAMS, strict=True):
        logits = np.zeros((20, 12), np.float32)
        logits[:5, 0], logits[5:, 0] = votes[stream]  # class 0 above the others, in five clips and in the rest
        file = folder / "scores_last.npz"
        save_scores(file, replace(load_scores(file), logits=logits))
    last = rows_of(run("--work_dir", tmp_path).out)[1]
    assert [last[column] for column in ("J", "B", "JM", "BM")] == ["100.00", "75.00", "75.00", "75.00"]
    assert [last[column] for column in ("2S", "4S")] == ["100.00", "75.00"]


def test_table_with_a_preset(run, tmp_path):
    write_set(tmp_path)
    outcome = run("--work_dir", tmp_path, "--weights", "frhead")
    assert outcome.code == 0
    assert [row["2S"] for row in rows_of(outcome.out)] == ["-", "-"]
    assert "2S: preset 'frhead' is not defined for 2 streams" in outcome.out
    assert outcome.out.count("4S on nw-ucla: weights 0.6 0.6 0.4 0.4 (frhead)") == 1


def test_table_with_weights_tuned_on_test_labels(run, tmp_path):
    """Joint is right and bone wrong, more loudly: equal weights get no clip right, others of the box all."""
    folders = write_set(tmp_path)
    for folder, margin in zip(folders[:2], (1, -1.5), strict=True):
        logits = np.zeros((20, 12), np.float32)
        logits[:, 0] = margin
        file = folder / "scores_last.npz"
        save_scores(file, replace(load_scores(file), logits=logits))
    outcome = run("--work_dir", tmp_path, "--fit-on-test-labels", "--output", tmp_path / "fused.json")
    assert outcome.code == 0
    last = rows_of(outcome.out)[1]
    assert list(last)[-4:] == ["2S", "4S", "2S tuned on test labels", "4S tuned on test labels"]
    assert (last["2S"], last["2S tuned on test labels"]) == ("0.00", "100.00")
    assert "biased upwards" in outcome.out
    fused = json.loads((tmp_path / "fused.json").read_text())
    assert [entry["weights"]["name"] for entry in fused].count("tuned on test labels") == 4


def test_fusions_as_data(run, tmp_path):
    folders = write_set(tmp_path)
    output = tmp_path / "fused.json"
    assert run(*folders[:2], "--weights", 2, 1, "--output", output).code == 0
    (fused,) = json.loads(output.read_text())
    assert (fused["benchmark"], fused["selection"], fused["clips"]) == ("nw-ucla", "last", 20)
    assert (fused["correct"], fused["top1"]) == (10, 50)
    assert fused["weights"] == {"name": "given", "values": [2, 1]}
    assert fused["streams"] == ["joint", "bone"]
    assert [(member["run"], member["heads"], member["epoch"], member["top1"]) for member in fused["members"]] == [
        ("ctrgcn_csre_joint", ["csre"], 65, 50),
        ("ctrgcn_csre_bone", ["csre"], 65, 50),
    ]
    assert fused["members"][0]["scores"] == str(folders[0] / "scores_last.npz")


def test_incomplete_sets_are_listed_with_what_is_missing(run, tmp_path):
    write_set(tmp_path)
    write_run(tmp_path, "joint", encoder="agcn", group="g4")
    write_run(tmp_path, "bone", encoder="agcn", group="g4", best=None)
    outcome = run("--work_dir", tmp_path)
    assert len(rows_of(outcome.out)) == 2
    assert "skipped: agcn_csre_* (nw-ucla, last): no scores of joint_motion, bone_motion\n" in outcome.out
    assert "skipped: agcn_csre_* (nw-ucla, best): no scores of bone, joint_motion, bone_motion\n" in outcome.out


def test_runs_of_other_settings_make_other_sets(run, refused, tmp_path):
    for number, stream in enumerate(STREAMS):
        write_run(tmp_path, stream, group=f"g{number % 2}")
    message = refused("--work_dir", tmp_path)
    assert "no complete set of streams; ctrgcn_csre_* (nw-ucla, best): no scores of bone, bone_motion; " in message
    assert message.rstrip().endswith("; and 1 more")


def test_folders_set_aside_are_passed_over(run, tmp_path):
    write_set(tmp_path)
    write_run(tmp_path, "joint", suffix=".old-1")
    outcome = run("--work_dir", tmp_path)
    assert outcome.code == 0
    assert "skipped" not in outcome.out


def test_two_runs_of_one_stream_and_unusable_files_are_skipped_by_name(run, tmp_path):
    folders = write_set(tmp_path)
    again = write_run(tmp_path, "joint", suffix="_again")
    (folders[1] / "scores_best.npz").write_bytes(b"")
    np.savez(again / "scores_best.npz", names=["a"], logits=np.ones((1, 2)), stream="joint")
    outcome = run("--work_dir", tmp_path)
    assert outcome.code == 0
    assert [row["epochs"] for row in rows_of(outcome.out)] == ["last"]
    skipped = [line for line in outcome.out.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 4
    assert any("joint_again/scores_last.npz: the same stream and settings as" in line for line in skipped)
    assert any("joint_again/scores_best.npz: does not say which set" in line for line in skipped)
    assert any("bone/scores_best.npz: damaged" in line for line in skipped)
    assert any("ctrgcn_csre_* (nw-ucla, best): no scores of bone" in line for line in skipped)


def test_sets_whose_clips_differ_are_skipped(run, tmp_path):
    write_set(tmp_path)
    folders = write_set(tmp_path, heads="", group="g2")
    file = folders[1] / "scores_last.npz"
    save_scores(file, replace(load_scores(file), labels=np.ones(20, np.int64)))
    outcome = run("--work_dir", tmp_path)
    assert len(rows_of(outcome.out)) == 3
    assert re.search(r"skipped: ctrgcn_\* \(nw-ucla, last\): .*different labels for 20 of 20 clips", outcome.out)


def test_refusals_of_the_table(refused, tmp_path):
    assert "no such folder" in refused("--work_dir", tmp_path / "none")
    assert "no finished runs in it" in refused("--work_dir", tmp_path)
    assert "did you mean 'ctrgcn'" in refused("--work_dir", tmp_path, "--weights", "ctrgc")
    for options in (
        ["--fit"],
        ["--labels", "x.npz"],
        ["--epoch", "last"],
        ["--weights", 1, 2],
    ):
        assert f"{options[0]} " in refused("--work_dir", tmp_path, *options)
    assert "--work_dir" in refused("--work_dri", tmp_path)
    assert "invalid choice: 'newest'" in refused("--epoch", "newest")
