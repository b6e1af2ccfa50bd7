"""Matching, fusing and counting against the reference scores; weights by name, held-out folds and test labels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fusion.fusing import count_correct, fuse, match, unit_length
from fusion.scores import Scores, ScoresError, load_labels, load_scores
from fusion.weights import BOX, PRESETS, _folds, _search, fit_held_out, fit_on_test_labels, preset_weights

J, B, JM, BM = STREAMS = ("joint", "bone", "joint_motion", "bone_motion")


def make(logits, labels=None, names=None, **origin: object):
    logits = np.asarray(logits, np.float32)
    names = [f"clip {row}" for row in range(len(logits))] if names is None else names
    return Scores(names, None if labels is None else np.asarray(labels, np.int64), logits, **origin)


def random_streams(seed=0, clips=90, num_classes=6, streams=3, noise=(1.0, 1.5, 2.5)):
    """Streams that know the class a little, each with another amount of noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=clips)
    truth = 1.5 * np.eye(num_classes)[labels]
    return [make(truth + noise[i] * rng.standard_normal(truth.shape), labels) for i in range(streams)]


# The reference scores


@pytest.fixture(params=["ucla_like", "ntu_like"])
def reference(request, shared):
    """Folder and name of a set of reference scores, and what must come out."""
    folder = shared / "parity" / "ensemble"
    return folder, request.param, json.loads((folder / "expected.json").read_text())[request.param]


@pytest.mark.parametrize("bone", ["bone", "bone_shuffled"])
def test_reference_counts(reference, bone):
    folder, kind, expected = reference
    files = [folder / f"{kind}_{stream}_test_score.pkl" for stream in (J, bone, JM, BM)]
    matched = match([load_scores(path) for path in files], load_labels(folder / f"{kind}_labels.npz"))
    assert len(matched.names) == expected["total"]
    assert matched.num_classes == expected["classes"]
    entries = {name: entry for name, entry in expected.items() if isinstance(entry, dict)}
    assert len(entries) == 12
    for name, entry in entries.items():
        counts = count_correct(fuse(matched.logits, entry["weights"]), matched.labels)
        assert (counts.correct, counts.top5, counts.total) == (entry["correct"], entry["top5"], expected["total"]), name


def test_single_streams_need_no_fusing(reference):
    folder, kind, expected = reference
    for stream in STREAMS:
        scores = load_scores(folder / f"{kind}_{stream}_test_score.pkl")
        matched = match([scores], load_labels(folder / f"{kind}_labels.npz"))
        counts = count_correct(matched.logits[0], matched.labels)
        assert (counts.correct, counts.top5) == (expected[stream]["correct"], expected[stream]["top5"])


def test_presets_are_those_of_the_reference(reference):
    _, _, expected = reference
    assert preset_weights("equal", STREAMS) == expected["4S_equal"]["weights"]
    assert preset_weights("ctrgcn", STREAMS) == expected["4S_ctrgcn"]["weights"]
    assert preset_weights("infogcn", STREAMS) == expected["4S_infogcn"]["weights"]
    for name in ("hyperformer", "blockgcn"):
        assert preset_weights(name, STREAMS, "ntu120-xset") == expected[f"4S_{name}_ntu"]["weights"]
        assert preset_weights(name, STREAMS, "nw-ucla") == expected[f"4S_{name}_ucla"]["weights"]


@pytest.mark.parametrize(
    ("benchmark", "base", "large"),
    [
        ("ntu60-xsub", [1, 1.4, 1.1, 0.3], [1, 1.4, 1, 0.5]),
        ("ntu60-xview", [1, 1.4, 1.1, 0.6], [1, 1.4, 1, 0.5]),
        ("ntu120-xsub", [1, 1.5, 0.7, 0.3], [1, 1.5, 0.7, 0.3]),
        ("ntu120-xset", [1, 1.5, 0.7, 0.3], [1, 1.5, 0.6, 0.6]),
    ],
)
def test_presets_of_hyper_gcn(benchmark, base, large):
    assert preset_weights("hypergcn", STREAMS, benchmark) == base
    assert preset_weights("hypergcn_large", STREAMS, benchmark) == large
    for name in ("hypergcn", "hypergcn_large"):
        assert preset_weights(name, (B, J)) == [1, 1]
        assert preset_weights(name, STREAMS[:3]) == [0.6, 0.6, 0.4]
        with pytest.raises(ScoresError, match=r"not defined for 4 streams .* on nw-ucla"):
            preset_weights(name, STREAMS, "nw-ucla")


# Matching


def test_rows_are_matched_by_name():
    first = make([[1, 0], [0, 1], [5, 0]], [0, 1, 0], ["a", "b", "c"])
    other = make([[7, 0], [0, 8], [9, 0]], [0, 1, 0], ["c", "b", "a"])
    matched = match([first, other])
    assert matched.names == ["a", "b", "c"]
    assert matched.labels.tolist() == [0, 1, 0]
    assert [logits.tolist() for logits in matched.logits] == [
        [[1, 0], [0, 1], [5, 0]],
        [[9, 0], [0, 8], [7, 0]],
    ]


def test_labels_come_from_whoever_has_them():
    bare, labelled = make(np.eye(3), names=["a", "b", "c"]), make(np.eye(3), [2, 1, 0], ["c", "b", "a"])
    assert match([bare, labelled]).labels.tolist() == [0, 1, 2]
    assert match([bare, bare], {"c": 2, "a": 0, "b": 1}).labels.tolist() == [0, 1, 2]
    assert match([bare, labelled], {"c": 2, "a": 0, "b": 1}).labels.tolist() == [0, 1, 2]


def test_benchmark_is_that_of_the_streams_that_tell():
    assert match([make(np.eye(2), [0, 1]), make(np.eye(2), [0, 1], benchmark="demo")]).benchmark == "demo"
    assert match([make(np.eye(2), [0, 1])]).benchmark is None


EYE = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("other", "labels", "message"),
    [
        (make(EYE[:2], [0, 1]), None, r"1 of 3 only in first.npz \(first 'clip 2'\)"),
        (make(EYE, [0, 1, 2], ["clip 0", "x", "y"]), None, "2 of 3 only in first.npz.* 2 of 3 only in .*'x', 'y'"),
        (make(np.eye(4)[:3], [0, 1, 2]), None, "class counts: 3 in first.npz, 4 in other.npz"),
        (make(EYE, [0, 2, 1]), None, r"first.npz and other.npz: .*2 of 3 clips \(first 'clip 1', 'clip 2'\)"),
        (make(EYE, [0, 1, 2], benchmark="demo"), None, "benchmarks: nw-ucla in first.npz, demo in other.npz"),
        (make(EYE), {"clip 0": 0, "clip 1": 1}, "1 of 3 only in first.npz"),
        (make(EYE), {"clip 0": 0, "clip 1": 1, "clip 2": 2, "extra": 0}, "1 of 4 only in the labels file .*'extra'"),
        (make(EYE), {"clip 0": 0, "clip 1": 1, "clip 2": 1}, "the labels file and first.npz: .*1 of 3 clips"),
        (make(EYE), {"clip 0": 1, "clip 1": 2, "clip 2": 3}, "from 1 to 3; classes are 0 to 2"),
    ],
)
def test_what_differs_is_named(other, labels, message):
    first = make(EYE, [0, 1, 2], benchmark="nw-ucla", source="first.npz")
    with pytest.raises(ScoresError, match=message) as caught:
        match([first, replace(other, source="other.npz")], labels)
    assert "\n" not in str(caught.value)


def test_labels_are_needed():
    with pytest.raises(ScoresError, match=r"a\.pkl: carries no labels.*--labels"):
        match([make(EYE, source="a.pkl"), make(EYE)])


# Fusing and counting


def test_fused_score_is_the_weighted_sum():
    first, other = np.array([[1, 2]], np.float32), np.array([[10, -4]], np.float32)
    assert fuse([first, other], [2, 0.5]).tolist() == [[7, 2]]


def test_sum_is_not_rounded_to_float32():
    large, small = np.array([[2.0**24, 0]], np.float32), np.array([[1, 0]], np.float32)
    assert fuse([large, small], [1, 1])[0, 0] == 2**24 + 1


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [1, -0.1], [0, 0], [1, float("nan")], [1, float("inf")]])
def test_wrong_weights(weights):
    with pytest.raises(ScoresError, match="weights"):
        fuse([EYE, EYE], weights)


def test_counts():
    logits = np.array([[0, 1, 2, 3, 4, 5, 6.0]] * 7)
    counts = count_correct(logits, np.arange(7))  # ranks 6, 5, 4, 3, 2, 1, 0
    assert (counts.correct, counts.top5, counts.total) == (1, 5, 7)
    assert counts.top1_percent == pytest.approx(100 / 7)
    assert counts.top5_percent == pytest.approx(500 / 7)


def test_ties_go_to_the_lower_class_as_argmax_has_it():
    logits = np.zeros((7, 7))
    counts = count_correct(logits, np.arange(7))
    assert (counts.correct, counts.top5) == (1, 5)


def test_few_classes_are_all_within_five():
    assert count_correct(EYE, np.array([1, 2, 0])).top5 == 3


# Presets


@pytest.mark.parametrize(
    ("name", "streams", "benchmark", "weights"),
    [
        ("equal", (J, BM, JM), None, [1, 1, 1]),
        ("agcn", (J, B), None, [1, 1]),
        ("ctrgcn", (J, B), "ntu60-xsub", [1, 1]),
        ("ctrgcn", (J, B, JM), None, [0.6, 0.6, 0.4]),
        ("ctrgcn", (BM, JM, B, J), "demo", [0.4, 0.4, 0.6, 0.6]),
        ("shiftgcn", (J, B), None, [1, 1]),
        ("shiftgcn", STREAMS, "nw-ucla", [0.6, 0.6, 0.4, 0.4]),
        ("dcgcn", (J, JM, B, BM), None, [0.7, 0.3, 0.7, 0.3]),
        ("pyskl", (B, J), None, [1, 1]),
        ("pyskl", STREAMS, "ntu60-xsub", [2, 2, 1, 1]),
        ("frhead", STREAMS, "ntu60-xsub", [2, 2, 1, 1]),
        ("frhead", STREAMS, "ntu60-xview", [0.6, 0.6, 0.4, 0.4]),
        ("frhead", (J, JM, B, BM), "ntu120-xset", [0.6, 0.3, 0.75, 0.15]),
        ("frhead", STREAMS, "ntu120-xsub", [0.6, 0.75, 0.3, 0.15]),
        ("frhead", STREAMS, "nw-ucla", [0.6, 0.6, 0.4, 0.4]),
        ("hyperformer", STREAMS, "ntu60-xview", [0.4, 0.6, 0.2, 0.2]),
        ("hyperformer", STREAMS, "nw-ucla", [0.4, 0.4, 0.3, 0.2]),
        ("blockgcn", STREAMS, "ntu120-xsub", [0.6, 0.7, 0.35, 0.2]),
        ("blockgcn", STREAMS, "nw-ucla", [0.7, 0.5, 0.6, 0.2]),
        ("infogcn", (J, B), None, [1.5, 1.5]),
        ("infogcn", (J, J, B, JM, JM, BM), "nw-ucla", [1.5, 1.5, 1.5, 1, 1, 1]),
    ],
)
def test_presets(name, streams, benchmark, weights):
    assert preset_weights(name, streams, benchmark) == weights


@pytest.mark.parametrize(
    ("name", "streams", "benchmark", "message"),
    [
        ("ctrgnc", STREAMS, None, "unknown preset 'ctrgnc' .did you mean 'ctrgcn'"),
        (
            "agcn",
            STREAMS,
            "nw-ucla",
            "4 streams .* on nw-ucla; .* equal, ctrgcn, shiftgcn, dcgcn, pyskl, frhead, hyperformer, blockgcn",
        ),
        (
            "frhead",
            (J, B),
            "nw-ucla",
            r"2 streams .*; .* equal, agcn, ctrgcn, shiftgcn, pyskl, hypergcn, hypergcn_large, infogcn",
        ),
        ("ctrgcn", (J, JM), None, r"2 streams \(joint, joint_motion\); defined there are equal, infogcn"),
        ("blockgcn", STREAMS, "demo", "on demo; defined there are equal, ctrgcn, shiftgcn, dcgcn, pyskl, infogcn"),
        ("blockgcn", STREAMS, None, "differs between benchmarks; add --benchmark .*ntu60-xsub.*nw-ucla"),
        ("infogcn", (J, None), None, "not defined"),
    ],
)
def test_presets_that_are_not_defined(name, streams, benchmark, message):
    with pytest.raises(ScoresError, match=message):
        preset_weights(name, streams, benchmark)


def test_preset_names():
    encoders = {"agcn", "ctrgcn", "shiftgcn", "dcgcn", "hyperformer", "blockgcn", "infogcn", "hypergcn"}
    assert set(PRESETS) == {"equal", "frhead", "pyskl", "hypergcn_large"} | encoders


# Fitting


def accuracy_with(matched, weights, clips=slice(None)):
    return count_correct(fuse([logits[clips] for logits in matched.logits], weights), matched.labels[clips]).correct


@pytest.mark.parametrize("seed", range(4))
def test_tuned_weights_are_the_best_of_the_box(seed):
    matched = match(random_streams(seed))
    weights = fit_on_test_labels(matched, seed=seed)
    assert len(weights) == 3
    assert all(BOX[0] <= weight <= BOX[1] for weight in weights)
    rng = np.random.default_rng(100 + seed)  # other draws from the same box
    others = [accuracy_with(matched, draw) for draw in rng.uniform(*BOX, size=(500, 3))]
    assert accuracy_with(matched, weights) >= max(others) - 1  # 1000 draws may miss a corner by a clip
    assert accuracy_with(matched, weights) >= accuracy_with(matched, [1, 1, 1])


def test_tuned_weights_reach_the_best_reference(reference):
    folder, kind, expected = reference
    files = [folder / f"{kind}_{stream}_test_score.pkl" for stream in STREAMS]
    matched = match([load_scores(path) for path in files], load_labels(folder / f"{kind}_labels.npz"))
    best = max(entry["correct"] for entry in expected.values() if isinstance(entry, dict))
    assert accuracy_with(matched, fit_on_test_labels(matched)) >= best


def test_equal_weights_win_a_tie():
    same = [make(np.eye(4), [0, 1, 2, 3])] * 3
    assert fit_on_test_labels(match(same)) == [1, 1, 1]


def test_fit_finds_the_stream_to_trust():
    matched = match(random_streams(1, clips=600, streams=2, noise=(0.8, 4.0)))
    first, other = fit_on_test_labels(matched)
    assert first > 2 * other
    held_out = fit_held_out(matched)
    assert (held_out.weights[:, 0] > 2 * held_out.weights[:, 1]).all()


def test_held_out_fold_has_no_say_in_its_weights():
    rng = np.random.default_rng(5)
    matched = match(random_streams(2, clips=120))
    fold_of = _folds(matched.labels, 4, seed=3)
    assert np.bincount(fold_of).tolist() == pytest.approx([30] * 4, abs=3)
    plain = fit_held_out(matched, folds=4, seed=3).weights
    assert plain.shape == (4, 3)
    assert plain.sum(axis=1) == pytest.approx(1)
    for fold in range(4):
        inside = (fold_of == fold)[:, None]
        wild = [np.where(inside, rng.standard_normal((120, 6)), logits).astype("f4") for logits in matched.logits]
        weights = fit_held_out(replace(matched, logits=wild), folds=4, seed=3).weights
        assert (weights[fold] == plain[fold]).all()
        assert (weights != plain).any()


def test_held_out_figure_is_below_the_tuned_one_on_noise():
    """Streams that know nothing of the classes: tuning finds luck, held-out folds show that it was luck."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 30)
    matched = match([make(rng.standard_normal((300, 10)), labels) for _ in range(4)])
    tuned, held_out = accuracy_with(matched, fit_on_test_labels(matched)), fit_held_out(matched).tally
    assert held_out.total == 300
    assert tuned > held_out.correct
    assert abs(held_out.correct - 30) < 4 * np.sqrt(300 * 0.1 * 0.9)  # chance, within four standard deviations


def test_fits_are_repeatable():
    matched = match(random_streams(3))
    first, again = fit_held_out(matched, seed=1), fit_held_out(matched, seed=1)
    assert (first.weights == again.weights).all()
    assert first.tally == again.tally
    assert fit_on_test_labels(matched, seed=2) == fit_on_test_labels(matched, seed=2)


def test_order_of_clips_does_not_matter_to_a_tuned_fit():
    streams = random_streams(4)
    order = np.random.default_rng(0).permutation(90)
    shuffled = [make(s.logits[order], s.labels[order], [s.names[row] for row in order]) for s in streams]
    assert fit_on_test_labels(match(streams)) == fit_on_test_labels(match(shuffled))


def test_fit_needs_two_streams():
    for fit in (fit_held_out, fit_on_test_labels):
        with pytest.raises(ScoresError, match="two streams"):
            fit(match(random_streams(streams=1)))


@pytest.mark.parametrize("folds", [-1, 0, 1, 31])
def test_folds_that_cannot_be(folds):
    streams = [make(np.eye(3)[np.repeat([0, 1, 2], 30)], np.repeat([0, 1, 2], 30))] * 2
    with pytest.raises(ScoresError, match=f"--folds {folds}: must be from 2 to 30"):
        fit_held_out(match(streams), folds=folds)


def test_rare_classes_are_folded_without_complaint(recwarn):
    labels = np.array([0] * 10 + [1] * 10 + [2])
    assert fit_held_out(match([make(np.eye(3)[labels], labels)] * 2)).tally.correct == 21
    assert not recwarn.list


def test_search_counts_as_fusing_does():
    """Hits of every candidate in every fold against fusing and counting one by one."""
    for seed in range(5):
        matched = match(random_streams(seed, clips=60, streams=3))
        fold_of = np.random.default_rng(seed).integers(4, size=60)
        fold_of[:4] = range(4)
        candidates, hits = _search(matched, fold_of, seed)
        assert hits.shape == (4, len(candidates))
        assert candidates[0].tolist() == [1, 1, 1]
        for index in range(0, len(candidates), 50):
            counted = [accuracy_with(matched, candidates[index], fold_of == fold) for fold in range(4)]
            assert hits[:, index].tolist() == counted


def test_normalised_logits_have_length_1_and_zeros_stay():
    logits = np.array([[3, -4], [0, 0], [1e-30, 0], [2e30, 0]], np.float32)
    assert unit_length(logits).tolist() == [[pytest.approx(0.6), pytest.approx(-0.8)], [0, 0], [1, 0], [1, 0]]
    assert unit_length(logits).dtype == np.float32
