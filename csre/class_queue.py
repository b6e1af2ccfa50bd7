"""A memory bank of limited size: per class a queue of the latest features (paper section 3.3 suggests a queue).

Shapes: N anchors (the clips of a batch), L training indices, B rows of the bank, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from csre.errors import CSREError
from csre.memory_bank import WHOLE_BANK, ClassSortedBank, Shard, check_labels


class ClassQueue(ClassSortedBank):
    """At most ``capacity`` rows per class, which its training indices take in turns.

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
