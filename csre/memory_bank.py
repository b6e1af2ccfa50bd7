"""The memory bank: the last feature of every training index, in rows sorted by class (paper section 3.3, eq. 6).

``MemoryBank`` has a row for every training index, ``ClassQueue`` a limited number per class; ``Anchors`` says where the
clips of a batch stand in either.

Sorting makes a class one contiguous run of rows. So the positives of an anchor are a run, its negatives are all rows
around it, and drawing from either is arithmetic on row numbers instead of a mask over the bank per anchor.
Nothing in a step needs a value on the host, so a step never waits for the device.

Shapes: N anchors (the clips of a batch), L training indices, B rows of the bank, D dimensions of a feature.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from csre.options import CSREError

# Up to so many rows, the n-th written one is looked up in a list of them; beyond, the list costs more than searching.
_LISTED_ROWS = 2**18


class Anchors(NamedTuple):
    """Where the clips of a batch stand in a bank: what choosing rows for them needs to know.

    Of several banks (``stacked``), every tensor has their number as its first dimension.

    Attributes:
        longest_class: rows of the largest class.
        written: (B,) bool, rows that hold a feature.
        written_up_to: (B,) int32, number of written rows from row 0 to this one, itself included.
        first_row: (N,) int64, first row of the anchor's class.
        num_rows: (N,) int64, rows of that class, written or not; at least 1.
        own_row: (N,) int64, the row that holds the anchor itself, -1 if none does.
        usable: (N,) bool, False for an anchor that cannot be contrasted (see ``ClassSortedBank.anchors``).
        written_before_class: (N,) int64, written rows that lie before the anchor's class.
        written_in_class: (N,) int64, written rows of the anchor's class, its own among them.
        written_elsewhere: (N,) int64, written rows of other classes.
    """

    longest_class: int
    written: Tensor
    written_up_to: Tensor
    first_row: Tensor
    num_rows: Tensor
    own_row: Tensor
    usable: Tensor
    written_before_class: Tensor
    written_in_class: Tensor
    written_elsewhere: Tensor

    @classmethod
    def stacked(cls, banks: Sequence[Anchors]) -> Anchors:
        """The same clips in several banks of equal size."""
        _, *tensors = zip(*banks, strict=True)
        return cls(banks[0].longest_class, *map(torch.stack, tensors))

    def part(self, clips: slice) -> Anchors:
        """Only these clips of the batch."""
        longest_class, written, written_up_to, *per_clip = self
        return Anchors(longest_class, written, written_up_to, *(value[..., clips] for value in per_clip))

    def written_rows(self, rank: Tensor) -> Tensor:
        """The row of the written row number ``rank``, int64 of any shape, counted from 0; some row if there is none."""
        last = self.written.shape[-1] - 1
        if last >= _LISTED_ROWS:
            flat = rank.flatten(self.written.ndim - 1)
            rows = torch.searchsorted(self.written_up_to, flat.int() + 1).view_as(rank)
        else:
            rows = looked_up(_listed(self.written, self.written_up_to), rank.clamp(max=last))
        return rows.clamp(max=last)


def looked_up(table: Tensor, rows: Tensor) -> Tensor:
    """Entries of ``table`` (B,) at ``rows``, int64 of any shape; or of (S, B) at (S, ...), each bank's at its own."""
    return table.gather(-1, rows.flatten(table.ndim - 1)).view_as(rows)


class Shard(NamedTuple):
    """Which of ``ranks`` equal parts of a bank's rows a process keeps: part ``rank``, counted from 0."""

    rank: int
    ranks: int

    @classmethod
    def of(cls, value: tuple[int, int]) -> Shard:
        """A shard from a pair (rank, ranks).

        Raises:
            CSREError: ``value`` is no such pair.
        """
        if isinstance(value, tuple | list) and len(value) == 2 and 0 <= value[0] < value[1]:
            return cls(*value)
        raise CSREError(f"shard is {value!r}: give a pair (rank, ranks), rank from 0 to ranks - 1")

    def span(self, rows: int) -> tuple[int, int]:
        """First row of the part of ``rows`` rows, and the one behind its last."""
        return self.rank * rows // self.ranks, (self.rank + 1) * rows // self.ranks


WHOLE_BANK = Shard(0, 1)


class ClassSortedBank(nn.Module, ABC):
    """Rows sorted by class, unit-normalised, never with a gradient, all of them in the state dict.

    Subclasses decide which row an index gets, in ``_find_rows`` and ``_assign_rows``. A bank may keep only a shard of
    the rows; which row belongs to which index and which rows are written, it knows of the whole bank.

    Args:
        labels: class of every training index, (L,) int64, 0 or more.
        rows_per_class: rows of every class, (number of classes,) int64.
        dim: D.
        dtype: storage of the rows.
        shard: which rows to keep.

    Attributes:
        shard: as given.
        start: the first row that is kept; ``rows`` holds those from there on.

    Raises:
        CSREError: fewer rows than shards; on loading, a state dict whose bank was filled under other labels, or that
            holds one shard only.
    """

    rows: Tensor
    written: Tensor
    labels: Tensor
    _class_first_row: Tensor
    _class_num_rows: Tensor

    def __init__(
        self, labels: Tensor, rows_per_class: Tensor, dim: int, dtype: torch.dtype, shard: Shard = WHOLE_BANK
    ) -> None:
        super().__init__()
        num_rows = int(rows_per_class.sum())
        if num_rows < shard.ranks:
            raise CSREError(f"the bank has {num_rows} rows, too few for {shard.ranks} shards: do not shard it")
        self.shard = shard
        self.start, stop = shard.span(num_rows)
        self.longest_class = int(rows_per_class.max())
        self.register_buffer("rows", torch.zeros(stop - self.start, dim, dtype=dtype))
        self.register_buffer("written", torch.zeros(num_rows, dtype=torch.bool))
        self.register_buffer("labels", labels)
        self.register_buffer("_class_first_row", rows_per_class.cumsum(0) - rows_per_class, persistent=False)
        self.register_buffer("_class_num_rows", rows_per_class, persistent=False)

    @torch.no_grad()
    def write(self, unit_rows: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Store the features of a batch; of several for one index, the last one stays.

        Nothing is stored for a zero row, an index outside the bank, or a label that is not the index's.

        Args:
            unit_rows: (N, D) floating, rows of length 1 or 0.
            labels: (N,) int64, class of every row.
            indices: (N,) int64, training index of every row.
        """
        storable = self._usable(unit_rows, labels, indices)
        indices = self._inside(indices)
        rows = self._assign_rows(indices, storable)
        # Several writes to one row land in no fixed order on a GPU, so all of them write what the last one brings.
        last = _last_of_row(rows, storable)
        self._record(rows, indices, last)
        if self.shard.ranks > 1:
            rows, kept = self.kept(rows)
            last = _last_of_row(rows, storable & kept)
        self.rows[rows] = torch.where(last[:, None] >= 0, unit_rows[last].to(self.rows.dtype), self.rows[rows])

    def anchors(self, unit_rows: Tensor, labels: Tensor, indices: Tensor) -> Anchors:
        """Find the clips of a batch in the bank as it is now (in a step, after ``write``). Arguments as of ``write``.

        An anchor is usable unless its row is zero, its index lies outside the bank or its label is not the index's.
        """
        classes = self.labels[self._inside(indices)]
        first_row, num_rows = self._class_first_row[classes], self._class_num_rows[classes]
        up_to = self.written.cumsum(0, dtype=torch.int32)
        before = torch.where(first_row > 0, up_to[(first_row - 1).clamp(min=0)], 0).long()
        in_class = up_to[first_row + num_rows - 1] - before
        return Anchors(
            longest_class=self.longest_class,
            written=self.written,
            written_up_to=up_to,
            first_row=first_row,
            num_rows=num_rows,
            own_row=self.rows_of(indices),
            usable=self._usable(unit_rows, labels, indices),
            written_before_class=before,
            written_in_class=in_class,
            written_elsewhere=up_to[-1] - in_class,
        )

    def rows_of(self, indices: Tensor) -> Tensor:
        """The rows that hold these training indices, int64 of any shape; -1 where none does."""
        inside = self._inside(indices)
        return torch.where(inside == indices, self._find_rows(inside), -1)

    def kept(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where in ``self.rows`` these rows are, int64 of any shape, and which are there, bool; others are anywhere."""
        place = rows - self.start
        inside = place.clamp(0, len(self.rows) - 1)
        return inside, inside == place

    @abstractmethod
    def _find_rows(self, indices: Tensor) -> Tensor:
        """``rows_of`` for indices inside the bank."""

    @abstractmethod
    def _assign_rows(self, indices: Tensor, storable: Tensor) -> Tensor:
        """The row (N,) that each index (N,) of a batch is to be written to; any row for what is not storable."""

    def _record(self, rows: Tensor, indices: Tensor, last: Tensor) -> None:
        """Note that each of ``rows`` (N,) holds what batch position ``last`` (N,) brings; where that is -1, nothing."""
        self.written[rows] = (last >= 0) | self.written[rows]

    def _inside(self, indices: Tensor) -> Tensor:
        return indices.clamp(0, len(self.labels) - 1)

    def _usable(self, unit_rows: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        inside = self._inside(indices)
        return unit_rows.detach().ne(0).any(dim=1) & (inside == indices) & (self.labels[inside] == labels)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}labels")
        if stored is not None and not torch.equal(stored.cpu(), self.labels.cpu()):
            raise CSREError(
                f"{prefix.rstrip('.')} was saved for other training labels ({len(stored)} indices, here "
                f"{len(self.labels)}), so its rows would change class: use the training set that it was filled from"
            )
        super()._load_from_state_dict(self._own_part(state_dict, prefix), prefix, *args)

    def _own_part(self, state_dict: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:
        """The state of a whole bank, less the rows that are not kept."""
        rows, written = (state_dict.get(f"{prefix}{entry}") for entry in ("rows", "written"))
        if rows is None or written is None:
            return state_dict
        if len(rows) != len(written):
            raise CSREError(
                f"{prefix}rows holds {len(rows)} of {len(written)} rows, the shard of one rank: "
                "save what gathered_state_dict gives"
            )
        start, stop = self.shard.span(len(rows))
        return {**state_dict, f"{prefix}rows": rows[start:stop]}


class MemoryBank(ClassSortedBank):
    """A row for every training index (the paper's bank).

    Args:
        labels: class of every training index, (L,) int64 tensor or sequence, 0 or more.
        dim: D.
        dtype: storage of the rows.
        shard: which rows to keep.

    Raises:
        CSREError: labels that are empty, not 1-D, not integer or negative; see also ``ClassSortedBank``.
    """

    _row_of_index: Tensor

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        dim: int,
        dtype: torch.dtype = torch.float32,
        shard: Shard = WHOLE_BANK,
    ) -> None:
        labels = check_labels(labels)
        super().__init__(labels, labels.bincount(), dim, dtype, shard)
        row = torch.arange(len(labels), dtype=torch.int32, device=labels.device)
        row_of_index = torch.empty_like(row).scatter_(0, labels.argsort(stable=True), row)
        self.register_buffer("_row_of_index", row_of_index, persistent=False)

    def _find_rows(self, indices: Tensor) -> Tensor:
        rows = self._row_of_index[indices].long()
        return torch.where(self.written[rows], rows, -1)

    def _assign_rows(self, indices: Tensor, storable: Tensor) -> Tensor:
        return self._row_of_index[indices].long()


class ClassQueue(ClassSortedBank):
    """At most ``capacity`` rows per class, which its training indices take in turns (the queue of paper section 3.3).

    An index that still has a row is rewritten in place, so no clip is ever held twice and a queue that is long enough
    for its class does what the full bank does. Any other index takes the row whose turn it is from the index that holds
    it. Owners and turns are in the state dict with the rows.

    Args:
        labels: class of every training index, (L,) int64 tensor or sequence, 0 or more.
        dim: D.
        capacity: rows per class, at least 2; a class with fewer indices gets one row for each.
        dtype: storage of the rows.
        shard: which rows to keep.

    Raises:
        CSREError: ``capacity`` below 2; labels that are empty, not 1-D, not integer or negative; see also
            ``ClassSortedBank``.
    """

    owner: Tensor
    turn: Tensor

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        dim: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        shard: Shard = WHOLE_BANK,
    ) -> None:
        if not isinstance(capacity, int) or capacity < 2:
            raise CSREError(
                f"capacity is {capacity!r}: give rows per class, at least 2, since a queue of one row holds only "
                "the anchor itself"
            )
        labels = check_labels(labels)
        super().__init__(labels, labels.bincount().clamp(max=capacity), dim, dtype, shard)
        self.register_buffer("owner", torch.full((len(self.written),), -1))  # (B,) index that a row holds, -1: none
        self.register_buffer("turn", torch.zeros_like(self._class_num_rows))  # per class, the offset written next

    def _find_rows(self, indices: Tensor) -> Tensor:
        classes = self.labels[indices]
        offset = torch.arange(self.longest_class, device=indices.device)
        first_row, num_rows = self._class_first_row[classes][..., None], self._class_num_rows[classes][..., None]
        rows = first_row + torch.minimum(offset, num_rows - 1)
        return torch.where(self.owner[rows] == indices[..., None], rows, -1).amax(dim=-1)

    def _assign_rows(self, indices: Tensor, storable: Tensor) -> Tensor:
        classes = self.labels[indices]
        first_row, num_rows = self._class_first_row[classes], self._class_num_rows[classes]
        held = self._find_rows(indices)

        position = torch.arange(len(indices), device=indices.device)
        same_index = (indices[:, None] == indices[None, :]) & storable[None, :]
        first_of_index = torch.where(same_index, position, len(indices)).amin(dim=1).clamp(max=len(indices) - 1)
        newcomer = storable & (held < 0) & (first_of_index == position)

        earlier = (position[None, :] < position[:, None]) & newcomer[None, :]
        place_in_line = (earlier & (classes[:, None] == classes[None, :])).sum(dim=1)
        taken = first_row + (self.turn[classes] + place_in_line) % num_rows
        self.turn.index_add_(0, classes, newcomer.long())
        # A class without indices has no rows and no turn.
        self.turn.remainder_(self._class_num_rows.clamp(min=1))
        return torch.where(held >= 0, held, taken[first_of_index])

    def _record(self, rows: Tensor, indices: Tensor, last: Tensor) -> None:
        super()._record(rows, indices, last)
        self.owner[rows] = torch.where(last >= 0, indices[last], self.owner[rows])


def _last_of_row(rows: Tensor, counts: Tensor) -> Tensor:
    """(N,) int64: the last batch position that ``counts`` (N,) bool and goes to the same of ``rows`` (N,); -1: none."""
    position = torch.arange(len(rows), device=rows.device)
    same_row = (rows[:, None] == rows[None, :]) & counts[None, :]
    return torch.where(same_row, position, -1).amax(dim=1)


def check_labels(labels: Tensor | Sequence[int]) -> Tensor:
    """The class of every training index as a (L,) int64 tensor of its own.

    Raises:
        CSREError: empty, not 1-D, not integer, or negative labels.
    """
    tensor = torch.as_tensor(labels)
    if tensor.ndim != 1 or len(tensor) == 0:
        raise CSREError(f"labels has shape {tuple(tensor.shape)}: give the class of every training index, shape (L,)")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise CSREError(f"labels has dtype {tensor.dtype}: give class numbers as integers")
    if int(tensor.min()) < 0:
        position = int(tensor.argmin())
        raise CSREError(f"labels[{position}] is {int(tensor[position])}: class numbers start at 0")
    # A module starts on the default device, wherever its labels came from.
    return tensor.detach().to(torch.get_default_device(), torch.int64, copy=True)


def _listed(written: Tensor, written_up_to: Tensor) -> Tensor:
    """What ``written.nonzero()`` gives, filled up with zeros to (B,): a length that no device has to be asked for."""
    rows = torch.arange(written.shape[-1], device=written.device).expand_as(written)
    place = torch.where(written, written_up_to - 1, written.shape[-1])  # the unwritten go to a place of their own
    listed = rows.new_zeros(*written.shape[:-1], written.shape[-1] + 1)
    return listed.scatter_(-1, place.long(), rows)[..., :-1]
