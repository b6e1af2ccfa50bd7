"""The memory bank: the last feature of every training index, in rows sorted by class (paper section 3.3, eq. 6).

Sorting makes a class one contiguous run of rows. So the positives of an anchor are a run, its negatives are all rows
around it, and drawing from either is arithmetic on row numbers instead of a mask over the bank per anchor.
Nothing in a step needs a value on the host, so a step never waits for the device.

Shapes: N anchors (the clips of a batch), L training indices, B rows of the bank, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from csre.errors import CSREError


class Anchors(NamedTuple):
    """Where the clips of a batch stand in a bank: what choosing rows for them needs to know.

    Attributes:
        first_row: (N,) int64, first row of the anchor's class.
        num_rows: (N,) int64, rows of that class, written or not; at least 1.
        own_row: (N,) int64, the row that holds the anchor itself, -1 if none does.
        usable: (N,) bool, False for an anchor that cannot be contrasted (see ``ClassSortedBank.anchors``).
        written: (B,) bool, rows that hold a feature.
        written_up_to: (B,) int64, number of written rows from row 0 to this one, itself included.
        written_rows: (B,) int64, the rows that hold a feature, ascending; 0 beyond the last of them.
        longest_class: rows of the largest class.
    """

    first_row: Tensor
    num_rows: Tensor
    own_row: Tensor
    usable: Tensor
    written: Tensor
    written_up_to: Tensor
    written_rows: Tensor
    longest_class: int

    def written_before_class(self) -> Tensor:
        """(N,) int64: written rows that lie before the anchor's class."""
        return torch.where(self.first_row > 0, self.written_up_to[(self.first_row - 1).clamp(min=0)], 0)

    def written_in_class(self) -> Tensor:
        """(N,) int64: written rows of the anchor's class, its own among them."""
        return self.written_up_to[self.first_row + self.num_rows - 1] - self.written_before_class()

    def written_elsewhere(self) -> Tensor:
        """(N,) int64: written rows of other classes."""
        return self.written_up_to[-1] - self.written_in_class()


class ClassSortedBank(nn.Module):
    """Rows sorted by class, unit-normalised, never with a gradient, all of them in the state dict.

    Which row an index gets is a subclass's affair: it fills in ``_find_rows`` and ``_assign_rows``.

    Args:
        labels: class of every training index, (L,) int64, 0 or more.
        rows_per_class: rows of every class, (number of classes,) int64.
        dim: D.
        dtype: storage of the rows.

    Raises:
        CSREError: on loading, a state dict whose bank was filled under other labels.
    """

    rows: Tensor
    written: Tensor
    labels: Tensor
    _class_first_row: Tensor
    _class_num_rows: Tensor

    def __init__(self, labels: Tensor, rows_per_class: Tensor, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        num_rows = int(rows_per_class.sum())
        self.longest_class = int(rows_per_class.max())
        self.register_buffer("rows", torch.zeros(num_rows, dim, dtype=dtype))
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
        position = torch.arange(len(rows), device=rows.device)
        same_row = (rows[:, None] == rows[None, :]) & storable[None, :]
        last = torch.where(same_row, position, -1).amax(dim=1)
        self._store(rows, unit_rows, indices, last)

    def anchors(self, unit_rows: Tensor, labels: Tensor, indices: Tensor) -> Anchors:
        """Find the clips of a batch in the bank as it is now (in a step, after ``write``). Arguments as of ``write``.

        An anchor is usable unless its row is zero, its index lies outside the bank or its label is not the index's.
        """
        usable = self._usable(unit_rows, labels, indices)
        classes = self.labels[self._inside(indices)]
        written_up_to = self.written.cumsum(0)
        return Anchors(
            first_row=self._class_first_row[classes],
            num_rows=self._class_num_rows[classes],
            own_row=self.rows_of(indices),
            usable=usable,
            written=self.written,
            written_up_to=written_up_to,
            written_rows=_compacted(self.written, written_up_to),
            longest_class=self.longest_class,
        )

    def rows_of(self, indices: Tensor) -> Tensor:
        """The rows that hold these training indices, int64 of any shape; -1 where none does."""
        inside = self._inside(indices)
        return torch.where(inside == indices, self._find_rows(inside), -1)

    def _find_rows(self, indices: Tensor) -> Tensor:
        """``rows_of`` for indices inside the bank."""
        raise NotImplementedError

    def _assign_rows(self, indices: Tensor, storable: Tensor) -> Tensor:
        """The row (N,) that each index (N,) of a batch is to be written to; any row for what is not storable."""
        raise NotImplementedError

    def _store(self, rows: Tensor, unit_rows: Tensor, indices: Tensor, last: Tensor) -> None:
        """Write to each of ``rows`` (N,) what batch position ``last`` (N,) brings; where that is -1, leave it alone."""
        brings = last >= 0
        self.rows[rows] = torch.where(brings[:, None], unit_rows[last].to(self.rows.dtype), self.rows[rows])
        self.written[rows] = brings | self.written[rows]

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
        super()._load_from_state_dict(state_dict, prefix, *args)


class MemoryBank(ClassSortedBank):
    """A row for every training index (the paper's bank).

    Args:
        labels: class of every training index, (L,) int64 tensor or sequence, 0 or more.
        dim: D.
        dtype: storage of the rows.

    Raises:
        CSREError: labels that are empty, not 1-D, not integer or negative; see also ``ClassSortedBank``.
    """

    _row_of_index: Tensor

    def __init__(self, labels: Tensor | Sequence[int], dim: int, dtype: torch.dtype = torch.float32) -> None:
        labels = check_labels(labels)
        super().__init__(labels, labels.bincount(), dim, dtype)
        self.register_buffer("_row_of_index", labels.argsort(stable=True).argsort(), persistent=False)

    def _find_rows(self, indices: Tensor) -> Tensor:
        rows = self._row_of_index[indices]
        return torch.where(self.written[rows], rows, -1)

    def _assign_rows(self, indices: Tensor, storable: Tensor) -> Tensor:
        return self._row_of_index[indices]


def _compacted(written: Tensor, written_up_to: Tensor) -> Tensor:
    """What ``written.nonzero()`` gives, filled up with zeros to (B,): a length that no device has to be asked for."""
    rows = torch.arange(len(written), device=written.device)
    place = torch.where(written, written_up_to - 1, len(written))  # what is not written goes to a place of its own
    return rows.new_zeros(len(written) + 1).scatter_(0, place, rows)[:-1]


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
