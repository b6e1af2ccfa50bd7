"""The command that fuses streams: what it prints, what it finds, and how it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ensemble import main
from fusion.scores import Scores, load_scores, save_scores

STREAMS = ("joint", "bone", "joint_motion", "bone_motion")
REPOSITORY = Path(__file__).resolve().parent.parent.parent


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Call the command, and see what it returns and prints."""

    def call(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(run):
    """The one line by which a command is refused."""

    def message(*arguments: object) -> str:
        outcome = run(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert re.fullmatch(r"ensemble\.py: [^\n]+\n", outcome.err)
        return outcome.err

    return message


CLIPS = [f"clip {number}" for number in range(20)]


def logits_with(correct):
    """Logits that put class 0 first in so many of the twenty clips, and last of twelve in the others."""
    logits = np.zeros((20, 12), np.float32)
    logits[:correct, 0] = 1
    logits[correct:, 0] = -1
    return logits


def write_run(
    work_dir,
    stream,
    last=10,
    best=12,
    encoder="ctrgcn",
    group="g1",
    csre=True,
    benchmark="nw-ucla",
    suffix="",
    shift=0,
):
    """A run's folder with its two score files; `last` and `best` are the clips that they get right, of twenty."""
    folder = work_dir / benchmark / f"{encoder}{'_csre' if csre else ''}_{stream}{suffix}"
    folder.mkdir(parents=True)
    for selection, correct, epoch in (("last", last, 65), ("best", best, 57)):
        if correct is not None:
            scores = Scores(
                CLIPS,
                np.zeros(20, np.int64),
                logits_with(correct) + shift,
                stream=stream,
                encoder=encoder,
                benchmark=benchmark,
                epoch=epoch,
                run=folder.name,
                heads="csre" if csre else "",
                group=group,
                selection=selection,
            )
            save_scores(folder / f"scores_{selection}.npz", scores)
    return folder


def write_set(work_dir, **options: object):
    return [write_run(work_dir, stream, **options) for stream in STREAMS]


def numbers_of(out, title):
    """Counts of correct clips and of clips within the first five on the line of that title."""
    line = next(line for line in out.splitlines() if line.startswith(title + " "))
    _, correct, _, top5 = line[len(title) :].split()[:4]
    return int(correct), int(top5)


# Named score files


@pytest.fixture(params=["ucla_like", "ntu_like"])
def reference(request, shared):
    folder, kind = shared / "parity" / "ensemble", request.param
    expected = json.loads((folder / "expected.json").read_text())[kind]
    return [folder / f"{kind}_{stream}_test_score.pkl" for stream in STREAMS], folder / f"{kind}_labels.npz", expected


def test_published_scores_by_weights(run, reference):
    files, labels, expected = reference
    entries = {name: entry for name, entry in expected.items() if name.startswith("4S")}
    assert len(entries) == 7
    for name, entry in entries.items():
        outcome = run(*files, "--labels", labels, "--weights", *entry["weights"])
        assert outcome.code == 0
        assert numbers_of(outcome.out, "fused") == (entry["correct"], entry["top5"]), name
        for stream in STREAMS:
            assert numbers_of(outcome.out, stream) == (expected[stream]["correct"], expected[stream]["top5"])
    assert f"{expected['total']} clips, {expected['classes']} classes" in outcome.out
    assert f"{100 * expected['joint']['correct'] / expected['total']:.2f}" in outcome.out


@pytest.mark.parametrize(
    ("options", "entry"),
    [
        ([], "4S_equal"),
        (["--weights", "equal"], "4S_equal"),
        (["--weights", "ctrgcn"], "4S_ctrgcn"),
        (["--weights", "hyperformer", "--benchmark", "ntu60-xsub"], "4S_hyperformer_ntu"),
        (["--weights", "hyperformer", "--benchmark", "nw-ucla"], "4S_hyperformer_ucla"),
        (["--weights", "blockgcn", "--benchmark", "ntu120-xset"], "4S_blockgcn_ntu"),
        (["--weights", "blockgcn", "--benchmark", "nw-ucla"], "4S_blockgcn_ucla"),
        (["--weights", "infogcn"], "4S_infogcn"),
    ],
)
def test_published_scores_by_presets(run, reference, options, entry):
    files, labels, expected = reference
    outcome = run(*files, "--labels", labels, *options)
    assert numbers_of(outcome.out, "fused") == (expected[entry]["correct"], expected[entry]["top5"])


def test_order_of_a_files_clips_does_not_matter(run, reference):
    files, labels, expected = reference
    shuffled = Path(str(files[1]).replace("_bone_", "_bone_shuffled_"))
    outcome = run(files[0], shuffled, *files[2:], "--labels", labels, "--weights", "ctrgcn")
    assert numbers_of(outcome.out, "fused") == (expected["4S_ctrgcn"]["correct"], expected["4S_ctrgcn"]["top5"])
    outcome = run(files[0], shuffled, "--labels", labels)
    assert numbers_of(outcome.out, "fused") == (expected["2S_equal"]["correct"], expected["2S_equal"]["top5"])


def test_streams_of_pickles_come_from_their_order_or_by_name(run, reference):
    files, labels, expected = reference
    assert "streams taken from the order of the files" in run(*files, "--labels", labels).out
    turned = [files[3], files[2], files[1], files[0]]
    outcome = run(*turned, "--labels", labels, "--streams", *reversed(STREAMS), "--weights", "ctrgcn")
    assert "taken from the order" not in outcome.out
    assert numbers_of(outcome.out, "fused") == (expected["4S_ctrgcn"]["correct"], expected["4S_ctrgcn"]["top5"])
    assert numbers_of(outcome.out, "bone_motion")[0] == expected["bone_motion"]["correct"]


def test_a_single_file(run, reference):
    files, labels, expected = reference
    outcome = run(files[0], "--labels", labels)
    assert numbers_of(outcome.out, "joint") == (expected["joint"]["correct"], expected["joint"]["top5"])
    assert "fused" not in outcome.out


def test_fits(run, reference):
    files, labels, expected = reference
    best = max(entry["correct"] for entry in expected.values() if isinstance(entry, dict))
    tuned = run(*files, "--labels", labels, "--fit-on-test-labels")
    assert numbers_of(tuned.out, "fused, tuned")[0] >= best
    assert re.search("WARNING: .*biased upwards", tuned.out)
    held_out = run(*files, "--labels", labels, "--fit", "--folds", 4, "--seed", 7)
    assert numbers_of(held_out.out, "fused, held out")[0] <= numbers_of(tuned.out, "fused, tuned")[0]
    assert re.search(r"4 folds.*(0\.\d{3} ± 0\.\d{3}(, )?){4}", held_out.out)
    assert "WARNING" not in held_out.out
    for outcome in (tuned, held_out):
        assert numbers_of(outcome.out, "fused")[0] == expected["4S_equal"]["correct"]


def test_refusals_of_published_scores(refused, reference):
    files, labels, _ = reference
    with_labels = (*files, "--labels", labels)
    assert "carries no labels" in refused(*files)
    assert "--labels FILE" in refused(*files)
    assert "3 weights for 4 streams" in refused(*with_labels, "--weights", 1, 2, 3)
    assert "did you mean 'hyperformer'" in refused(*with_labels, "--weights", "hyperfromer")
    assert "numbers or one preset" in refused("--labels", labels, "--weights", "ctrgcn", *files)
    assert "add --benchmark" in refused(*with_labels, "--weights", "frhead")
    assert "defined there are equal, agcn, ctrgcn, infogcn" in refused(
        *files[:2], "--labels", labels, "--weights", "frhead", "--benchmark", "nw-ucla"
    )
    assert "did you mean 'bone'" in refused(*with_labels, "--streams", "joint", "bnoe", "joint_motion", "bone_motion")
    assert "2 names for 4 score files" in refused(*with_labels, "--streams", "joint", "bone")
    assert "add --streams" in refused(*files, files[0], "--labels", labels)
    assert "cannot be read" in refused(*files, "--labels", labels.with_name("none.npz"))
    assert "must be from 2 to" in refused(*with_labels, "--fit", "--folds", 1)
    assert "--seed -1" in refused(*with_labels, "--fit", "--seed", -1)
    assert "--folds goes with --fit" in refused(*with_labels, "--folds", 3)
    assert "not allowed with" in refused(*with_labels, "--fit", "--fit-on-test-labels")


def test_different_sets_of_clips(refused, shared):
    folder = shared / "parity" / "ensemble"
    files = [folder / f"{kind}_joint_test_score.pkl" for kind in ("ucla_like", "ntu_like")]
    assert "class counts: 10 in" in refused(*files)
    assert "120 of 120 only in" in refused(files[0], "--labels", folder / "ntu_like_labels.npz")


# Folders of runs


def test_runs_are_fused_by_their_last_or_best_epoch(run, tmp_path):
    folders = write_set(tmp_path)
    outcome = run(*folders, "--epoch", "best")
    assert outcome.code == 0
    assert "nw-ucla: 20 clips, 12 classes" in outcome.out
    assert numbers_of(outcome.out, "joint") == (12, 12)
    assert "ctrgcn + CSRE, best epoch 57: " in outcome.out
    assert re.search("best: .*same test clips", outcome.out)
    outcome = run(*folders)
    assert numbers_of(outcome.out, "joint_motion") == (10, 10)
    assert "last epoch 65" in outcome.out
    assert "same test clips" not in outcome.out


def test_benchmark_of_runs_decides_a_preset(run, refused, tmp_path):
    folders = write_set(tmp_path)
    assert "weights 0.7 0.5 0.6 0.2 (blockgcn)" in run(*folders, "--weights", "blockgcn").out
    reordered = run(folders[3], *folders[:3], "--weights", "blockgcn")
    assert "weights 0.2 0.7 0.5 0.6 (blockgcn)" in reordered.out
    assert "are of nw-ucla" in refused(*folders, "--benchmark", "ntu60-xsub")


def test_plain_and_csre_runs_may_be_mixed(run, tmp_path):
    mixed = [write_run(tmp_path, "joint"), write_run(tmp_path, "bone", csre=False, group="g2")]
    outcome = run(*mixed)
    assert outcome.code == 0
    assert re.search(r"joint .* ctrgcn \+ CSRE, last", outcome.out)
    assert re.search(r"bone .* ctrgcn, last", outcome.out)


def test_one_stream_twice_is_pointed_out(run, tmp_path):
    first, other = write_run(tmp_path, "joint"), write_run(tmp_path, "joint", suffix="_k2", shift=1)
    outcome = run(first, other)
    assert outcome.code == 0
    assert "are of one stream, joint\n" in outcome.out
    assert "are of one stream, joint, with the same logits" in run(first, first).out


def test_mixed_epochs_are_pointed_out(run, tmp_path):
    folders = [write_run(tmp_path, stream) for stream in STREAMS[:2]]
    outcome = run(folders[0] / "scores_last.npz", folders[1] / "scores_best.npz")
    assert outcome.code == 0
    assert "are mixed" in outcome.out


def test_refusals_of_runs(refused, tmp_path):
    joint = write_run(tmp_path, "joint", best=None)
    other = write_run(tmp_path, "joint", benchmark="demo")
    assert "no scores_best.npz in it; it has scores_last.npz" in refused(joint, "--epoch", "best")
    assert "a finished run's folder has one" in refused(tmp_path)
    assert "cannot be read" in refused(tmp_path / "nw-ucla" / "none.npz")
    assert "benchmarks: nw-ucla in" in refused(joint, other)
    assert "is of stream joint, not bone" in refused(other, "--streams", "bone")
    (joint / "scores_last.npz").write_bytes(b"PK half a file")
    assert re.search(r"scores_last\.npz: damaged", refused(joint))


def test_nan_is_refused(refused, tmp_path):
    logits = logits_with(20)
    logits[3] = np.nan
    np.savez(tmp_path / "s.npz", names=CLIPS, labels=np.zeros(20, int), logits=logits, stream="joint")
    assert "s.npz: NaN or infinite logits in 1 of 20 clips (first 'clip 3')" in refused(tmp_path / "s.npz")


# The table of all sets


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
    write_set(tmp_path, csre=False, group="g2", last=8, best=9)
    write_set(tmp_path, encoder="agcn", group="g3", benchmark="demo", last=20, best=20)
    outcome = run("--work_dir", tmp_path)
    assert outcome.code == 0
    rows = rows_of(outcome.out)
    assert [(row["benchmark"], row["encoder"], row["runs"], row["epochs"], row["J"]) for row in rows] == [
        ("demo", "agcn + CSRE", "agcn_csre_*", "best", "100.00"),
        ("demo", "agcn + CSRE", "agcn_csre_*", "last", "100.00"),
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
    folders = write_set(tmp_path, csre=False, group="g2")
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


# The program


def test_help_is_quick_to_import_for():
    """Neither torch nor scikit-learn, whose imports take seconds, is needed to answer."""
    program = (
        "import sys, ensemble\n"
        "try:\n    ensemble.main(['--help'])\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "print(code, *sorted({'torch', 'sklearn', 'scipy', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.splitlines()[-1] == "0"
    for option in ("--work_dir", "--epoch", "--weights", "--fit-on-test-labels", "--labels", "--streams"):
        assert option in done.stdout


def test_exit_code_of_the_program(tmp_path):
    command = [sys.executable, REPOSITORY / "ensemble.py", tmp_path / "none.pkl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"ensemble\.py: .*none\.pkl: cannot be read \(No such file or directory\)\n", done.stderr)
