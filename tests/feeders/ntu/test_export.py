"""The whole way against the published arrays, bit for bit, and the options of the export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from feeders import DataError, Feeder, PackedStore, get_benchmark
from feeders.ntu.export import export_npz, published_order
from feeders.ntu.names import get_dataset
from feeders.ntu.prepare import prepare
from feeders.readers.published_npz import read_published_npz
from tests.feeders.ntu.oracle import unpack_tree

PROTOCOLS = [("ntu60", "xsub"), ("ntu60", "xview"), ("ntu120", "xsub"), ("ntu120", "xset")]
MERGED = "S005C001P005R002A009"
"""Its two tracks are joined into actor 1, and actor 2 stays empty: not copied though there is one person only."""


@pytest.fixture(scope="module")
def stores(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The published raw tree prepared as either data set."""
    place = tmp_path_factory.mktemp("published")
    raw = unpack_tree(shared, place / "raw")
    out = {name: place / f"{name}.h5" for name in ("ntu60", "ntu120")}
    for name, store in out.items():
        prepare([raw], get_dataset(name), store, 1)
    return out


def published(shared: Path, dataset: str, protocol: str) -> dict[str, np.ndarray]:
    with np.load(shared / "parity" / "ntu_pipeline" / f"expected_{dataset}_{protocol}.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("dataset", "protocol"), PROTOCOLS)
def test_exported_arrays_are_the_published_ones(shared, stores, tmp_path, dataset, protocol):
    expected = published(shared, dataset, protocol)
    exported = export_npz(stores[dataset], protocol, tmp_path / "out.npz")
    assert exported.cut == ()
    store = PackedStore.load(stores[dataset])
    frames = dict(zip(store.names, store.frames.tolist(), strict=True))
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays.files == ["x_train", "y_train", "x_test", "y_test"]
        for split in ("train", "test"):
            x, y, names = arrays[f"x_{split}"], arrays[f"y_{split}"], expected[f"names_{split}"].tolist()
            assert (x.dtype, x.shape) == (np.float32, (len(names), 300, 150))
            # As integers: even the sign of a zero is the same.
            np.testing.assert_array_equal(x[:, :40].view(np.int32), expected[f"x_{split}"].view(np.int32))
            assert not x[:, 40:].any()
            assert y.dtype == np.dtype(
                str(expected["y_dtype"][()] if not expected["y_dtype"].shape else expected["y_dtype"][0])
            )
            np.testing.assert_array_equal(y, expected[f"y_{split}"])
            assert exported.clips[split] == len(names)
            assert [frames[name] for name in names] == expected[f"frames_{split}"].tolist()


def test_the_store_keeps_persons_that_are_there_only(stores):
    catalogue = PackedStore.load(stores["ntu120"]).catalogue
    clip = catalogue.names.index(MERGED)
    assert (catalogue.persons[clip], catalogue.metadata["alone"][clip]) == (1, 0)
    assert set(catalogue.persons[catalogue.metadata["alone"] == 1].tolist()) == {1}


@pytest.mark.parametrize(("dataset", "choice"), [("ntu60", "copy"), ("ntu120", "zero")])
def test_second_person_by_choice(shared, stores, tmp_path, dataset, choice):
    export_npz(stores[dataset], "xsub", tmp_path / "out.npz", frames=40, second_person=choice)
    expected = published(shared, dataset, "xsub")
    alone = PackedStore.load(stores[dataset]).catalogue
    is_alone = dict(zip(alone.names, alone.metadata["alone"].tolist(), strict=True))
    with np.load(tmp_path / "out.npz") as arrays:
        persons = arrays["x_train"].reshape(-1, 40, 2, 75)
    for clip, name, reference in zip(persons, expected["names_train"].tolist(), expected["x_train"], strict=True):
        both = reference.reshape(40, 2, 75).copy()
        if is_alone[name]:
            both[:, 1] = both[:, 0] if choice == "copy" else 0
        np.testing.assert_array_equal(clip, both)


def test_clips_that_are_too_long_lose_their_end_and_are_named(shared, stores, tmp_path):
    exported = export_npz(stores["ntu60"], "xview", tmp_path / "out.npz", frames=25)
    expected = published(shared, "ntu60", "xview")
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["x_test"], expected["x_test"][:, :25])
    frames = {**dict(zip(expected["names_train"].tolist(), expected["frames_train"], strict=True))}
    frames |= dict(zip(expected["names_test"].tolist(), expected["frames_test"], strict=True))
    assert list(exported.cut) == sorted(name for name, count in frames.items() if count > 25)


def test_refusals(stores, tmp_path, make_store):
    out = tmp_path / "out.npz"
    with pytest.raises(DataError, match="ntu60, which has xsub and xview"):
        export_npz(stores["ntu60"], "xset", out)
    make_store([5, 6]).save(tmp_path / "demo.h5")
    with pytest.raises(DataError, match="not a store of NTU RGB"):
        export_npz(tmp_path / "demo.h5", "xsub", out)
    with pytest.raises(DataError, match="no such file"):
        export_npz(tmp_path / "none.h5", "xsub", out)
    assert list(tmp_path.glob("*.npz")) == []
    out.write_bytes(b"published")
    with pytest.raises(DataError, match="exists"):
        export_npz(stores["ntu60"], "xsub", out)
    assert out.read_bytes() == b"published"


def test_a_failed_writing_leaves_nothing(stores, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("feeders.ntu.export.np.lib.format.write_array_header_1_0", refuse)
    with pytest.raises(UserError, match=r"out\.npz: cannot be written \(No space left on device\)"):
        export_npz(stores["ntu60"], "xsub", tmp_path / "out.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("name", "choice"), [("ntu60-xsub", None), ("ntu120-xsub", None), ("ntu60-xsub", "copy"), ("ntu120-xset", "zero")]
)
def test_batches_of_the_store_are_those_of_the_exported_arrays(stores, tmp_path, name, choice, split):
    """To the bit, augmentation included: the second person is copied before it."""
    benchmark = get_benchmark(name)
    export_npz(stores[benchmark.dataset], benchmark.protocol, tmp_path / "a.npz", 40, choice)
    arrays, _ = read_published_npz(tmp_path / "a.npz", benchmark)
    store = PackedStore.load(stores[benchmark.dataset])
    # A clip's draws are found at its index, so the clips must stand in the same order.
    order = [i for side in ("train", "test") for i in published_order(store.catalogue, benchmark, side).tolist()]
    in_order = PackedStore.from_clips(
        [store.clip(i).numpy() for i in order],
        store.labels[order].numpy(),
        [store.names[i] for i in order],
        store.class_names,
        store.skeleton,
        {column: values[order] for column, values in store.metadata.items()},
    )
    ours = Feeder(in_order, benchmark, split, second_person=choice, seed=1)
    theirs = Feeder(arrays, benchmark, split, seed=1)
    everything = torch.arange(len(ours))
    batch, expected = (feeder.feed(everything, epoch=3) for feeder in (ours, theirs))
    assert torch.equal(batch.labels, expected.labels)
    assert torch.equal(batch.x, expected.x)
    copied = choice == "copy" or (choice is None and benchmark.dataset == "ntu120")
    lone = torch.tensor([store.metadata["alone"][store.names.index(clip)] == 1 for clip in ours.names])
    assert lone.any()
    assert torch.equal(
        batch.x[lone, ..., 1], batch.x[lone, ..., 0] if copied else torch.zeros_like(batch.x[lone, ..., 0])
    )
