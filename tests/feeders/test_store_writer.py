"""Writing a store clip by clip: in order, in constant memory, all or nothing."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from feeders import DataError, PackedStore
from feeders.store.hdf5 import StoreWriter

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ("sit", "stand")


def clip(frames: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, 1, 25, 3)).astype(np.float32)


def entry(name: str, seed: int = 0) -> tuple[str, int, np.ndarray, dict[str, int]]:
    """What `append` takes."""
    return name, seed % 2, clip(3 + seed, seed), {"subject": seed}


def test_clips_come_back_in_the_order_of_writing(tmp_path):
    names = ["b", "a", "c"]
    with StoreWriter(tmp_path / "clips.h5", skeleton="ntu", class_names=CLASSES) as writer:
        for seed, name in enumerate(names):
            writer.append(*entry(name, seed))
    store = PackedStore.load(tmp_path / "clips.h5")
    clips = [clip(3 + seed, seed) for seed in range(3)]
    expected = PackedStore.from_clips(clips, [0, 1, 0], names, CLASSES, "ntu", {"subject": [0, 1, 2]})
    assert store.names == tuple(names)
    assert store.fingerprint == writer.fingerprint == expected.fingerprint
    for index, array in enumerate(clips):
        np.testing.assert_array_equal(store.clip(index).numpy(), array)
    assert list(tmp_path.iterdir()) == [tmp_path / "clips.h5"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "clips.h5"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), StoreWriter(path, skeleton="ntu", class_names=CLASSES) as writer:
        writer.append(*entry("a"))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_no_store(tmp_path):
    code = (
        "import os, numpy as np\n"
        "from feeders.store.hdf5 import StoreWriter\n"
        f"with StoreWriter({str(tmp_path / 'clips.h5')!r}, skeleton='ntu', class_names=['x']) as writer:\n"
        "    writer.append('a', 0, np.ones((3, 1, 25, 3), np.float32), {})\n"
        "    writer._file.flush()\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 9
    assert not (tmp_path / "clips.h5").exists()
    (left,) = tmp_path.iterdir()
    with pytest.raises(DataError, match="not a readable packed store"):
        PackedStore.load(left)


def test_equal_stores_are_equal_bytes_whenever_they_are_written(tmp_path):
    for name in ("first", "second"):
        with StoreWriter(tmp_path / f"{name}.h5", skeleton="ntu", class_names=CLASSES) as writer:
            writer.append(*entry("a"))
        time.sleep(1.1)  # HDF5 knows whole seconds, and takes them where no patch reaches
    assert (tmp_path / "first.h5").read_bytes() == (tmp_path / "second.h5").read_bytes()


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path, monkeypatch):
    def locked(*_: object, **__: object) -> None:
        raise PermissionError(13, "Unable to synchronously create file (errno = 13,\nflags = 0)")

    monkeypatch.setattr("feeders.store.hdf5.h5py.File", locked)
    with (
        pytest.raises(DataError, match=r"clips\.h5: cannot be written \(Permission denied\)") as caught,
        StoreWriter(tmp_path / "clips.h5", skeleton="ntu", class_names=CLASSES) as writer,
    ):
        writer.append(*entry("a"))
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_clear_error_and_no_crash(tmp_path):
    """HDF5 crashes the process at its end when it cannot write what it has in memory."""
    code = (
        "import resource, numpy as np\n"
        "from feeders import DataError\n"
        "from feeders.store.hdf5 import StoreWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "clip = np.random.default_rng(0).random((300, 1, 25, 3), np.float32)\n"
        "try:\n"
        f"    with StoreWriter({str(tmp_path / 'clips.h5')!r}, skeleton='ntu', class_names=['x']) as writer:\n"
        "        for number in range(200):\n"
        "            writer.append(str(number), 0, clip, {})\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert "clips.h5: cannot be written (File too large)" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (entry("a", 1), "clip names must differ, 'a' is there already"),
        (("b", 0, clip(), {"camera": 1}), r"clip b has the columns \['camera'\], .* \['subject'\]"),
        (("b", 2, clip(), {"subject": 0}), r"labels must be in 0 \.\. 1"),
        (("b", 0, clip()[:0], {"subject": 0}), "b: shape .* is empty"),
    ],
)
def test_clips_that_do_not_fit_are_refused(tmp_path, second, reason):
    with (
        pytest.raises(DataError, match=reason),
        StoreWriter(tmp_path / "clips.h5", skeleton="ntu", class_names=CLASSES) as writer,
    ):
        writer.append(*entry("a"))
        writer.append(*second)
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_clips_is_refused(tmp_path):
    with (
        pytest.raises(DataError, match="at least one clip"),
        StoreWriter(tmp_path / "clips.h5", skeleton="ntu", class_names=CLASSES),
    ):
        pass


def test_bad_arrays_are_refused_by_name(tmp_path):
    for array, reason in ((clip()[:, 0], "shape"), (clip()[:0], "is empty"), (clip() * np.nan, "NaN")):
        with (
            pytest.raises(DataError, match=f"^S001: .*{reason}"),
            StoreWriter(tmp_path / "clips.h5", skeleton="ntu", class_names=CLASSES) as writer,
        ):
            writer.append("S001", 0, array, {})


def test_memory_does_not_grow_with_the_coordinates(tmp_path):
    long = clip(300)
    tracemalloc.start()
    with StoreWriter(tmp_path / "clips.h5", skeleton="ntu", class_names=CLASSES) as writer:
        for number in range(500):
            writer.append(f"clip {number}", 0, long, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "clips.h5").stat().st_size > 30 * 2**20
    assert peak < 10 * 2**20
    assert len(PackedStore.load(tmp_path / "clips.h5")) == 500
