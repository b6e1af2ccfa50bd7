"""Hyperformer: Hypergraph Transformer (arXiv 2211.09590).

    block                C_in -> C_out   stride   residual of the block   skip of the attention
    l1                      3 -> 216       1      1x1 convolution + BN    1x1 convolution
    l2-l4, l6-l7, l9-l10  216 -> 216       1      identity                identity
    l5, l8                216 -> 216       2      1x1 convolution + BN    identity

    clips (N, 3, T, V, M) -> PersonNorm -> l1 ... l10 -> features (N, M, 216, T / 4, V) -> PooledClassifier -> (N, K)
    block(x) = ReLU( MultiScaleTemporal( HypergraphAttention(x) ) + residual(x) )

Letters: N clips, M persons, n = N * M skeletons, C channels, H = 9 heads, d = C / H = 24, T frames, V joints, K
classes, G groups of joints (hyper-edges); i the target joint (query), j the source joint (key).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton, SkeletonError, hop_distances, joint_groups, with_tips_on_hands
from graph.partitions import Partition
from model.blocks import MultiScaleTemporal, PersonNorm, PooledClassifier, precise_softmax, residual_path
from model.dropout import DropPath
from model.encoder import COORDINATES, check_multiple, check_probability
from model.errors import EncoderError
from model.published import PublishedModule, Source, same, within
from model.ten_blocks import NormedBlocksEncoder

HEADS = 9
OUTPUT_GROUPS = 6
"""Groups of the convolution after the attention; published so, and not the number of heads."""
STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)
"""Of l1 to l10."""


class Hyperformer(NormedBlocksEncoder):
    """The encoder of the table above.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        partition: the groups of joints, see graph.joint_groups: `published`, `published_bone` (for the bone streams;
            another than `published` on NW-UCLA only) or `parts` of the skeleton.
        channels: of all blocks, a multiple of 36.
        drop_path: probability with which l10 drops a skeleton's attention in training; it grows evenly from 0 at l1.
        dropout: probability before the classifier.
    """

    relation_subsets = HEADS
    relation_layer = "attention"

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        in_channels: int = COORDINATES,
        partition: Partition = "published",
        channels: int = 216,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            num_classes=num_classes,
            num_persons=num_persons,
            window=window,
            in_channels=in_channels,
        )
        check_multiple("channels", channels, 36)
        check_probability("drop_path", drop_path)
        check_probability("dropout", dropout)
        try:
            groups = torch.tensor(joint_groups(skeleton, partition))
        except SkeletonError as error:
            raise EncoderError(str(error)) from None
        hops = torch.from_numpy(hop_distances(with_tips_on_hands(skeleton)))
        self.data_bn = PersonNorm(in_channels, skeleton.num_joints, num_persons)
        for index, stride in enumerate(STRIDES):
            rate = drop_path * index / (len(STRIDES) - 1)
            block = Block(in_channels, channels, hops, groups, stride=stride, drop_path=rate)
            self.add_block(block, channels, stride)
            in_channels = channels
        self.fc = PooledClassifier(channels, num_classes, dropout)


class Block(PublishedModule):
    """Attention among joints, temporal convolutions, residual; (n, C_in, V, T) -> (n, C, V, ceil(T / stride))."""

    def __init__(
        self, in_channels: int, channels: int, hops: Tensor, groups: Tensor, *, stride: int, drop_path: float
    ) -> None:
        super().__init__()
        self.attention = HypergraphAttention(in_channels, channels, hops, groups, drop_path)
        self.tcn = MultiScaleTemporal(channels, stride)
        self.residual = residual_path(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.tcn(self.attention(x)) + self.residual(x), inplace=True)

    def published_names(self) -> dict[str, Source]:
        table = within("attention", "vit1", self.attention.published_names())
        table |= within("tcn", "tcn1", self.tcn.published_names())
        return table | same(self.residual, "residual", "residual")


class HypergraphAttention(nn.Module):
    """Self-attention among the joints of a frame, hyper-edges included; (n, C_in, V, T) -> (n, C, V, T).

        q, k, v = 1x1 convolutions of LayerNorm(x)
        e[j]    = 1x1 convolution of the mean of x (not normalised) over the joints of j's group
        S[i, j] = ( q_i · (k_j + rpe[hops[i, j]] + e_j) + w1 · e_j ) / √d                for each head
        y_i     = Σ_j ( alpha softmax_j(S[i, j]) + outer[i, j] ) v_j
        output  = skip(x) + grouped 1x1 convolution of y

    The heads are consecutive slices of the channels. At first alpha is 0 and outer the identity: a block begins as a
    map of each joint by itself.
    """

    membership: Tensor
    hops: Tensor

    def __init__(self, in_channels: int, channels: int, hops: Tensor, groups: Tensor, drop_path: float) -> None:
        super().__init__()
        joints, self.head_channels = len(groups), channels // HEADS
        self.norm = nn.LayerNorm(in_channels)
        self.to_qkv = nn.Linear(in_channels, 3 * channels, bias=False)
        self.to_groups = nn.Linear(in_channels, channels, bias=False)
        self.skip = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1, bias=False)
        self.rpe = nn.Parameter(torch.zeros(int(hops.max()) + 1, channels))
        self.w1 = nn.Parameter(torch.zeros(HEADS, self.head_channels))
        self.outer = nn.Parameter(torch.eye(joints).repeat(HEADS, 1, 1))
        self.alpha = nn.Parameter(torch.zeros(1))
        self.project = nn.Conv2d(channels, channels, 1, groups=OUTPUT_GROUPS)
        self.drop_path = DropPath(drop_path)
        membership = functional.one_hot(groups).to(self.rpe.dtype)  # (V, G)
        self.register_buffer("membership", membership, persistent=False)
        self.register_buffer("hops", hops, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        num_skeletons, _, joints, frames = x.shape
        similarity, value = self._similarity(x)
        attention = precise_softmax(similarity)
        mixed = (self.alpha * attention + self.outer) @ value  # (n * T, H, V, d)
        mixed = mixed.view(num_skeletons, frames, HEADS, joints, self.head_channels).permute(0, 2, 4, 3, 1)
        return self.skip(x) + self.drop_path(self.project(mixed.reshape(num_skeletons, -1, joints, frames)))

    def relations(self, x: Tensor) -> Tensor:
        """Mean of S over the frames: (n, H, i, j)."""
        similarity, _ = self._similarity(x)
        return similarity.unflatten(0, (len(x), -1)).mean(dim=1)

    def _similarity(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """S (n * T, H, V, V) and v (n * T, H, V, d)."""
        rows = x.permute(0, 3, 2, 1)  # (n, T, V, C_in)
        # The buffer holds integers, so that its means are exact in whatever precision the encoder is cast to.
        group_mean = (self.membership / self.membership.sum(dim=0)).T
        groups = self.to_groups(group_mean @ rows)  # (n, T, G, C)
        query, key, value = self.to_qkv(self.norm(rows)).chunk(3, dim=-1)
        # Both products with the query share one: q · k + q · e = q · (k + e).
        query, key, value = (self._by_head(part) for part in (query, key + self.membership @ groups, value))
        bias = torch.einsum("bhid,ijhd->bhij", query, self._per_head(self.rpe)[self.hops]) + self._group_bias(groups)
        scale = self.head_channels**-0.5
        similarity = torch.baddbmm(
            bias.flatten(0, 1), query.flatten(0, 1), key.flatten(0, 1).mT, beta=scale, alpha=scale
        )
        return similarity.view_as(bias), value

    def _per_head(self, channels: Tensor) -> Tensor:
        """(..., C) -> (..., H, d)."""
        return channels.unflatten(-1, (HEADS, self.head_channels))

    def _by_head(self, rows: Tensor) -> Tensor:
        """(n, T, V, C) -> (n * T, H, V, d), as a matrix product reads it fastest."""
        return self._per_head(rows.flatten(0, 1)).transpose(1, 2).contiguous()

    def _group_bias(self, groups: Tensor) -> Tensor:
        """w1 · e_j of the groups' features (n, T, G, C), for every head and every target joint: (n * T, H, 1, V)."""
        bias = torch.einsum("bghd,hd->bhg", self._per_head(groups.flatten(0, 1)), self.w1)
        return (bias @ self.membership.T).unsqueeze(2)

    def published_names(self) -> dict[str, Source]:
        table = same(self.norm, "norm", "norm1") | same(self.project, "project", "attn.proj")
        channels, inputs = self.to_groups.weight.shape
        kernels = [(width, inputs, 1, 1) for width in (channels, 2 * channels)]
        table |= {
            "to_qkv.weight": Source(("attn.q.weight", "attn.kv.weight"), shapes=tuple(kernels)),
            "to_groups.weight": Source(("pe_proj.weight",), shapes=(kernels[0],)),
        }
        table |= {name: Source((f"attn.{name}",)) for name in ("rpe", "w1", "outer", "alpha")}
        return table | same(self.skip, "skip", "skip_proj")
