"""Where the clips of a batch stand in a memory bank whose rows are sorted by class.

Shapes: N anchors (the clips of a batch), B rows of the bank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Up to so many rows, the n-th written one is looked up in a list of them; beyond, the list costs more than searching.
_LISTED_ROWS = 2**18


class Anchors(NamedTuple):
    """Where the clips of a batch stand in a bank: what choosing rows for them needs to know.

    Attributes:
        first_row: (N,) int64, first row of the anchor's class.
        num_rows: (N,) int64, rows of that class, written or not; at least 1.
        own_row: (N,) int64, the row that holds the anchor itself, -1 if none does.
        usable: (N,) bool, False for an anchor that cannot be contrasted (see ``ClassSortedBank.anchors``).
        written: (B,) bool, rows that hold a feature.
        written_up_to: (B,) int32, number of written rows from row 0 to this one, itself included.
        longest_class: rows of the largest class.
    """

    first_row: Tensor
    num_rows: Tensor
    own_row: Tensor
    usable: Tensor
    written: Tensor
    written_up_to: Tensor
    longest_class: int

    def part(self, clips: slice) -> Anchors:
        """Only these clips of the batch."""
        return self._replace(
            first_row=self.first_row[clips],
            num_rows=self.num_rows[clips],
            own_row=self.own_row[clips],
            usable=self.usable[clips],
        )

    def written_before_class(self) -> Tensor:
        """(N,) int64: written rows that lie before the anchor's class."""
        return torch.where(self.first_row > 0, self.written_up_to[(self.first_row - 1).clamp(min=0)], 0).long()

    def written_in_class(self) -> Tensor:
        """(N,) int64: written rows of the anchor's class, its own among them."""
        return self.written_up_to[self.first_row + self.num_rows - 1] - self.written_before_class()

    def written_elsewhere(self) -> Tensor:
        """(N,) int64: written rows of other classes."""
        return self.written_up_to[-1] - self.written_in_class()

    def written_rows(self, rank: Tensor) -> Tensor:
        """The row of the written row number ``rank``, int64 of any shape, counted from 0; some row if there is none."""
        if len(self.written) > _LISTED_ROWS:
            rows = torch.searchsorted(self.written_up_to, rank.int() + 1)
        else:
            rows = _listed(self.written, self.written_up_to)[rank.clamp(max=len(self.written) - 1)]
        return rows.clamp(max=len(self.written) - 1)


def _listed(written: Tensor, written_up_to: Tensor) -> Tensor:
    """What ``written.nonzero()`` gives, filled up with zeros to (B,): a length that no device has to be asked for."""
    rows = torch.arange(len(written), device=written.device)
    place = torch.where(written, written_up_to - 1, len(written))  # what is not written goes to a place of its own
    return rows.new_zeros(len(written) + 1).scatter_(0, place.long(), rows)[:-1]
