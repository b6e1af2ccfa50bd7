"""HD-GCN: Hierarchically Decomposed Graph Convolutional Network (Lee et al., ICCV 2023).

    clips (N, 3, T, V, M) -> PersonNorm -> l1 ... l10 -> features (N, M, 256, T / 4, V) -> PooledClassifier -> (N, K)
    block(x) = ReLU( MultiScaleTemporal( HierarchicalGraphConvolution(x) ) + residual(x) ), of model.ten_blocks' table

The joints stand in groups around a centre of mass; each layer of the hierarchy joins two neighbouring groups.

Letters: N clips, M persons, n = N * M skeletons, C channels, b = C_out / 4 channels of a branch, T frames, V joints, L
layers of the hierarchy, P points, K classes; l a layer, k one of its three subsets; u the source joint, v the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.words import did_you_mean
from graph import Skeleton, hierarchy_adjacency, joint_hierarchy
from model.blocks import MultiScaleTemporal, init_convolution, published_down, residual_path
from model.encoder import COORDINATES, check_multiple, check_probability
from model.errors import EncoderError
from model.published import PublishedModule, Source, joined, same, within
from model.ten_blocks import NormedBlocksEncoder

SUBSETS = 3
NEAREST_JOINTS = 5
NEAREST_LAYERS = 3
"""How many points an edge convolution joins with each one, itself among them."""


class HDGCN(NormedBlocksEncoder):
    """The encoder above.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        centre_of_mass: name of the joint in the middle of the hierarchy; None: the root of the skeleton. The published
            ensembles fuse three centres (`base of spine`, `middle of spine` and `spine between shoulders` of NTU RGB+D;
            `hip centre`, `spine` and `shoulder centre` of NW-UCLA).
        base_channels: channels of l1 to l4, a multiple of 4; l5-l7 have twice, l8-l10 four times as many.
        dropout: probability before the classifier.
    """

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        in_channels: int = COORDINATES,
        centre_of_mass: str | None = None,
        base_channels: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            num_classes=num_classes,
            num_persons=num_persons,
            window=window,
            in_channels=in_channels,
        )
        check_multiple("base_channels", base_channels, 4)
        check_probability("dropout", dropout)
        groups = joint_hierarchy(skeleton, _joint(skeleton, centre_of_mass))
        adjacency = torch.from_numpy(hierarchy_adjacency(groups))
        self.num_layers = len(adjacency)
        self.build_ten_blocks(
            base_channels,
            lambda in_channels, out_channels: HierarchicalGraphConvolution(in_channels, out_channels, adjacency),
            SeparateBiasTemporal,
            dropout,
        )

    def published_aliases(self) -> Mapping[str, str]:
        last = f".gcn1.conv.{self.num_layers - 1}."
        names = [name for source in self.published_names().values() for name in source.names]
        return {name.replace(last, ".gcn1.conv_d."): name for name in names if last in name}


def _joint(skeleton: Skeleton, name: str | None) -> int:
    if name is None:
        return skeleton.root
    if name not in skeleton.joint_names:
        known = skeleton.joint_names
        raise EncoderError(
            f"centre_of_mass: skeleton {skeleton.name!r} has no joint {name!r}{did_you_mean(str(name), known)}; its "
            f"joints are {', '.join(known)}"
        )
    return skeleton.joint_names.index(name)


class HierarchicalGraphConvolution(PublishedModule):
    """HD-GC, all layers of the hierarchy at once; (n, C_in, V, T) -> (n, C_out, V, T).

        D_l    = ReLU( BN( 1x1 convolution of x ) )                                          (n, b, V, T)
        S_lk   = BN( 1x1 convolution of Σ_u PA[l, k, v, u] D_l[u] )                          (n, b, V, T)
        E_l    = edge convolution of the mean of D_l over time, the same in all frames       (n, b, V)
        H_l    = S_l0, S_l1, S_l2 and E_l as channels                                        (n, C_out, V, T)
        output = ReLU( BN( Σ_l w_l H_l ) + down(x) ),   w from LayerAttention; 1 in the first block

    The convolutions of the subsets come before the mixing, which gives the same. Both are matrix products with the
    channels outermost and the joints innermost in memory, (L, 3, b, n, T, V).
    """

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        self.num_layers, width = len(adjacency), out_channels // 4
        self.reduce = nn.Conv2d(in_channels, self.num_layers * width, 1)
        self.reduce_bn = nn.BatchNorm2d(self.num_layers * width)
        self.topology = nn.Parameter(adjacency.clone())
        subsets = self.num_layers * SUBSETS
        self.subsets = nn.Conv2d(self.num_layers * width, subsets * width, 1, groups=self.num_layers)
        self.subsets_bn = nn.BatchNorm1d(subsets * width)
        self.edges = EdgeConvolution(self.num_layers, width, NEAREST_JOINTS)
        self.attention = LayerAttention(out_channels, adjacency) if in_channels > COORDINATES else None
        self.bn = nn.BatchNorm2d(out_channels)
        self.down = residual_path(in_channels, out_channels)
        init_convolution(self.reduce, fused=self.num_layers)
        init_convolution(self.subsets, fused=subsets)
        # The graph starts switched off: at first a block passes `down(x)` on.
        nn.init.constant_(self.bn.weight, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        reduced = functional.relu(self.reduce_bn(self.reduce(x)), inplace=True).unflatten(1, (self.num_layers, -1))
        by_edges = self.edges(reduced.mean(dim=-1))  # (n, L, b, V)
        by_subsets = self._mixed(reduced)  # (L, 3 b, n, T, V)
        if self.attention is not None:
            largest = torch.cat([by_subsets.amax(dim=3).permute(2, 1, 0, 3), by_edges.transpose(1, 2)], dim=1)
            weights = self.attention(largest)
            of_subsets, of_edges = weights.split([by_subsets.shape[1], by_edges.shape[2]], dim=1)
            by_subsets = by_subsets * of_subsets.permute(2, 1, 0)[..., None, None]
            by_edges = by_edges * of_edges.transpose(1, 2).unsqueeze(-1)
        still = by_edges.sum(dim=1).unsqueeze(-1).expand(-1, -1, -1, x.shape[-1])
        y = torch.cat([by_subsets.sum(dim=0).permute(1, 0, 3, 2), still], dim=1)
        return functional.relu(self.bn(y) + self.down(x), inplace=True)

    def _mixed(self, reduced: Tensor) -> Tensor:
        """S of the reduced maps (n, L, b, V, T): (L, 3 b, n, T, V)."""
        num_skeletons, layers, width, joints, frames = reduced.shape
        rows = reduced.permute(1, 2, 0, 4, 3).flatten(2)
        transformed = torch.bmm(self.subsets.weight.view(layers, -1, width), rows)
        transformed = transformed.view(layers * SUBSETS, width * num_skeletons * frames, joints)
        mixed = torch.bmm(transformed, self.topology.flatten(0, 1).mT)
        mixed = mixed.unflatten(1, (width, num_skeletons, frames)).flatten(0, 1)  # (L * 3 * b, n, T, V)
        assert self.subsets.bias is not None
        biased = mixed + self.subsets.bias[:, None, None, None]
        normed = self.subsets_bn(biased.flatten(1).unsqueeze(0)).squeeze(0)
        return normed.unflatten(1, (num_skeletons, frames, joints)).unflatten(0, (layers, -1))

    def published_names(self) -> dict[str, Source]:
        layers = range(self.num_layers)
        subsets = [f"conv.{layer}.{k}" for layer in layers for k in range(SUBSETS)]
        table = joined(self.reduce, "reduce", [f"conv_down.{layer}.0" for layer in layers])
        table |= joined(self.reduce_bn, "reduce_bn", [f"conv_down.{layer}.1" for layer in layers])
        table |= joined(self.subsets, "subsets", [f"{subset}.0" for subset in subsets])
        table |= joined(self.subsets_bn, "subsets_bn", [f"{subset}.1" for subset in subsets])
        table |= self.edges.published_as("edges", [f"conv.{layer}.3" for layer in layers])
        table |= {"topology": Source(("PA",))}
        if self.attention is not None:
            table |= within("attention", "aha", self.attention.published_names())
        return table | same(self.bn, "bn", "bn") | published_down(self.down)


class LayerAttention(PublishedModule):
    """A-HA: how much each layer of the hierarchy counts; (n, C, L, V), maxima over the frames -> (n, C, L) in (0, 1).

    r_l = mean over the joints of layer l of ReLU( BN( 1x1 convolution of the maxima ) )      (n, C / 4)
    w   = sigmoid( 1x1 convolution of the edge convolution of r, with the layers as points )
    """

    members: Tensor

    def __init__(self, channels: int, adjacency: Tensor) -> None:
        super().__init__()
        width = channels // 4
        self.reduce = nn.Conv2d(channels, width, 1)
        self.reduce_bn = nn.BatchNorm2d(width)
        self.edges = EdgeConvolution(1, width, NEAREST_LAYERS)
        self.aggregate = nn.Conv1d(width, channels, 1)
        # Which joints belong to which layer, 1 or 0, (L, V): exact in every precision.
        self.register_buffer("members", adjacency[:, 0].diagonal(dim1=1, dim2=2).clone(), persistent=False)
        init_convolution(self.reduce)

    def forward(self, largest: Tensor) -> Tensor:
        reduced = functional.relu(self.reduce_bn(self.reduce(largest)), inplace=True)
        layers = (reduced * self.members).sum(dim=-1) / self.members.sum(dim=-1)
        return torch.sigmoid(self.aggregate(self.edges(layers.unsqueeze(1)).squeeze(1)))

    def published_names(self) -> dict[str, Source]:
        table = same(self.reduce, "reduce", "conv_down.0") | same(self.reduce_bn, "reduce_bn", "conv_down.1")
        table |= self.edges.published_as("edges", ["edge_conv"])
        return table | same(self.aggregate, "aggregate", "aggregate")


class EdgeConvolution(nn.Module):
    """EdgeConv of points in several groups with weights of their own; (n, G, c, P) -> (n, G, c, P).

        output_i = max over the nearest points j of i of LeakyReLU( BN( W (h_j - h_i, h_i) ) )

    The nearest are those with the smallest distance of their features, i itself among them; no gradient reaches the
    choice. With W = (A, B) an edge is A h_j + (B - A) h_i, so that both products are taken once per point.
    """

    def __init__(self, groups: int, channels: int, nearest: int) -> None:
        super().__init__()
        self.groups, self.nearest = groups, nearest
        self.conv = nn.Conv2d(groups * 2 * channels, groups * channels, 1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(groups * channels)
        init_convolution(self.conv, fused=groups)

    def forward(self, points: Tensor) -> Tensor:
        of_other, of_own = self.conv.weight.view(self.groups, -1, 2, points.shape[2]).unbind(2)
        weights = torch.cat([of_other, of_own - of_other], dim=1)
        other, own = torch.einsum("goc,ngcp->ngop", weights, points).chunk(2, dim=2)
        neighbours = self._neighbours(points)  # (n, G, P, nearest)
        index = neighbours.flatten(2).unsqueeze(2).expand(-1, -1, other.shape[2], -1)
        edges = other.gather(-1, index).unflatten(-1, neighbours.shape[2:]) + own.unsqueeze(-1)
        edges = functional.leaky_relu(self.bn(edges.flatten(1, 2)), 0.2, inplace=True)
        return edges.amax(dim=-1).unflatten(1, (self.groups, -1))

    def _neighbours(self, points: Tensor) -> Tensor:
        rows = points.detach().mT
        precise = rows.to(torch.promote_types(rows.dtype, torch.float32))
        # Subtracted: |a|² + |b|² - 2 a · b would lose small distances to rounding.
        distances = torch.cdist(precise, precise, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.topk(min(self.nearest, rows.shape[2]), largest=False, sorted=False).indices

    def published_as(self, ours: str, names: Sequence[str]) -> dict[str, Source]:
        """Table under our name of this module; `names` are those of the published one of each group."""
        table = joined(self.conv, f"{ours}.conv", [f"{name}.conv.0" for name in names])
        return table | joined(self.bn, f"{ours}.bn", [f"{name}.conv.1" for name in names])


class SeparateBiasTemporal(MultiScaleTemporal):
    """MultiScaleTemporal, published with the biases of its convolutions over several frames as tensors of their own."""

    def published_names(self) -> dict[str, Source]:
        table = super().published_names()
        for branch in range(len(self.convs)):
            table[f"convs.{branch}.bias"] = Source((f"branches.{branch}.3.bias",), shapes=((1, self.width, 1, 1),))
        return table
