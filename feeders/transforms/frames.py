"""Picking frames of ragged clips into one dense batch.

Shapes: N clips of a batch, T frames picked of each, M persons, V joints, C = 3 coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feeders.store import PackedStore


def gather_frames(store: PackedStore, clips: Tensor, frames: Tensor, num_persons: int) -> Tensor:
    """Frames (N, T) of clips (N,), both int64 on the store's device, as (N, T, M, V * 3); absent persons are zero.

    No clip may hold more than `num_persons` persons (the feeder checks it).
    """
    present = store.persons[clips].view(-1, 1, 1)
    person = torch.arange(num_persons, device=frames.device)
    rows = store.offsets[clips].view(-1, 1, 1) + frames.unsqueeze(2) * present + torch.minimum(person, present - 1)
    points = store.coordinates.flatten(1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
    if num_persons > 1:
        points.masked_fill_((person >= present).unsqueeze(3), 0)
    return points


def to_network_layout(points: Tensor, num_joints: int) -> Tensor:
    """(N, T, M, V * 3) -> contiguous (N, 3, T, V, M)."""
    return points.unflatten(3, (num_joints, 3)).permute(0, 4, 1, 3, 2).contiguous()
