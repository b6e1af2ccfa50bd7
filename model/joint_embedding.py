"""How InfoGCN, BlockGCN and Hyper-GCN read the coordinates.

Letters: N clips, M persons, n = N * M skeletons, C channels, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.blocks import PersonNorm
from model.published import Source, joined, same


class JointEmbedding(nn.Module):
    """Linear map of the coordinates plus a vector per joint, normalised; (N, C_in, T, V, M) -> (n, C, V, T).

    An activation may stand before the normalisation.

    The normalisation has statistics per joint and channel, so in training it takes the vectors (and the bias) away
    again, if nothing stands between: they never learn.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_joints: int,
        num_persons: int,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.coordinates = nn.Conv1d(in_channels, channels, 1)
        self.position = nn.Parameter(torch.randn(num_joints, channels))
        self.norm = PersonNorm(channels, num_joints, num_persons)

    def forward(self, x: Tensor) -> Tensor:
        num_clips, in_channels, frames, joints, persons = x.shape
        embedded = self.coordinates(x.permute(0, 4, 3, 1, 2).reshape(-1, in_channels, frames))
        embedded = embedded.view(num_clips, persons, joints, -1, frames) + self.position.unsqueeze(-1)
        if self.activation is not None:
            embedded = self.activation(embedded)
        return self.norm(embedded.permute(0, 3, 4, 2, 1))  # the order that PersonNorm reads without a copy

    def published_names(self) -> dict[str, Source]:
        """Names of this module's state in the published encoders, which keep it at their top level."""
        linear = (self.coordinates.out_channels, self.coordinates.in_channels)
        table = joined(self.coordinates, "coordinates", ["to_joint_embedding"], weight_shape=linear)
        table |= same(self.norm.norm, "norm.norm", "data_bn")
        return table | {"position": Source(("pos_embedding",), shapes=((1, *self.position.shape),))}
