"""From a packed store to the batches of one split and one stream.

Shapes: N clips of a batch, C numbers per joint, T window, V joints, M persons, L training indices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from feeders.benchmarks import Benchmark
from feeders.choices import PARTS, SECOND_PERSON, Origin, Part, SecondPerson, Stream, Variant
from feeders.errors import DataError, unknown_choice
from feeders.sampling import epoch_draws, epoch_order
from feeders.split import part_clips
from feeders.store.packed import PackedStore
from feeders.streams import StreamBuilder
from feeders.transforms import build_transform
from graph import get_skeleton

ALONE = "alone"
"""Metadata column: 1 for the clips whose published arrays have room for one actor only."""


class ClipBatch(NamedTuple):
    """One batch, on the store's device."""

    x: Tensor
    """float32 (N, C, T, V, M): the stream."""
    labels: Tensor
    """int64 (N,)."""
    indices: Tensor
    """int64 (N,): position in the split's index space, `repeat` included; in training the row of the memory banks."""
    joints: Tensor
    """float32 (N, C, T, V, M): the joints before the stream was taken, for encoders that read them beside it. The
    same tensor as x in the plain joint stream."""

    def to(self, device: torch.device | str) -> ClipBatch:
        """The batch on `device`; to a GPU through pinned memory, without waiting for the copies."""
        device = torch.device(device)

        def moved(tensor: Tensor) -> Tensor:
            if device.type == "cuda" and tensor.device.type == "cpu":
                # A view with gaps, two channels of three, would be copied through memory that is not pinned.
                tensor = tensor.contiguous().pin_memory()
            return tensor.to(device, non_blocking=True)

        x, labels, indices = map(moved, self[:3])
        return ClipBatch(x, labels, indices, x if self.joints is self.x else moved(self.joints))


class Feeder:
    """Batches of one split: cropped, augmented (training only), turned into a stream; computed on the store's device.

    Index i stands for clip i % clips of the split, and `len(feeder)` counts clips x repeat; in training each of the
    repeats is augmented on its own, in testing nothing is repeated. `window`, `repeat`, `rotation`, `origin` and
    `second_person` default to the benchmark's.

    split: "train", "test", or "validation": with `validation` above 0 that fraction of the training clips is held out
    (`feeders.sampling.held_out`: by subject where the store knows it), fed as test clips are, and missing in "train".
    second_person: what stands in for the second person of the clips that the store's column `alone` marks, before any
    augmentation; without that column an absent person is zero. rotation: largest angle about each axis in radians;
    origin: per clip (as stored) or per frame; both with the transforms `ntu` only. bone_scale: bones are scaled by
    factors in 1 - bone_scale .. 1 + bone_scale in training (`feeders.transforms.bones`), 0 for none. channels: C, how
    many of x, y, z (in 2-D clips: x, y, confidence).

    labels: (L,) int64 on the CPU, the class of every index. names: the name of every clip of the split, in the order
    of the store. class_names: of the store.

    Raises `DataError` when store and benchmark do not fit, the split has no clips, or an option is out of range.
    """

    def __init__(
        self,
        store: PackedStore,
        benchmark: Benchmark,
        split: Part,
        *,
        stream: Stream = "joint",
        variant: Variant = "plain",
        window: int | None = None,
        repeat: int | None = None,
        second_person: SecondPerson | None = None,
        rotation: float | None = None,
        origin: Origin | None = None,
        bone_scale: float = 0.0,
        validation: float = 0.0,
        seed: int = 0,
        channels: int = 3,
    ) -> None:
        if split not in PARTS:
            raise unknown_choice("split", split, PARTS)
        window = benchmark.window if window is None else window
        repeat = benchmark.repeat if repeat is None else repeat
        for key, value, least in (("data.window", window, 1), ("data.repeat", repeat, 1), ("seed", seed, 0)):
            if value < least:
                raise DataError(f"{key}: must be >= {least}, got {value}")
        self.store = store
        self.split = split
        self.seed = seed
        self.class_names = store.class_names
        self._clips = part_clips(store, benchmark, split, validation, seed)
        self.names = tuple(store.names[clip] for clip in self._clips.tolist())
        self.labels = store.labels[self._clips].repeat(repeat if split == "train" else 1)
        skeleton = get_skeleton(benchmark.skeleton)
        copied = _copied(store, benchmark, second_person)
        # On the store's device, so that a batch is put together without the host.
        self._clips_placed, self._labels_placed = self._clips.to(store.device), self.labels.to(store.device)
        self._copied = None if copied is None else copied[self._clips].to(store.device)
        self._frames = store.frames[self._clips].numpy()
        self._transform = build_transform(benchmark, skeleton, window, rotation, origin, bone_scale, store.device)
        is_2d = benchmark.transforms == "2d"
        self._build_stream = StreamBuilder(stream, variant, skeleton, store.device, confidence=is_2d)
        self._channels = channels
        self._draws_of: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name_of(self, index: int) -> str:
        """Name of the clip that an index stands for."""
        return self.names[index % len(self.names)]

    @property
    def fingerprint(self) -> str:
        """Digest of the names, labels and coordinates of this split's clips, whatever else the store holds."""
        digest = hashlib.blake2b("\0".join(self.names).encode(), digest_size=16)
        digest.update(self.store.labels[self._clips].numpy().tobytes())
        digest.update(self.store.digests[self._clips.numpy()].tobytes())
        return digest.hexdigest()

    def feed(self, indices: Tensor, epoch: int, placed: Tensor | None = None) -> ClipBatch:
        """The clips of these indices ((N,) int64) as they look in this epoch; a test split looks the same in all.

        placed: the same indices on the store's device, where a GPU has them already and need not be waited for.

        Raises `IndexError` for an index outside 0 .. len(self) - 1.
        """
        if placed is None:
            indices, placed = self._checked(indices)
        return self._batch(placed, self._joints(indices, placed, epoch))

    def joints_of(self, indices: Tensor, epoch: int, placed: Tensor | None = None) -> Tensor:
        """The joints of `feed`, before the stream is taken: (N, 3, T, V, M) in the store's dtype. Else as `feed`."""
        if placed is None:
            indices, placed = self._checked(indices)
        return self._joints(indices, placed, epoch)

    def batch_of(self, placed: Tensor, joints: Tensor) -> ClipBatch:
        """The batch of this feeder's stream from `joints_of` the same indices, of a feeder of any stream."""
        return self._batch(placed, joints)

    def _checked(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The indices on the host and on the store's device."""
        on_host = indices.cpu()
        if len(on_host) and not 0 <= int(on_host.min()) <= int(on_host.max()) < len(self):
            raise IndexError(f"indices must lie in 0 .. {len(self) - 1}")
        return on_host, indices.to(self.store.device)

    def _joints(self, indices: Tensor, placed: Tensor, epoch: int) -> Tensor:
        number = placed % len(self.names)
        clips = self._clips_placed[number]
        copied = None if self._copied is None else self._copied[number]
        # numpy's: what is on the host already, torch would hand over as if it came from a device.
        longest = int(self._frames[indices.numpy() % len(self.names)].max(initial=1))
        if self.split == "train":
            return self._transform.train(self.store.rows, clips, self._draws(epoch)[placed], copied, longest)
        return self._transform.test(self.store.rows, clips, copied, longest)

    def _batch(self, placed: Tensor, joints: Tensor) -> ClipBatch:
        stream = self._build_stream(joints)
        x = stream[:, : self._channels].float()
        return ClipBatch(
            x=x,
            labels=self._labels_placed[placed],
            indices=placed,
            joints=x if stream is joints else joints[:, : self._channels].float(),
        )

    def epoch(self, epoch: int, batch_size: int, start: int = 0, rank: int = 0, ranks: int = 1) -> Iterator[ClipBatch]:
        """The batches of one epoch, from batch number `start` on; of each the part of one rank, `ranks` equal parts.

        Training: shuffled, without the last incomplete batch. Test: in order, every clip once, the last batch may be
        smaller. Raises `DataError` when a training split does not fill one batch.
        """
        order = self.epoch_indices(epoch)
        placed = order.to(self.store.device)
        for number in range(start, self.num_batches(batch_size)):
            first, last = number * batch_size, min((number + 1) * batch_size, len(order))
            share = -(-(last - first) // ranks)
            part = slice(first + rank * share, min(first + (rank + 1) * share, last))
            yield self.feed(order[part], epoch, placed[part])

    def epoch_indices(self, epoch: int) -> Tensor:
        """All indices in the order of this epoch, (len(self),) int64 on the CPU: shuffled in training only."""
        if self.split == "train":
            return epoch_order(len(self), self.seed, epoch)
        return torch.arange(len(self))

    def num_batches(self, batch_size: int) -> int:
        """Batches of an epoch; `DataError` when a training split does not fill one."""
        if batch_size < 1:
            raise DataError(f"optim.batch_size: must be >= 1, got {batch_size}")
        if self.split != "train":
            return -(-len(self) // batch_size)
        if len(self) < batch_size:
            raise DataError(
                f"optim.batch_size: {batch_size} is more than the {len(self)} training clips of an epoch "
                f"({len(self.names)} clips x data.repeat {len(self) // len(self.names)}); lower it or raise data.repeat"
            )
        return len(self) // batch_size

    def _draws(self, epoch: int) -> Tensor:
        """The table of this epoch's draws on the store's device, kept until another epoch is asked for."""
        if self._draws_of is None or self._draws_of[0] != epoch:
            table = epoch_draws(len(self), self._transform.num_draws, self.seed, epoch)
            self._draws_of = epoch, table.to(self.store.device)
        return self._draws_of[1]


def _copied(store: PackedStore, benchmark: Benchmark, second_person: SecondPerson | None) -> Tensor | None:
    """Which clips of the store have a copy of the first person as the second, (S,) bool on the CPU; None: none has."""
    if second_person is not None and second_person not in SECOND_PERSON:
        raise unknown_choice("data.second_person", second_person, SECOND_PERSON)
    if (benchmark.second_person if second_person is None else second_person) == "zero":
        return None
    if ALONE in store.metadata:
        return torch.from_numpy(store.metadata[ALONE] == 1)
    if second_person is None:
        return None
    raise DataError(
        f"data.second_person: copy needs the column {ALONE} in the data, which stores of data/prepare_ntu.py "
        "and the arrays of NTU120 have; set it to zero, or leave it at null"
    )
