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

from model.blocks import MultiScaleTemporal, init_convolution, published_down, residual_path
from model.encoder import COORDINATES
from model.published import PublishedModule, Source, interleave, joined, same
from model.ten_blocks import TenBlockEncoder

SUBSETS = 3


class CTRGCN(TenBlockEncoder):
    """The encoder of the table above, with base_channels a multiple of 8; options as of TenBlockEncoder."""

    divisor = 8

    @staticmethod
    def graph_convolution(in_channels: int, out_channels: int, adjacency: Tensor) -> RefinedGraphConvolution:
        return RefinedGraphConvolution(in_channels, out_channels, adjacency)

    @staticmethod
    def temporal_module(channels: int, stride: int) -> MultiScaleTemporal:
        return MultiScaleTemporal(channels, stride)


class RefinedGraphConvolution(PublishedModule):
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
        table |= {"alpha": Source(("alpha",)), "topology": Source(("PA",))}
        return table | same(self.bn, "bn", "bn") | published_down(self.down)
