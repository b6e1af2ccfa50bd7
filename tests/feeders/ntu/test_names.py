"""Names of clips, and the facts of the two data sets."""

from __future__ import annotations

import pytest

from feeders import DataError
from feeders.ntu.names import CLASS_NAMES, DATASETS, ClipName, get_dataset, parse_name


def test_numbers_of_a_name():
    name = parse_name("S017C003P040R002A060")
    assert name == ClipName(setup=17, camera=3, subject=40, replication=2, action=60)
    assert str(name) == "S017C003P040R002A060"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("S017C003P040R002A60", "not of the form"),
        ("S017C003P040R002A060 ", "not of the form"),
        ("s017c003p040r002a060", "not of the form"),
        ("S017C003P040R002A٠٦٠", "not of the form"),
        ("", "not of the form"),
        ("S000C003P040R002A060", "set-up 0"),
        ("S033C003P040R002A060", "set-up 33"),
        ("S017C004P040R002A060", "camera 4"),
        ("S017C003P107R002A060", "subject 107"),
        ("S017C003P040R003A060", "replication 3"),
        ("S017C003P040R002A121", "action 121"),
    ],
)
def test_names_that_are_refused(name, reason):
    with pytest.raises(DataError, match=reason):
        parse_name(name)


def test_known_numbers():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 120
    assert (CLASS_NAMES[0], CLASS_NAMES[49], CLASS_NAMES[119]) == (
        "drink water",
        "punch or slap",
        "rock-paper-scissors",
    )
    assert {name: dataset.usable for name, dataset in DATASETS.items()} == {"ntu60": 56_578, "ntu120": 113_945}
    assert len(get_dataset("ntu60").class_names) == 60


def test_missing_lists_are_the_published_ones(shared):
    for name, file in (("ntu60", "ntu_missing_60.txt"), ("ntu120", "ntu_missing_120.txt")):
        assert get_dataset(name).missing == set((shared / "data" / file).read_text().split())


def test_what_belongs_to_ntu60():
    assert parse_name("S017C001P040R001A060") in get_dataset("ntu60")
    assert parse_name("S018C001P040R001A061") not in get_dataset("ntu60")
    assert parse_name("S018C001P040R001A061") in get_dataset("ntu120")


def test_a_misspelt_data_set_is_told_the_nearest():
    with pytest.raises(DataError, match="ntu60"):
        get_dataset("ntu6")
