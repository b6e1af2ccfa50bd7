"""Original files of MSR Action3D, UTKinect and SBU: the real archives where they are, and small ones made here."""

from __future__ import annotations

import csv
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from feeders import BENCHMARKS, BadClipsError, DataError, Feeder, PackedStore, get_benchmark, open_store
from feeders.benchmarks.sbu import FOLDS, distance_change
from feeders.check import check_data

ARCHIVES = {
    "msr-action3d": "MSRAction3D/MSRAction3DSkeletonReal3D.zip",
    "utkinect": "UTKinect/UTKinect_joints.zip",
    "sbu-fold1": "SBU/SBU_skeleton_pos.zip",
}


@pytest.fixture(scope="module")
def archive(shared):
    return lambda benchmark: shared / "data" / ARCHIVES[benchmark]


@pytest.fixture(scope="module")
def clips_of(shared):
    """The table beside an archive."""

    def read(benchmark: str) -> list[dict[str, str]]:
        with (shared / "data" / ARCHIVES[benchmark]).with_name("clips.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture
def uncorrected(monkeypatch):
    """Without the corrections of UTKinect, which are of real recordings."""
    monkeypatch.setattr("feeders.benchmarks.utkinect.CORRECTIONS", {})


@pytest.mark.parametrize("benchmark", ARCHIVES)
def test_a_real_archive_is_whole(archive, benchmark):
    findings = check_data(archive(benchmark))
    assert findings.good
    expected = [name for name in BENCHMARKS if name.partition("-fold")[0] == benchmark.partition("-fold")[0]]
    assert [counts.benchmark for counts in findings.counts] == expected
    assert all(counts.whole for counts in findings.counts)


def test_the_folder_of_an_archive_stands_for_it(archive):
    folder = archive("utkinect").parent
    assert (folder / "clips.csv").exists(), "a table beside the archive is not the data"
    assert len(open_store(get_benchmark("utkinect"), folder).store) == 199


@pytest.mark.parametrize("benchmark", ARCHIVES)
def test_the_folder_of_an_archive_is_checked_as_it_is_trained_on(write, tmp_path, uncorrected, benchmark):
    name = Path(ARCHIVES[benchmark])
    shutil.make_archive(str(tmp_path / name.with_suffix("")), "zip", write(benchmark))
    folder = tmp_path / name.parent
    (folder / "clips.csv").write_text("name,subject\n")
    expected = open_store(get_benchmark(benchmark), folder).store.fingerprint
    for asked_for in (get_benchmark(benchmark), None):
        assert check_data(folder, asked_for).store.fingerprint == expected


def test_every_clip_of_msr_action3d(archive, clips_of):
    store = open_store(get_benchmark("msr-action3d"), archive("msr-action3d")).store
    used = [clip for clip in clips_of("msr-action3d") if clip["used_in_cvpr12"] == "1"]
    assert list(store.names) == [clip["name"] for clip in used]
    assert store.labels.tolist() == [int(clip["action"]) - 1 for clip in used]
    assert store.metadata["subject"].tolist() == [int(clip["subject"]) for clip in used]
    assert store.frames.tolist() == [int(clip["frames"]) - int(clip["zero_frames"]) for clip in used]
    first_numbers = [-0.371736, 0.371031, 2.674849, -0.014095, 0.355341, 2.678124]
    np.testing.assert_allclose(store.clip(0)[0, 0, :2].flatten(), first_numbers, atol=1e-6)


def test_every_clip_of_utkinect(archive, clips_of):
    store = open_store(get_benchmark("utkinect"), archive("utkinect")).store
    recorded = [clip for clip in clips_of("utkinect") if clip["first_corrected"] != "NaN"]
    assert list(store.names) == [clip["name"] for clip in recorded]
    assert store.frames.tolist() == [int(clip["rows_corrected"]) for clip in recorded]
    assert store.metadata["subject"].tolist() == [int(clip["subject"]) for clip in recorded]
    assert int(store.frames.sum()) == 5989


@pytest.mark.parametrize("fold", FOLDS)
def test_every_clip_of_sbu(archive, clips_of, fold):
    benchmark = get_benchmark(f"sbu-fold{fold}")
    store = open_store(benchmark, archive("sbu-fold1")).store
    clips = sorted(clips_of("sbu-fold1"), key=lambda clip: clip["path"])
    assert list(store.names) == [clip["path"].replace("/", "_") for clip in clips]
    assert [benchmark.class_names[label] for label in store.labels] == [clip["class"] for clip in clips]
    assert store.frames.tolist() == [int(clip["frames"]) for clip in clips]
    assert set(store.persons.tolist()) == {2}
    assert set(Feeder(store, benchmark, "test").names) == {
        clip["path"].replace("/", "_") for clip in clips if clip["fold"] == str(fold)
    }


def test_coordinates_of_sbu_are_metres(archive, clips_of):
    """Bones are as long as the data set's notes say, and the persons as far apart."""
    store = open_store(get_benchmark("sbu-fold1"), archive("sbu-fold1")).store
    every = np.concatenate([store.clip(i).double().numpy().reshape(-1, 15, 3) for i in range(len(store))])
    for bone, metres in (((1, 2), 0.22), ((1, 3), 0.15), ((9, 10), 0.43), ((0, 1), 0.21)):
        lengths = np.linalg.norm(every[:, bone[0]] - every[:, bone[1]], axis=1)
        assert np.median(lengths) == pytest.approx(metres, abs=0.01)
    for clip in (clip for clip in clips_of("sbu-fold1") if clip["distance_change_m"]):
        points = store.clip(store.names.index(clip["path"].replace("/", "_"))).double().numpy()
        assert (points[0, 0, 2] == 0).all(), "the first person's torso is the origin"
        # The table's numbers are of another mean; the nearest to zero is 0.30 m.
        assert distance_change(points) == pytest.approx(float(clip["distance_change_m"]), abs=0.05)


def msr_text(frames: np.ndarray) -> str:
    return "\n".join(f"{x:.6f} {y:.6f} {z:.6f} 1.0" for x, y, z in frames.reshape(-1, 3))


def made_here(benchmark: str) -> dict[str, str]:
    """Path to text of a few files in the format of a data set: two clips that train and two that test."""
    rng = np.random.default_rng(0)
    if benchmark == "msr-action3d":
        names = ("a01_s01_e01", "a02_s03_e01", "a01_s02_e01", "a20_s04_e02")
        return {
            f"MSRAction3DSkeletonReal3D/{name}_skeleton3D.txt": msr_text(rng.standard_normal((5, 20, 3)))
            for name in names
        } | {"MSRAction3DSkeletonReal3D/a13_s09_e02_skeleton3D.txt": msr_text(np.zeros((5, 20, 3)))}
    if benchmark == "utkinect":
        rows = {
            name: "\n".join(
                "  ".join(map(str, [number, *np.round(rng.standard_normal(60), 4)])) for number in range(2, 60, 2)
            )
            for name in ("s01_e02", "s06_e01")
        }
        spans = "walk: 2 10 \npull:  20 30\ncarry: NaN NaN\n"
        labels = "".join(f"{name}\n{spans}" for name in rows)
        return {f"joints/joints_{name}.txt": text for name, text in rows.items()} | {"joints/actionLabel.txt": labels}
    paths = ("s01s02/01/001", "s02s03/08/001", "s02s03/06/001", "s01s02/03/001", "s01s03/05/002")
    return {
        f"{path}/skeleton_pos.txt": "\n".join(
            ",".join(map(str, [frame, *np.round(rng.random(90), 5)])) for frame in range(12)
        )
        for path in paths
    }


EXPECTED = {
    "msr-action3d": (["a01_s01_e01", "a01_s02_e01", "a02_s03_e01", "a20_s04_e02"], [0, 0, 1, 19], [5, 5, 5, 5]),
    "utkinect": (["s01_e02_walk", "s01_e02_pull", "s06_e01_walk", "s06_e01_pull"], [0, 7, 0, 7], [5, 6, 5, 6]),
    "sbu-fold1": (
        ["s01s02_01_001", "s01s02_03_001", "s01s03_05_002", "s02s03_08_001"],
        [None, 2, 4, 6],
        [12, 12, 12, 12],
    ),
}


@pytest.fixture
def write(tmp_path):
    def to_folder(benchmark: str, **changes: str) -> Path:
        for path, text in (made_here(benchmark) | changes).items():
            (tmp_path / "files" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / path).write_text(text)
        return tmp_path / "files"

    return to_folder


@pytest.mark.parametrize("benchmark", ARCHIVES)
def test_files_made_here_as_folder_and_as_archive(write, tmp_path, uncorrected, benchmark):
    folder = write(benchmark)
    zipped = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", folder))
    names, labels, frames = EXPECTED[benchmark]
    of_folder, of_archive = (open_store(get_benchmark(benchmark), place).store for place in (folder, zipped))
    assert of_folder.fingerprint == of_archive.fingerprint
    assert list(of_folder.names) == names
    assert [label for label, known in zip(of_folder.labels.tolist(), labels, strict=True) if known is not None] == [
        label for label in labels if label is not None
    ]
    assert of_folder.frames.tolist() == frames
    of_folder.save(tmp_path / "packed.h5")
    assert PackedStore.load(tmp_path / "packed.h5").fingerprint == of_folder.fingerprint


def test_corrected_lines_of_the_label_file(write):
    text = "s01_e02\nwalk: 4 6\ns06_e01\nwalk: 4 6\n"
    rows = "\n".join("  ".join(map(str, [number, *range(1, 61)])) for number in (4, 6, 8, 154, 260, 270, 272))
    recordings = {f"joints/joints_{name}.txt": rows for name in ("s01_e02", "s06_e01")}
    store = open_store(get_benchmark("utkinect"), write("utkinect", **recordings, **{"joints/actionLabel.txt": text}))
    assert store.store.frames.tolist() == [3, 2], "walk of s01_e02 is 154 .. 270 in truth"


def test_zero_frames_of_msr_action3d_are_dropped(write):
    frames = np.ones((4, 20, 3))
    frames[1:3] = 0
    path = "MSRAction3DSkeletonReal3D/a01_s01_e01_skeleton3D.txt"
    store = open_store(get_benchmark("msr-action3d"), write("msr-action3d", **{path: msr_text(frames)})).store
    assert store.frames[0] == 2


@pytest.mark.parametrize(
    ("benchmark", "path", "text", "reason"),
    [
        (
            "msr-action3d",
            "MSRAction3DSkeletonReal3D/a01_s01_e01_skeleton3D.txt",
            "1 2 3 4\n" * 21,
            "21 lines, expected",
        ),
        (
            "msr-action3d",
            "MSRAction3DSkeletonReal3D/a01_s01_e01_skeleton3D.txt",
            "1 2 3\n" * 20,
            "3 entries, expected 4",
        ),
        ("msr-action3d", "MSRAction3DSkeletonReal3D/a01_s01_e01_skeleton3D.txt", "1 2 nan 4\n" * 20, "NaN or infinite"),
        (
            "utkinect",
            "joints/joints_s01_e02.txt",
            "1 " * 61 + "\n\n1 2 3\n",
            r"line 3 of joints_s01_e02\.txt has 3 entries, expected 61 numbers$",
        ),
        ("utkinect", "joints/joints_s01_e02.txt", "1 " * 60 + "x\n", r"line 1 of joints_s01_e02\.txt: .*'x'$"),
        ("utkinect", "joints/joints_s01_e02.txt", "# nothing\n", r"line 1 of .* has 2 entries, expected 61 numbers$"),
        ("sbu-fold1", "s01s02/01/001/skeleton_pos.txt", "", "the file is empty"),
        ("sbu-fold1", "s01s02/03/001/skeleton_pos.txt", "\u00e9", "cannot be read"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(write, benchmark, path, text, reason):
    with pytest.raises(BadClipsError, match=reason) as caught:
        open_store(get_benchmark(benchmark), write(benchmark, **{path: text}))
    expected = {clip.name for clip in caught.value.bad_clips}
    assert all(name.startswith(("a01_s01_e01", "s01_e02", "s01s02")) for name in expected)


def test_what_cannot_be_read_at_all(write, tmp_path):
    utkinect = get_benchmark("utkinect")
    folder = write("utkinect", **{"joints/actionLabel.txt": "s01_e02\nwalks: 2 4\n"})
    with pytest.raises(DataError, match=r"actionLabel\.txt, line 2: expected"):
        open_store(utkinect, folder)
    (folder / "joints" / "actionLabel.txt").unlink()
    with pytest.raises(DataError, match=r"no actionLabel\.txt beside the recordings"):
        open_store(utkinect, folder)
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"broken\.zip: not a readable \.zip archive"):
        open_store(utkinect, tmp_path / "broken.zip")


def test_files_of_another_benchmark_are_refused(write):
    with pytest.raises(DataError, match=r"files of SBU .* not of benchmark nw-ucla; set data.benchmark to sbu-fold1"):
        open_store(get_benchmark("nw-ucla"), write("sbu-fold1"))


@pytest.mark.parametrize("name", ["utkinect", "msr-action3d"])
def test_of_several_data_sets_in_a_folder_that_of_the_benchmark_is_read(write, uncorrected, name):
    write("msr-action3d")
    folder = write("utkinect")
    benchmark = get_benchmark(name)
    assert open_store(benchmark, folder).store.class_names == benchmark.class_names
    with pytest.raises(DataError, match="not of benchmark sbu-fold1"):
        open_store(get_benchmark("sbu-fold1"), folder)


@pytest.mark.parametrize("benchmark", ARCHIVES)
def test_two_copies_in_a_folder_are_refused_with_their_places(write, benchmark):
    folder = write(benchmark, **{f"copy/{path}": text for path, text in made_here(benchmark).items()})
    with pytest.raises(DataError, match=r"files: the same file .* twice, \S+ and \S+; point data\.path at") as caught:
        open_store(get_benchmark(benchmark), folder)
    assert "copy/" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_split_of_ones_own(write, tmp_path):
    """Other halves of the subjects than the benchmark's, on the same files."""
    classes = list(get_benchmark("msr-action3d").class_names)
    write("msr-action3d")
    (tmp_path / "mine.yaml").write_text(
        f"{{skeleton: msr-action3d, classes: {classes}, path: files, transforms: nw-ucla,"
        " split: {column: subject, train: [1, 2], test: [3]}}"
    )
    benchmark = get_benchmark(str(tmp_path / "mine.yaml"))
    store = open_store(benchmark).store
    assert Feeder(store, benchmark, "train").names == ("a01_s01_e01", "a01_s02_e01")
    assert Feeder(store, benchmark, "test").names == ("a02_s03_e01",)


def test_a_damaged_member_of_an_archive(write, tmp_path):
    zipped = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", write("sbu-fold1")))
    with zipfile.ZipFile(zipped) as archive:
        start = archive.getinfo("s01s02/01/001/skeleton_pos.txt").header_offset + 80
    content = bytearray(zipped.read_bytes())
    content[start + 200] ^= 0xFF
    zipped.write_bytes(content)
    with pytest.raises(BadClipsError, match="s01s02_01_001: cannot be read"):
        open_store(get_benchmark("sbu-fold1"), zipped)


def test_a_damaged_member_packed_by_lzma(write, tmp_path):
    folder, member = write("sbu-fold1"), "s01s02/01/001/skeleton_pos.txt"
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w", zipfile.ZIP_LZMA) as archive:
        for path in sorted(folder.rglob("*.txt")):
            archive.write(path, path.relative_to(folder))
        start = archive.getinfo(member).header_offset + 30 + len(member)
    content = bytearray((tmp_path / "zipped.zip").read_bytes())
    content[start + 4] = 0xFF  # of the properties of the packed data
    (tmp_path / "zipped.zip").write_bytes(content)
    with pytest.raises(BadClipsError, match="s01s02_01_001: cannot be read"):
        open_store(get_benchmark("sbu-fold1"), tmp_path / "zipped.zip")


@pytest.mark.parametrize(
    ("place", "value", "reason"), [(8, 1, "is encrypted"), (10, 9, "compression"), (6, 99, "version")]
)
@pytest.mark.parametrize("benchmark", ARCHIVES)
def test_an_archive_that_python_cannot_unpack_is_one_line(write, tmp_path, benchmark, place, value, reason):
    """In each entry of its directory: the flag for encryption, the method Deflate64, a version of the future."""
    zipped = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", write(benchmark)))
    content = bytearray(zipped.read_bytes())
    start = content.find(b"PK\1\2")
    while start >= 0:
        content[start + place] = value
        start = content.find(b"PK\1\2", start + 1)
    zipped.write_bytes(content)
    with pytest.raises(DataError, match=rf"zipped\.zip: .*{reason}") as caught:
        open_store(get_benchmark(benchmark), zipped)
    assert "\n" not in str(caught.value)
