"""CTR-GCN: Channel-wise Topology Refinement Graph Convolution (Chen et al., ICCV 2021).

    block   C_in -> C_out   stride   relation channels   residual of the block
    l1          3 ->  64      1             8             none
    l2-l4      64 ->  64      1             8             identity
    l5         64 -> 128      2             8             1x1 convolution + BN
    l6-l7     128 -> 128      1            16             identity
    l8        128 -> 256      2            16             1x1 convolution + BN
    l9-l10    256 -> 256      1            32             identity

    clips (N, 3, T, V, M) -> PersonNorm -> l1 ... l10 -> features (N, M, 256, T / 4, V) -> PooledClassifier -> (N, K)
    block(x) = ReLU( MultiScaleTemporal( RefinedGraphConvolution(x) ) + residual(x) )

Letters: N clips, M persons, n = N * M skeletons, C channels, r relation channels, T frames, V joints, K classes; k one
of the three subsets (self, inward, outward) of the graph; u the joint that receives, v the joint that gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton, spatial_partition
from model.blocks import (
    MultiScaleTemporal,
    PersonNorm,
    PooledClassifier,
    TemporalConvolution,
    init_convolution,
    residual_path,
)
from model.encoder import COORDINATES, Encoder, check_positive, check_probability
from model.errors import EncoderError
from model.published import Source, interleave, joined, same, within

SUBSETS = 3
BLOCKS = ((1, 1),) * 4 + ((2, 2), (2, 1), (2, 1)) + ((4, 2), (4, 1), (4, 1))
"""(output channels as a multiple of base_channels, stride) of l1 to l10."""


class CTRGCN(Encoder):
    """The encoder of the table above.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        base_channels: channels of l1 to l4, a multiple of 8; l5-l7 have twice, l8-l10 four times as many.
        dropout: probability before the classifier.
    """

    classifier = "fc.linear"

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        base_channels: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window)
        check_positive("base_channels", base_channels)
        if base_channels % 8:
            raise EncoderError(
                f"base_channels: {base_channels} is no multiple of 8; take {max(8, base_channels // 8 * 8)}"
            )
        check_probability("dropout", dropout)
        adjacency = torch.from_numpy(spatial_partition(skeleton))
        self.data_bn = PersonNorm(COORDINATES, skeleton.num_joints, num_persons)
        self.blocks = nn.ModuleDict()
        channels, frames = COORDINATES, window
        for number, (width, stride) in enumerate(BLOCKS, start=1):
            out_channels = width * base_channels
            block = Block(channels, out_channels, adjacency, stride=stride, has_residual=number > 1)
            self.blocks[f"l{number}"] = block
            channels, frames = out_channels, math.ceil(frames / stride)
        self.fc = PooledClassifier(channels, num_classes, dropout)
        self._feature_shape = (channels, frames, skeleton.num_joints)

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        return self._feature_shape

    def extract(self, x: Tensor, joints: Tensor) -> Tensor:
        hidden = self.data_bn(x)
        for block in self.blocks.values():
            hidden = block(hidden)
        return hidden.unflatten(0, (-1, self.num_persons)).transpose(-1, -2)

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features)

    def published_names(self) -> dict[str, Source]:
        table = same(self.data_bn.norm, "data_bn.norm", "data_bn") | same(self.fc.linear, "fc.linear", "fc")
        for name, block in self.blocks.items():
            assert isinstance(block, Block)
            table |= within(f"blocks.{name}", name, block.published_names())
        return table


class Block(nn.Module):
    """Graph convolution, temporal convolutions, residual; (n, C_in, V, T) -> (n, C_out, V, ceil(T / stride))."""

    def __init__(
        self, in_channels: int, out_channels: int, adjacency: Tensor, *, stride: int, has_residual: bool
    ) -> None:
        super().__init__()
        self.gcn = RefinedGraphConvolution(in_channels, out_channels, adjacency)
        self.tcn = MultiScaleTemporal(out_channels, stride)
        self.residual = residual_path(in_channels, out_channels, stride) if has_residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.tcn(self.gcn(x))
        if self.residual is not None:
            y = y + self.residual(x)
        return functional.relu(y, inplace=True)

    def published_names(self) -> dict[str, Source]:
        table = within("gcn", "gcn1", self.gcn.published_names()) | within("tcn", "tcn1", self.tcn.published_names())
        if self.residual is not None:
            table |= same(self.residual, "residual", "residual")
        return table


class RefinedGraphConvolution(nn.Module):
    """CTR-GC with its three subsets at once; (n, C_in, V, T) -> (n, C_out, V, T).

        P_k, Q_k  = two 1x1 convolutions of the mean of x over time        (n, r, V)
        R_k       = 1x1 convolution of tanh(P_k[u] - Q_k[v])               (n, C_out, V, V)
        G_k       = α R_k + PA_k                                           a topology of every channel
        output    = ReLU( BN( Σ_k Σ_v G_k[u, v] F_k[v] ) + down(x) ),  F_k = 1x1 convolution of x

    The mean over time is taken before the convolutions P and Q, which gives the same as after them and is T times
    cheaper. F holds channel c of subset k at c * 3 + k, and G the giving joints of all subsets side by side, so that
    the double sum is one matrix product per skeleton and channel.
    """

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        self.relation_channels = 8 if in_channels == COORDINATES else in_channels // 8
        self.out_channels = out_channels
        self.relation = nn.Conv1d(in_channels, 2 * SUBSETS * self.relation_channels, 1)
        self.refine_weight = nn.Parameter(torch.empty(SUBSETS, out_channels, self.relation_channels))
        self.refine_bias = nn.Parameter(torch.zeros(SUBSETS, out_channels))
        self.transform = nn.Conv2d(in_channels, SUBSETS * out_channels, 1)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.topology = nn.Parameter(adjacency.clone())
        self.bn = nn.BatchNorm2d(out_channels)
        self.down = residual_path(in_channels, out_channels)
        self._init_weights()

    def _init_weights(self) -> None:
        init_convolution(self.relation, fused=2 * SUBSETS)
        init_convolution(self.transform, fused=SUBSETS)
        nn.init.normal_(self.refine_weight, 0, math.sqrt(2 / self.out_channels))
        # The graph starts switched off: at first a block passes `down(x)` on.
        nn.init.constant_(self.bn.weight, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        num_skeletons, _, joints, frames = x.shape
        topology = self._refined_topology(x.mean(dim=3)).reshape(-1, joints, SUBSETS * joints)
        giving = self.transform(x).reshape(-1, SUBSETS * joints, frames)
        mixed = torch.bmm(topology, giving).view(num_skeletons, self.out_channels, joints, frames)
        return functional.relu(self.bn(mixed) + self.down(x), inplace=True)

    def _refined_topology(self, pooled: Tensor) -> Tensor:
        """G of skeletons whose mean over time is pooled (n, C_in, V): (n, C_out, u, k, v)."""
        joints = pooled.shape[-1]
        pairs = self.relation(pooled).unflatten(1, (2, SUBSETS, self.relation_channels))
        receiving, giving = pairs.unbind(1)  # each (n, k, r, V)
        difference = torch.tanh(receiving.unsqueeze(-1) - giving.unsqueeze(-2))  # (n, k, r, u, v)
        refinement = torch.matmul(self.alpha * self.refine_weight, difference.flatten(-2))  # (n, k, C_out, u * v)
        refinement = refinement.unflatten(-1, (joints, joints)).permute(0, 2, 3, 1, 4)
        shared = (self.alpha * self.refine_bias)[:, :, None, None] + self.topology.unsqueeze(1)  # (k, C_out, u, v)
        # The sum is the largest tensor here. It takes the memory order of its first term, so that it need not be
        # rearranged later, and under autocast the precision of the matrix product that it enters next.
        return shared.permute(1, 2, 0, 3).contiguous().to(refinement.dtype) + refinement

    def published_names(self) -> dict[str, Source]:
        subsets = [f"convs.{k}" for k in range(SUBSETS)]
        table = joined(self.relation, "relation", [f"{k}.{conv}" for conv in ("conv1", "conv2") for k in subsets])
        table |= joined(self.transform, "transform", [f"{k}.conv3" for k in subsets], interleave)
        table |= {
            f"refine_{entry}": Source(tuple(f"{k}.conv4.{entry}" for k in subsets), torch.stack)
            for entry in ("weight", "bias")
        }
        table |= {"alpha": Source(("alpha",)), "topology": Source(("PA",))} | same(self.bn, "bn", "bn")
        if isinstance(self.down, TemporalConvolution):
            table |= same(self.down.conv, "down.conv", "down.0") | same(self.down.bn, "down.bn", "down.1")
        return table
