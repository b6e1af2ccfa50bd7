"""The guide to data: its code runs, and what it says of the store is so."""

from __future__ import annotations

import re

import h5py
import numpy as np

import main
from feeders import BENCHMARKS, PackedStore, get_benchmark, open_store
from feeders.benchmarks import GENERATED
from feeders.benchmarks.own import DEFAULTS, REQUIRED
from feeders.choices import PLACEMENTS
from feeders.readers.published_npz import read_published_npz
from graph import get_skeleton
from tests.documents import REPOSITORY, code_block, read, section, table

GUIDE = read("docs/data.md")


def test_your_own_data_in_twenty_lines_train(tmp_path, monkeypatch):
    code = code_block(GUIDE, "gestures.yaml")
    assert len([line for line in code.splitlines() if line]) <= 20
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    command = code_block(GUIDE, "--data.benchmark gestures.yaml", language="bash")
    words = command.split()[2:]
    words[1] = str(REPOSITORY / words[1])
    words += [
        "--optim.epochs",
        "1",
        "--log.tsne_clips",
        "0",
        "--log.figures",
        "false",
        "--device",
        "cpu",
        "--model.options",
        "{}",
    ]
    words += ["--model.name", "tests.engine.tiny:TinyEncoder"]
    assert main.main(words) == 0
    with np.load(tmp_path / "work_dir" / "gestures" / "gestures" / "scores_last.npz") as scores:
        assert scores["logits"].shape == (14, 2)
        assert str(scores["benchmark"]) == "gestures"


def test_a_store_of_arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clips = [np.random.default_rng(0).standard_normal((5, 1, 4, 3)).astype(np.float32) for _ in range(3)]
    names = {"clips": clips, "labels": [0, 1, 1], "names": ["a", "b", "c"], "class_names": ["wave", "grab"]}
    exec(code_block(GUIDE, "from_clips"), names | {"sides": [0, 1, -1], "subjects": [1, 2, 3]})
    (tmp_path / "hand.yaml").write_text(
        "{name: hand, joints: [a, b, c, d], root: a, centre: b, parents: {b: a, c: b, d: b}}"
    )
    (tmp_path / "mine.yaml").write_text("{skeleton: hand.yaml, classes: [wave, grab], path: gestures.h5}")
    store = open_store(get_benchmark("mine.yaml")).store
    np.testing.assert_array_equal(store.clip(2).numpy(), clips[2])


def test_an_archive_becomes_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 4, 150)).astype(np.float32)
    np.savez("NTU60_CS.npz", x_train=x, y_train=np.eye(60)[:2], x_test=x, y_test=np.eye(60)[:2])
    exec(code_block(GUIDE, "NTU60_CS.npz"), {})
    read_again, _ = read_published_npz(tmp_path / "NTU60_CS.npz", get_benchmark("ntu60-xsub"))
    assert PackedStore.load("ntu60_xsub.h5").fingerprint == read_again.fingerprint


def test_the_recipe_reads_a_clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 1, 25, 3), (9, 2, 25, 3))]
    PackedStore.from_clips(clips, [0, 1], ["a", "b"], ["x", "y"], "ntu").save("clips.h5")
    for i, expected in enumerate(clips):
        names = {"i": i}
        exec(code_block(GUIDE, "h5py.File"), names)
        np.testing.assert_array_equal(names["clip"], expected)
        assert (names["label"], names["name"]) == (i, "ab"[i])


def test_every_field_of_the_store_is_listed(tmp_path):
    clip = np.ones((2, 1, 25, 3), np.float32)
    PackedStore.from_clips([clip], [0], ["a"], ["x"], "ntu", {"subject": [1]}).save(tmp_path / "a.h5")
    rows = table(section(GUIDE, "The packed store, field by field").split("A column `side`")[0])
    listed = {row.replace("`", "").removeprefix("attribute ") for row in rows}
    with h5py.File(tmp_path / "a.h5") as file:
        assert listed == {*file.attrs, *(set(file) - {"metadata"}), "metadata/<column>"}
        assert str(file.attrs["version"]) == rows["attribute `version"]["content"]


def test_every_benchmark_is_listed_with_its_numbers():
    rows = table(section(GUIDE, "Benchmarks"))
    assert list(rows) == list(BENCHMARKS)
    for name, row in rows.items():
        benchmark = BENCHMARKS[name]
        clips = benchmark.expected_clips
        assert row["training + test clips"] == f"{clips['train']} + {clips['test']}"
        assert row["classes"] == str(benchmark.num_classes)
        joints = get_skeleton(benchmark.skeleton).num_joints
        assert row["joints, persons"] == f"{joints}, {benchmark.num_persons}"
        if name not in GENERATED:
            assert row["usual place (`data.path`)"] == f"`{benchmark.default_path}`"


def test_every_placement_and_key_is_listed():
    assert table(section(GUIDE, "Where clips are kept")).keys() == set(PLACEMENTS)
    own = section(GUIDE, "Your own data")
    keys = re.findall(r"^\| `(\w+)` \|", own, flags=re.MULTILINE)
    assert keys == [*REQUIRED, *DEFAULTS]
