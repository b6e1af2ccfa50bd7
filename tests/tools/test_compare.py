"""Comparing runs: the statistics against known values, the pairing by seed and by clip, and what is written."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest

from engine.config import resolve
from fusion.scores import Scores, save_scores
from tools.compare import CompareError, main, mcnemar, pair_up, paired_difference, read_run
from tools.runs import RecordError

CLASSES = ["sit", "stand", "walk <fast>"]
LABELS = np.repeat([0, 1, 2], 10)


def write_run(tmp_path, name, seed, predicted, order=None, labels=LABELS, config="nw-ucla/hcn_joint", words=()):
    """A finished run folder with the predicted classes of thirty clips, ten of each class."""
    folder = tmp_path / name
    folder.mkdir()
    resolved = resolve(["--config", f"config/{config}.yaml", "--seed", str(seed), "--name", name, *words])
    assert resolved is not None
    (folder / "config.yaml").write_text(resolved.as_yaml())
    (folder / "environment.json").write_text(json.dumps({"commit": f"commit of {name[0]}"}))
    per_class = {"per_class": dict.fromkeys(CLASSES, 0.0)}
    (folder / "results.json").write_text(json.dumps({"last": per_class, "best": per_class}))
    order = np.arange(30) if order is None else order
    names = [f"clip {row}" for row in order]
    logits = np.eye(3, dtype=np.float32)[np.asarray(predicted)[order]]
    save_scores(folder / "scores_last.npz", Scores(names, labels[order], logits))
    return folder


def with_errors(*errors: tuple[int, int]):
    """Predictions that are right but for (clip, predicted class)."""
    predicted = LABELS.copy()
    for clip, wrong in errors:
        predicted[clip] = wrong
    return predicted


def test_paired_difference_has_the_t_interval():
    difference = paired_difference([10, 20, 30], [11, 22, 33])
    assert difference.mean == 2
    assert difference.margin == pytest.approx(4.302653 / 3**0.5, rel=1e-6)  # t of two degrees of freedom, 97.5 %
    assert paired_difference([90], [91]) == (1, None)


@pytest.mark.parametrize(("only_first", "only_second", "p"), [(0, 0, 1), (5, 5, 1), (1, 9, 22 / 1024), (6, 0, 2 / 64)])
def test_mcnemar_is_exact(only_first, only_second, p):
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p == pytest.approx(p)


def test_runs_are_paired_by_seed_and_clips_by_name(tmp_path):
    turned = np.arange(30)[::-1]
    before = [read_run(write_run(tmp_path, f"a{seed}", seed, with_errors((seed, 2))), "last") for seed in (1, 2, 3)]
    after = [read_run(write_run(tmp_path, f"b{seed}", seed, with_errors(), order=turned), "last") for seed in (3, 1)]
    pairs = pair_up(before, after)
    assert [(first.seed, second.seed) for first, second in pairs] == [(1, 1), (3, 3)]
    for first, second in pairs:
        assert second.names == first.names
        assert (second.labels == first.labels).all()
        assert np.flatnonzero(first.correct != second.correct).tolist() == [first.seed]


def test_runs_that_cannot_be_paired(tmp_path):
    one, again, other = (
        read_run(write_run(tmp_path, name, seed, LABELS), "last") for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    with pytest.raises(CompareError, match=r"no seed .*on both sides .before --: nw-ucla 1; after: nw-ucla 2"):
        pair_up([one], [other])
    with pytest.raises(CompareError, match=r"/a and .*/b: both of nw-ucla, seed 1; name one"):
        pair_up([one, again], [one])
    with pytest.raises(CompareError, match=r"no results\.json"):
        read_run(tmp_path, "last")
    (tmp_path / "a/results.json").write_text('{"last": 3}')
    with pytest.raises(RecordError, match="/a: a file in it is damaged"):
        read_run(tmp_path / "a", "last")


def test_folds_are_paired_by_fold_and_seed(tmp_path, capsys):
    def write(name, fold, predicted):
        words = ["--data.benchmark", f"sbu-fold{fold}"]
        return str(write_run(tmp_path, f"{name}{fold}", 1, predicted, config="sbu/hcn_joint", words=words))

    before = [write("a", fold, with_errors(*((clip, 1) for clip in range(fold)))) for fold in (1, 2, 3)]
    after = [write("b", fold, with_errors()) for fold in (2, 1)]
    assert main([*before, "--", *after, "--output", str(tmp_path / "out")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "60 test clips; last epoch." in text
    assert "Mean difference +5.00 points over 2 pairs of benchmarks and seeds" in text
    assert "share training clips, as folds do, so that the interval is too narrow" in text
    assert f"Not paired, for want of a run of the same seed on the other side: {before[2]}." in text
    rows = list(csv.reader((tmp_path / "out/seeds.csv").open()))
    assert [row[0] for row in rows[1:]] == ["sbu-fold1, 1", "sbu-fold2, 1"]


def test_given_weights_are_compared_by_their_test(tmp_path, capsys):
    """Where the run folder is gone, or there never was one."""
    (weights := tmp_path / "some.pt").touch()
    given = write_run(tmp_path, "a", 1, with_errors((0, 1), (1, 1), (2, 1)), words=["--weights", str(weights)])
    (given / "scores_last.npz").rename(given / "scores_test.npz")
    (given / "results.json").write_text(json.dumps({"test": {"per_class": dict.fromkeys(CLASSES, 0.0)}}))
    run = write_run(tmp_path, "b", 1, with_errors())
    assert main([str(given), "--", str(run), "--epoch", "best", "--output", str(tmp_path / "out")]) == 2
    assert "b/scores_best.npz" in capsys.readouterr().err
    assert main([str(given), "--", str(run), "--output", str(tmp_path / "out")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Baseline: {given} (weights {weights}). Compared: {run}." in text
    assert "Difference +10.00 points" in text
    assert main([str(given), "--", str(given), "--output", str(tmp_path / "out")]) == 0
    assert "30 test clips; given weights." in capsys.readouterr().out


def test_what_differs_is_said(tmp_path, capsys):
    """Also where the titles of the sides are the same."""
    folders = [
        write_run(tmp_path, f"{side}{seed}", seed, LABELS, words=words)
        for side, words in (
            ("a", ("--optim.lr", "0.01")),
            ("b", ("--optim.lr", "0.02", "--csre.enabled", "true", "--csre.temperature", "0.5")),
        )
        for seed in (1, 2)
    ]
    names = [str(folder) for folder in folders]
    assert main([*names[:2], "--", *names[2:], "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert f"Baseline: {names[0]}, {names[1]}." in text
    assert f"Compared: {names[2]}, {names[3]}." in text
    assert names[3] in (tmp_path / "out/comparison.html").read_text()
    assert list(csv.reader((tmp_path / "out/settings.csv").open())) == [
        ["setting", "baseline", "compared"],
        ["commit", "commit of a", "commit of b"],
        ["csre.enabled", "False", "True"],
        ["csre.temperature", "", "0.5"],
        ["optim.lr", "0.01", "0.02"],
    ]


def test_what_is_written(tmp_path, capsys):
    # Of sit: 7 right before, 9 after; of stand: 10 and 9; walk stays at 10.
    before = with_errors((0, 1), (1, 1), (2, 2))
    after = with_errors((0, 1), (10, 2))
    folders = [
        write_run(tmp_path, f"{name}{seed}", seed, of) for seed in (1, 2) for name, of in (("a", before), ("b", after))
    ]
    out = tmp_path / "out"
    assert main([str(folders[0]), str(folders[2]), "--", str(folders[1]), str(folders[3]), "--output", str(out)]) == 0
    text = capsys.readouterr().out
    assert (
        "Mean difference +3.33 points over 2 pairs of seeds, 95 % interval +3.33 to +3.33; the interval excludes 0."
        in text
    )
    assert (out / "comparison.txt").read_text() in text
    assert "every clip counts once for each of its seeds" in text

    def rows(name):
        return list(csv.reader((out / f"{name}.csv").open()))

    assert rows("seeds")[1] == ["1", "90.00", "93.33", "+3.33", "1", "2", "1"]
    levels = {row[0]: row[1:] for row in rows("levels")}
    assert levels["hard"][:5] == ["1", "20", "70.00", "90.00", "+20.00"]
    assert levels["easy"][:5] == ["2", "40", "100.00", "95.00", "-5.00"]
    assert rows("classes")[1:] == [
        ["stand", "20", "100.00", "90.00", "-10.00"],
        ["walk <fast>", "20", "100.00", "100.00", "+0.00"],
        ["sit", "20", "70.00", "90.00", "+20.00"],
    ]
    assert rows("pairs")[1:] == [
        ["sit", "stand", "20", "4", "2", "-2"],
        ["sit", "walk <fast>", "20", "2", "0", "-2"],
        ["stand", "walk <fast>", "20", "0", "2", "+2"],
    ]
    assert "Classes that rose by more than 3 points: 1; that fell: 1; of 3." in text

    page = (out / "comparison.html").read_text()
    assert "walk &lt;fast&gt;" in page
    assert "<img" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page), "the page needs another file"
    assert not re.search(r"https?://|<script", page)


def test_the_best_epoch_says_what_it_was_chosen_on(tmp_path, capsys):
    folder = write_run(tmp_path, "a", 1, LABELS)
    (folder / "scores_last.npz").rename(folder / "scores_best.npz")
    words = [str(folder), "--", str(folder), "--epoch", "best", "--output", str(tmp_path / "o")]
    assert main(words) == 0
    assert "best epoch, chosen on these same test clips" in capsys.readouterr().out
    held_out = write_run(tmp_path, "b", 1, LABELS, words=["--data.validation", "0.1"])
    (held_out / "scores_last.npz").rename(held_out / "scores_best.npz")
    assert main([str(folder), "--", str(held_out), *words[3:]]) == 0
    both = "chosen on these same test clips by the baseline, on held-out training clips by the others."
    assert both in capsys.readouterr().out
    settings = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(re.sub(r"validation: \S+", "validation: 0.1", settings))
    assert main(words) == 0
    assert "best epoch, chosen on held-out training clips" in capsys.readouterr().out


def test_refusals(tmp_path, capsys):
    folder = str(write_run(tmp_path, "a", 1, LABELS))

    def refusal(*words: str) -> str:
        assert main(list(words)) == 2
        return capsys.readouterr().err

    assert "name the baseline's runs, then --" in refusal(folder, folder)
    assert "options come at the end" in refusal("--epoch", "best", "--", folder)
    unknown = refusal(folder, "--", folder, "--tsne", "sti", "--output", str(tmp_path / "o"))
    assert "--tsne 'sti': not found (did you mean 'sit'" in unknown


def test_features_of_chosen_classes_are_drawn_from_the_weights(tmp_path, monkeypatch):
    before, after = (write_run(tmp_path, name, 1, LABELS) for name in ("a", "b"))
    rng = np.random.default_rng(0)
    asked = []

    def pooled(run):
        asked.append(run.weights)
        return rng.normal(size=(30, 5)).astype("f4") + 5 * LABELS[:, None], LABELS

    monkeypatch.setattr("tools.compare._pooled_features", pooled)
    assert main([str(before), "--", str(after), "--tsne", "SIT,walk <fast>", "--output", str(tmp_path / "o")]) == 0
    assert asked == [before / "checkpoints/last.pt", after / "checkpoints/last.pt"]
    page = (tmp_path / "o/comparison.html").read_text()
    assert page.count("data:image/png") == 2  # nothing moved: no Figure 5
