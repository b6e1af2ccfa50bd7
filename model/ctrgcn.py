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
of the three subsets (self, inward, outward) of the graph; u the target joint, v the source joint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.blocks import (
    MultiScaleTemporal,
    init_convolution,
    one_image,
    pointwise,
    published_down,
    residual_path,
)
from model.encoder import Observed
from model.published import PublishedModule, Source, interleave, joined, same
from model.ten_blocks import TenBlockEncoder

SUBSETS = 3
RAW_RELATION_CHANNELS = 8
"""Relation channels of a block that reads coordinates."""


class CTRGCN(TenBlockEncoder):
    """The encoder of the table above, with base_channels a multiple of 8; options as of TenBlockEncoder."""

    divisor = 8
    relation_subsets = SUBSETS

    def extract_observed(self, x: Tensor, joints: Tensor, reads: frozenset[str]) -> Observed:
        maps = self.data_bn(x)
        return self.run(one_image(maps) if torch.is_autocast_enabled(x.device.type) else maps, reads)

    @staticmethod
    def graph_convolution(in_channels: int, out_channels: int, adjacency: Tensor) -> RefinedGraphConvolution:
        return RefinedGraphConvolution(in_channels, out_channels, adjacency)

    @staticmethod
    def temporal_module(channels: int, stride: int) -> MultiScaleTemporal:
        return MultiScaleTemporal(channels, stride)


class RefinedGraphConvolution(PublishedModule):
    """CTR-GC with its three subsets at once; images (b, C_in, H, T) -> (b, C_out, H, T), see model.blocks.

        P_k, Q_k  = two 1x1 convolutions of the mean of x over time        (n, r, V)
        R_k       = 1x1 convolution of tanh(P_k[u] - Q_k[v])               (n, C_out, V, V)
        G_k       = α R_k + PA_k                                           a topology of every channel
        output    = ReLU( BN( Σ_k Σ_v G_k[u, v] F_k[v] ) + down(x) ),  F_k = 1x1 convolution of x

    The mean over time is taken before the convolutions P and Q, which gives the same as after them and is T times
    cheaper. F holds channel c of subset k at c * 3 + k; its source joints of all subsets lie side by side, as do those
    of G, so that the double sum is one matrix product per skeleton and channel.
    """

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        self.relation_channels = in_channels // 8 or RAW_RELATION_CHANNELS
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
        images, _, rows, frames = x.shape
        joints = self.topology.shape[-1]
        sources = pointwise(x, self.transform).view(images, self.out_channels, SUBSETS, -1, joints, frames)
        sources = sources.transpose(2, 3).reshape(-1, SUBSETS * joints, frames)
        mixed = torch.bmm(self._refined_topology(x).mT, sources).view(images, self.out_channels, rows, frames)
        return functional.relu(self.bn(mixed) + self.down(x), inplace=True)

    def _refined_topology(self, x: Tensor) -> Tensor:
        """G of all skeletons and channels, transposed, skeletons in the order of x: (n * C_out, k * v, u)."""
        joints = self.topology.shape[-1]
        difference = self._differences(x)
        # Two more relation channels make the product with the weights the whole sum: one for the bias, one for PA.
        shared = self.topology.mT.flatten(1)[:, None, None].to(difference.dtype)
        shared = shared.expand(x.shape[0], -1, -1, difference.shape[3], -1)
        relations = torch.cat([difference, torch.ones_like(shared), shared], dim=2).flatten(3)
        bias = self.alpha * self.refine_bias.unsqueeze(-1)
        weight = torch.cat([self.alpha * self.refine_weight, bias, torch.ones_like(bias)], dim=2)
        topology = torch.matmul(weight, relations).view(x.shape[0], SUBSETS, -1, joints, joints)
        return topology.transpose(1, 2).reshape(-1, SUBSETS * joints, joints)

    def _differences(self, x: Tensor) -> Tensor:
        """tanh(P_k[u] - Q_k[v]): (b, k, r, n / b, v * u)."""
        joints = self.topology.shape[-1]
        pairs = pointwise(x.mean(dim=3), self.relation).view(x.shape[0], 2, SUBSETS, self.relation_channels, -1, joints)
        targets, sources = pairs.unbind(1)  # each (b, k, r, n / b, V)
        return torch.tanh(targets.unsqueeze(-2) - sources.unsqueeze(-1)).flatten(-2)

    def relations(self, x: Tensor) -> Tensor:
        """Mean of R_k over its channels: (n, k, u, v). It is computed as a 1x1 convolution with the mean weights."""
        joints = self.topology.shape[-1]
        mean = torch.einsum("bkrnp,kr->bnkp", self._differences(x), self.refine_weight.mean(dim=1))
        mean = mean + self.refine_bias.mean(dim=1, keepdim=True)
        return mean.flatten(0, 1).unflatten(-1, (joints, joints)).mT

    def published_names(self) -> dict[str, Source]:
        subsets = [f"convs.{k}" for k in range(SUBSETS)]
        relations = [f"{k}.{conv}" for conv in ("conv1", "conv2") for k in subsets]
        kernel = (self.relation_channels, self.relation.in_channels, 1, 1)
        table = joined(self.relation, "relation", relations, weight_shape=kernel)
        table |= joined(self.transform, "transform", [f"{k}.conv3" for k in subsets], interleave)
        kernels = ((self.out_channels, self.relation_channels, 1, 1),) * SUBSETS
        table |= {
            f"refine_{entry}": Source(tuple(f"{k}.conv4.{entry}" for k in subsets), torch.stack, shapes)
            for entry, shapes in (("weight", kernels), ("bias", ()))
        }
        table |= {"alpha": Source(("alpha",)), "topology": Source(("PA",))}
        return table | same(self.bn, "bn", "bn") | published_down(self.down)
