"""A reader is found by what lies there; what no reader knows is refused in one line."""

from __future__ import annotations

import pytest

from feeders import DataError, get_benchmark
from feeders.formats import ARRAYS, DEMO, NPZ, NW_UCLA, PYSKL, STORE, find_format

NTU = get_benchmark("ntu60-xsub")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ntu60.h5", STORE),
        ("ntu60.hdf5", STORE),
        ("NTU60_CS.npz", NPZ),
        ("ntu60_3danno.pkl", PYSKL),
        ("folder/a01_s01_e00_v01.json", NW_UCLA),
        ("folder/labels.csv", ARRAYS),
        ("folder/wave.npy", ARRAYS),
    ],
)
def test_the_format_is_told_from_name_or_content(tmp_path, name, expected):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    place = tmp_path / name.split("/")[0]
    for benchmark in (NTU, get_benchmark("nw-ucla")):
        assert find_format(place, benchmark) is expected


def test_the_demo_is_made_where_nothing_is(tmp_path):
    demo = get_benchmark("demo")
    assert find_format(tmp_path, demo) is DEMO
    assert find_format(tmp_path / "new.h5", demo) is DEMO


def test_nothing_there_an_unknown_file_and_raw_clips(tmp_path):
    with pytest.raises(DataError, match=r"no data there; benchmark ntu60-xsub expects .*prepare_ntu\.py.*data\.path"):
        find_format(tmp_path / "absent.h5", NTU)
    (tmp_path / "clips.mat").touch()
    with pytest.raises(
        DataError, match=r"clips\.mat: unknown format; supported formats: packed store, published arrays"
    ):
        find_format(tmp_path / "clips.mat", NTU)
    with pytest.raises(DataError, match="unknown format"):
        find_format(tmp_path, NTU)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (below / "S001C001P001R001A001.skeleton").touch()
    for name, dataset in {
        "ntu60-xsub": "ntu60",
        "ntu120-xset": "ntu120",
        "nw-ucla": "ntu60",
        "sbu-fold1": "ntu60",
    }.items():
        with pytest.raises(DataError, match=f"make a packed store of them first: .* --dataset {dataset}$"):
            find_format(tmp_path, get_benchmark(name))
    (below / "S001C001P001R001A001.skeleton").unlink()
    for name in ("S001C001P001R001A001.skeleton", "nturgbd_skeletons_s001_to_s017.zip"):
        (tmp_path / name).touch()
        for place in (tmp_path, tmp_path / name):
            with pytest.raises(DataError, match=r"raw clips of NTU RGB\+D; make a packed store of them first"):
                find_format(place, NTU)
        (tmp_path / name).unlink()
