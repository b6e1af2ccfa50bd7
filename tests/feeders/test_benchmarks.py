"""The protocols of NTU RGB+D against published facts; every benchmark can be found and says what it needs."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from engine.schema import leaves
from feeders import BENCHMARKS, DataError, Feeder, PackedStore, get_benchmark, open_store
from feeders.benchmarks import GENERATED
from graph import get_skeleton

NUMBERS = re.compile(r"S(?P<setup>\d{3})C(?P<camera>\d{3})P(?P<subject>\d{3})R\d{3}A\d{3}")
NTU = {
    "ntu60-xsub": (40_091, 16_487),
    "ntu60-xview": (37_646, 18_932),
    "ntu120-xsub": (63_026, 50_919),
    "ntu120-xset": (54_468, 59_477),
}
"""Published numbers of usable training and test clips."""


def split_number(benchmark, name):
    match = NUMBERS.match(name)
    assert match is not None
    return int(match[benchmark.split.column])


def missing_of(shared, dataset):
    return (shared / "data" / f"ntu_missing_{dataset}.txt").read_text().split()


@pytest.mark.parametrize("name", NTU)
def test_the_published_names_lie_on_their_sides(shared, name):
    benchmark = get_benchmark(name)
    with np.load(shared / f"parity/ntu_pipeline/expected_{name.replace('-', '_')}.npz") as published:
        for side in ("train", "test"):
            assert {split_number(benchmark, clip) for clip in published[f"names_{side}"]} <= benchmark.split.values(
                side
            )


@pytest.mark.parametrize(
    ("name", "numbers"), [("ntu60-xsub", 40), ("ntu60-xview", 3), ("ntu120-xsub", 106), ("ntu120-xset", 32)]
)
def test_every_clip_of_ntu_is_on_exactly_one_side(name, numbers):
    rule = get_benchmark(name).split
    assert sorted((*rule.train, *rule.test)) == list(range(1, numbers + 1))


@pytest.mark.parametrize(("name", "trainers"), [("ntu60-xsub", 20), ("ntu120-xsub", 53)])
def test_half_of_the_subjects_train(name, trainers):
    assert len(get_benchmark(name).split.train) == trainers


def test_the_trainers_of_ntu60_also_train_in_ntu120():
    assert get_benchmark("ntu60-xsub").split.train == {
        subject for subject in get_benchmark("ntu120-xsub").split.train if subject <= 40
    }


@pytest.mark.parametrize(("dataset", "files"), [("60", 56_880), ("120", 114_480)])
def test_expected_clips_are_all_that_were_recorded_but_the_missing_ones(shared, dataset, files):
    usable = files - len(missing_of(shared, dataset))
    for name, clips in NTU.items():
        if name.startswith(f"ntu{dataset}-"):
            assert get_benchmark(name).expected_clips == {"train": clips[0], "test": clips[1]}
            assert sum(clips) == usable


def test_a_third_of_ntu60_is_seen_by_each_camera(shared):
    """All three cameras recorded every performance, so the missing names alone decide the sides of X-View."""
    missing = Counter(split_number(get_benchmark("ntu60-xview"), clip) for clip in missing_of(shared, "60"))
    train, test = NTU["ntu60-xview"]
    assert (train, test) == (2 * 18_960 - missing[2] - missing[3], 18_960 - missing[1])


def test_both_protocols_of_a_data_set_read_one_store():
    assert get_benchmark("ntu60-xsub").data_path() == get_benchmark("ntu60-xview").data_path()
    assert get_benchmark("ntu120-xsub").data_path() == get_benchmark("ntu120-xset").data_path()
    assert get_benchmark("ntu60-xsub").data_path() != get_benchmark("ntu120-xsub").data_path()


@pytest.mark.parametrize(("name", "dataset"), [("ntu60-xview", "ntu60"), ("ntu120-xset", "ntu120")])
def test_absent_data_are_told_with_the_command_that_makes_them(tmp_path, name, dataset):
    with pytest.raises(
        DataError, match=rf"nothing\.h5.*prepare_ntu\.py --raw FOLDER --dataset {dataset}\b.*data\.path"
    ):
        open_store(get_benchmark(name), tmp_path / "nothing.h5")


def test_every_benchmark_names_its_own_classes():
    """None falls back on another's, least of all on those of the demo."""
    demo = set(BENCHMARKS["demo"].class_names)
    for benchmark in BENCHMARKS.values():
        assert len(set(benchmark.class_names)) == benchmark.num_classes
        assert benchmark.name in GENERATED or set(benchmark.class_names) != demo


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_column_side_wins_over_the_rule_of_every_benchmark(name):
    benchmark = get_benchmark(name)
    skeleton = get_skeleton(benchmark.skeleton)
    store = PackedStore.from_clips(
        [np.ones((2, 1, skeleton.num_joints, 3), np.float32)] * 3,
        labels=[0, 0, 0],
        names=["a", "b", "c"],
        class_names=benchmark.class_names,
        skeleton=skeleton.name,
        metadata={"side": [1, 0, -1], benchmark.split.column: [min(benchmark.split.train)] * 3},
    )
    assert Feeder(store, benchmark, "train").names == ("b",)
    assert Feeder(store, benchmark, "test").names == ("a",)


def test_the_help_of_the_setting_lists_every_benchmark():
    assert f": {', '.join(BENCHMARKS)}" in leaves()["data.benchmark"].help
