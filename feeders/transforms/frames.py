"""Picking frames of ragged clips into one dense batch.

Shapes: N clips of a batch, T frames picked of each, M persons, V joints, C = 3 coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feeders.store.packed import ClipRows


def gather_frames(rows: ClipRows, clips: Tensor, frames: Tensor, num_persons: int) -> Tensor:
    """Frames (N, T) of clips (N,), both int64 on the device of the rows, as (N, T, M, V * 3).

    Persons that a clip lacks repeat its last one; `clear_absent` makes them zero. No clip may hold more than
    `num_persons` persons (the feeder checks it).
    """
    present = rows.persons[clips].view(-1, 1, 1)
    person = torch.arange(num_persons, device=frames.device)
    first = rows.offsets[clips].view(-1, 1, 1)
    rows_of_frames = first + frames.unsqueeze(2) * present + torch.minimum(person, present - 1)
    return rows.coordinates.flatten(1).index_select(0, rows_of_frames.flatten()).unflatten(0, rows_of_frames.shape)


def clear_absent(points: Tensor, rows: ClipRows, clips: Tensor, copied: Tensor | None = None) -> Tensor:
    """The very tensor given, (N, T, M, V * 3), with zeros for the persons that clips (N,) lack, `copied` ones ((N,)
    bool) excepted."""
    person = torch.arange(points.shape[2], device=points.device)
    absent = person >= rows.persons[clips].unsqueeze(1)
    if copied is not None:
        absent &= ~copied.unsqueeze(1)
    return points.masked_fill_(absent.view(len(points), 1, -1, 1), 0)


def centre_frames(points: Tensor, centre: int) -> Tensor:
    """(N, T, M, V * 3) with the first person's joint `centre` at the origin of every frame.

    A person whose frame is all zeros is not there and stays zero. (The published feeder of HCN moves such a person,
    too, to minus the first one's position.)
    """
    origin = points[:, :, :1, 3 * centre : 3 * centre + 3]
    there = points.any(dim=3, keepdim=True)
    return (points.unflatten(3, (-1, 3)) - (origin * there).unsqueeze(3)).flatten(3)


def turn(left: Tensor, right: Tensor) -> Tensor:
    """torch.bmm in float32, also where `optim.matmul` lets a GPU multiply in TF32.

    Its 10 bits are half a millimetre of a metre, which is much of what a joint moves from one frame to the next.
    """
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        return torch.bmm(left, right)
    finally:
        matmul.allow_tf32 = before


def to_network_layout(points: Tensor, num_joints: int) -> Tensor:
    """(N, T, M, V * 3) -> contiguous (N, 3, T, V, M)."""
    return points.unflatten(3, (num_joints, 3)).permute(0, 4, 1, 3, 2).contiguous()
