"""The command that fuses named score files: what it prints, and how it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusion.scores import load_scores, save_scores
from tests.fusion.runs import CLIPS, STREAMS, logits_with, numbers_of, write_run, write_set

REPOSITORY = Path(__file__).resolve().parent.parent.parent


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
    assert "did you mean 'hyperformer'" in refused(*with_labels, "--weights", "hyperfromer")
    assert "numbers or one preset" in refused("--labels", labels, "--weights", "ctrgcn", *files)
    assert "add --benchmark" in refused(*with_labels, "--weights", "frhead")
    assert "defined there are equal, agcn, ctrgcn, shiftgcn, pyskl, hypergcn, hypergcn_large, infogcn" in refused(
        *files[:2], "--labels", labels, "--weights", "frhead", "--benchmark", "nw-ucla"
    )
    assert "did you mean 'bone'" in refused(*with_labels, "--streams", "joint", "bnoe", "joint_motion", "bone_motion")
    assert "2 names for 4 score files" in refused(*with_labels, "--streams", "joint", "bone")
    assert "add --streams" in refused(*files, files[0], "--labels", labels)
    assert "cannot be read" in refused(*files, "--labels", labels.with_name("none.npz"))
    assert "--folds 999: must be from 2 to" in refused(*with_labels, "--fit", "--folds", 999)
    assert "not allowed with" in refused(*with_labels, "--fit", "--fit-on-test-labels")


@pytest.mark.parametrize("evaluate", [[], ["--evaluate"]])
def test_options_that_cannot_be_right_are_refused_before_anything_is_read_or_tested(refused, tmp_path, evaluate):
    """The runs that are named do not exist, which would be told next."""
    for count, options, message in (
        (1, ["--weights", "bogus"], "unknown preset 'bogus'"),
        (2, ["--weights", "bogus"], "unknown preset 'bogus'"),
        (2, ["--weights", 1, 2, 3], "3 weights for 2 streams"),
        (1, ["--weights", 1, 2], "2 weights for 1 streams"),
        (2, ["--weights", 1, -1], "weights 1 -1: finite numbers are expected, none negative"),
        (1, ["--fit"], "two streams or more"),
        (1, ["--fit-on-test-labels"], "two streams or more"),
        (2, ["--fit", "--folds", 1], "--folds 1: must be 2 or more"),
        (2, ["--fit", "--seed", -1], "--seed -1"),
        (2, ["--folds", 3], "--folds goes with --fit"),
    ):
        assert message in refused(*[tmp_path / "none"] * count, *evaluate, *options)


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
    mixed = [write_run(tmp_path, "joint", heads="csre+fr_head"), write_run(tmp_path, "bone", heads="", group="g2")]
    outcome = run(*mixed)
    assert outcome.code == 0
    assert re.search(r"joint .* ctrgcn \+ CSRE \+ FR-Head, last", outcome.out)
    assert re.search(r"bone .* ctrgcn, last", outcome.out)


def test_one_stream_twice_is_pointed_out(run, tmp_path):
    first, other = write_run(tmp_path, "joint"), write_run(tmp_path, "joint", suffix="_k2", shift=1)
    outcome = run(first, other)
    assert outcome.code == 0
    assert "are of one stream, joint\n" in outcome.out
    assert "are of one stream, joint, with the same logits" in run(first, first).out


def test_normalised_logits_are_fused_as_numpy_adds_them(run, tmp_path):
    """Two streams, of which the raw logits of the first alone decide."""
    rng, labels = np.random.default_rng(0), np.zeros(20, np.int64)
    logits = [(scale * (rng.standard_normal((20, 12)) + np.eye(12)[0])).astype("f4") for scale in (100, 1)]
    folders = [write_run(tmp_path, stream) for stream in STREAMS[:2]]
    for folder, of_stream in zip(folders, logits, strict=True):
        file = folder / "scores_last.npz"
        save_scores(file, replace(load_scores(file), logits=of_stream))
    raw = run(*folders)
    assert numbers_of(raw.out, "fused")[0] == np.sum((logits[0] + logits[1]).argmax(1) == labels)
    lengths = [np.linalg.norm(of_stream, axis=1, keepdims=True) for of_stream in logits]
    for weights in ([1, 1], [0.5, 2]):
        added = sum(w * of_stream / length for w, of_stream, length in zip(weights, logits, lengths, strict=True))
        outcome = run(*folders, "--normalise", "l2", "--weights", *weights, "--output", tmp_path / "fused.json")
        assert numbers_of(outcome.out, "fused")[0] == np.sum(added.argmax(1) == labels)
        assert numbers_of(outcome.out, "bone") == numbers_of(raw.out, "bone")
    assert "weights 0.5 2 (given l2)" in outcome.out
    assert "l2: every stream's logits of a clip are divided by their Euclidean norm first" in outcome.out
    (fusion,) = json.loads((tmp_path / "fused.json").read_text())
    assert fusion["weights"] == {"name": "given l2", "values": [0.5, 2]}
    assert numbers_of(outcome.out, "fused") != numbers_of(raw.out, "fused")


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
