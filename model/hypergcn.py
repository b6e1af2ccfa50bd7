"""Hyper-GCN: Adaptive Hyper-Graph Convolution Network (ICCV 2025, arXiv 2411.14796).

    block   C_in -> C_out, base   large         stride   residual of the block   down of the graph convolution
    l1-l3        128 -> 128       same            1      identity                identity
    l4           128 -> 256       same            2      1x1 convolution + BN    1x1 convolution + BN
    l5-l6        256 -> 256       same            1      identity                identity
    l7           256 -> 256       256 -> 512      2      1x1 convolution + BN    identity; large: as l4
    l8-l9        256 -> 256       512 -> 512      1      identity                identity

    clips (N, 3, T, V, M) -> JointEmbedding with tanh (n, 128, V, T) -> l1 ... l9
          -> features (N, M, 256 or 512, T / 4, V) -> PooledClassifier -> (N, K)
    block(x) = ReLU( MultiScaleTemporal( HypergraphConvolution(x) ) + residual(x) )
    The third block of each three reads the sum of what the first and the second put out.

Letters: N clips, M persons, n = N * M skeletons, C channels, k one of 8 heads, h = C_in / 32 channels of a head's
embedding, T frames, V joints, U = 3 virtual joints, P = V + U points, e one of P hyper-edges, K classes; u the target
point, v the source point.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton, links_with_virtual_joints
from model.block_encoder import BlockEncoder
from model.blocks import (
    MultiScaleTemporal,
    PooledClassifier,
    ResidualBlock,
    init_convolution,
    published_down,
    residual_path,
)
from model.encoder import COORDINATES, Observed, check_choice, check_multiple, check_not_negative, check_probability
from model.joint_embedding import JointEmbedding
from model.published import PublishedModule, Source, published_blocks, same

Size = Literal["base", "large"]

HEADS = 8
VIRTUAL_JOINTS = 3
NEAREST = 9
"""How many hyper-edges a point belongs to, its own among them."""
OFFSET = 1e-8
"""Added to everything that is divided by."""
BLOCKS: dict[Size, tuple[tuple[int, int], ...]] = {
    "base": ((1, 1),) * 3 + ((2, 2), (2, 1), (2, 1)) * 2,
    "large": ((1, 1),) * 3 + ((2, 2), (2, 1), (2, 1)) + ((4, 2), (4, 1), (4, 1)),
}
"""(output channels as a multiple of base_channels, stride) of l1 to l9."""


class HyperGCN(BlockEncoder):
    """The encoder of the table above. In training it adds a loss of its own and smooths the labels.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        size: `base` or `large`.
        base_channels: channels of l1 to l3, a multiple of 32.
        divergence_weight: of the loss that drives the virtual joints of a block apart; 0 switches it off.
        label_smoothing: of the cross entropy that it is trained with.
        dropout: probability before the classifier.
    """

    classifier = "fc.linear"
    relation_subsets = HEADS

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        in_channels: int = COORDINATES,
        size: Size = "base",
        base_channels: int = 128,
        divergence_weight: float = 1.0,
        label_smoothing: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            num_classes=num_classes,
            num_persons=num_persons,
            window=window,
            in_channels=in_channels,
        )
        check_choice("size", size, get_args(Size))
        check_multiple("base_channels", base_channels, 32)
        check_not_negative("divergence_weight", divergence_weight)
        check_probability("label_smoothing", label_smoothing)
        check_probability("dropout", dropout)
        self.divergence_weight = divergence_weight
        self.label_smoothing = label_smoothing
        links = torch.from_numpy(links_with_virtual_joints(skeleton, VIRTUAL_JOINTS))
        self.embedding = JointEmbedding(in_channels, base_channels, skeleton.num_joints, num_persons, torch.tanh)
        channels = base_channels
        for index, (width, stride) in enumerate(BLOCKS[size]):
            out_channels = width * base_channels
            block = ResidualBlock(
                HypergraphConvolution(channels, out_channels, links),
                MultiScaleTemporal(out_channels, stride, padding_mode="replicate"),
                residual_path(channels, out_channels, stride),
            )
            self.add_block(block, out_channels, stride, also_reads=f"l{index - 1}" if index % 3 == 2 else None)
            channels = out_channels
        self.fc = PooledClassifier(channels, num_classes, dropout)

    def extract_observed(self, x: Tensor, joints: Tensor, reads: frozenset[str]) -> Observed:
        return self.run(self.embedding(x), reads)

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features)

    def own_losses(self, labels: Tensor) -> dict[str, Tensor]:
        if self.divergence_weight == 0:
            return {}
        convolutions = [part for part in self.modules() if isinstance(part, HypergraphConvolution)]
        similarities = [virtual_joint_similarity(part.virtual_joints) for part in convolutions]
        return {"divergence": self.divergence_weight * torch.stack(similarities).mean()}

    def published_names(self) -> dict[str, Source]:
        table = {f"embedding.{ours}": source for ours, source in self.embedding.published_names().items()}
        return table | same(self.fc.linear, "fc.linear", "fc") | published_blocks(self.blocks)


def virtual_joint_similarity(virtual_joints: Tensor) -> Tensor:
    """Mean of ReLU(cosine) over the pairs of different virtual joints (U, C) of a block, a scalar."""
    count = len(virtual_joints)
    norms = torch.linalg.vector_norm(virtual_joints, dim=1)
    cosines = virtual_joints @ virtual_joints.T / (norms[:, None] * norms + OFFSET)
    return (functional.relu(cosines).sum() - count) / (count * (count - 1))


class HypergraphConvolution(PublishedModule):
    """Graph convolution over the skeleton's links and a hypergraph of each skeleton's own; (n, C_in, V, T) ->
    (n, C_out, V, T).

        x'      = x and three learned virtual joints, the same in every frame                 P points
        A_k     = S_k + ReLU(alpha) G_k(x')       S: links weighed by a learned importance, rows normalised; G: below
        output  = ReLU( BN( Σ_v A_k[u, v] F_k[v] ) + down(x) ),   F: grouped 1x1 convolution of x', u a real joint

    The hypergraph has one hyper-edge per point. With m the mean of x' over time, for each head:

        H[u, e] = softmax over the 9 points e nearest to u of -|q_u - q_e|, q a grouped 1x1 convolution of m; else 0
        W[e]    = tanh of two 1x1 convolutions of m                                           weight of a hyper-edge
        Q[u, e] = H[u, e] W[e] / Σ_e |H[u, e] W[e]|
        G[u, v] = Σ_e Q[u, e] W[e] / (Σ_u H[u, e]) H[v, e]

    No gradient reaches the choice of the nearest points. Virtual joints only send, and as they are alike in all frames,
    so is what they send.
    """

    links: Tensor

    def __init__(self, in_channels: int, out_channels: int, links: Tensor) -> None:
        super().__init__()
        embedded = HEADS * (in_channels // 32)
        self.virtual_joints = nn.Parameter(torch.randn(in_channels).repeat(VIRTUAL_JOINTS, 1))
        self.register_buffer("links", links, persistent=False)
        self.importance = nn.Parameter(torch.ones(HEADS, *links.shape))
        self.alpha = nn.Parameter(torch.ones(1))
        self.embed = nn.Conv1d(in_channels, embedded, 1, groups=HEADS)
        hidden, mixing = nn.Conv1d(in_channels, embedded, 1, groups=HEADS), nn.Conv1d(embedded, HEADS, 1)
        self.weigh = nn.Sequential(hidden, nn.LeakyReLU(0.01), mixing)
        self.transform = nn.Conv2d(in_channels, out_channels, 1, groups=HEADS)
        self.bn = nn.BatchNorm2d(out_channels)
        self.down = residual_path(in_channels, out_channels)
        for layer in (self.embed, hidden, mixing, self.transform):
            init_convolution(layer)
        # The graph starts switched off: at first a block passes `down(x)` on.
        nn.init.constant_(self.bn.weight, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        num_skeletons, _, joints, frames = x.shape
        topology = self._shared() + functional.relu(self.alpha) * self.hypergraph(x)
        from_real, from_virtual = topology[:, :, :joints].split([joints, VIRTUAL_JOINTS], dim=-1)
        transformed = self.transform(x).unflatten(1, (HEADS, -1))  # (n, k, c, V, T)
        sources = transformed.transpose(2, 3).reshape(num_skeletons * HEADS, joints, -1)
        mixed = torch.bmm(from_real.flatten(0, 1), sources.to(from_real.dtype))
        mixed = mixed.view(num_skeletons, HEADS, joints, -1, frames).transpose(2, 3)
        senders = functional.conv1d(
            self.virtual_joints.T, self.transform.weight.squeeze(-1), self.transform.bias, groups=HEADS
        )
        still = torch.einsum("nkuv,kcv->nkcu", from_virtual, senders.unflatten(0, (HEADS, -1)))
        y = (mixed + still.unsqueeze(-1)).flatten(1, 2)
        return functional.relu(self.bn(y) + self.down(x), inplace=True)

    def _shared(self) -> Tensor:
        """S: (k, P, P)."""
        weighed = self.links * self.importance
        return weighed / (weighed.abs().sum(dim=-1, keepdim=True) + OFFSET)

    def relations(self, x: Tensor) -> Tensor:
        """What the hypergraph adds to the links between the joints, before alpha: (n, k, V, V)."""
        joints = x.shape[2]
        return self.hypergraph(x)[..., :joints, :joints]

    def hypergraph(self, x: Tensor) -> Tensor:
        """G of skeletons (n, C_in, V, T): (n, k, P, P)."""
        virtual = self.virtual_joints.T.to(x.dtype).expand(x.shape[0], -1, -1)
        points = torch.cat([x.mean(dim=-1), virtual], dim=-1)
        weights = torch.tanh(self.weigh(points)).unsqueeze(2)  # (n, k, 1, e)
        incidence = self._incidence(points)
        degrees = incidence.sum(dim=2, keepdim=True) + OFFSET
        weighed = incidence * weights
        receivers = weighed / (weighed.abs().sum(dim=-1, keepdim=True) + OFFSET)
        return torch.matmul(receivers * (weights / degrees), incidence.mT)

    def _incidence(self, points: Tensor) -> Tensor:
        """H of points (n, C_in, P): (n, k, P, e)."""
        embedded = self.embed(points).unflatten(1, (HEADS, -1)).mT
        # Subtracted: |a|² + |b|² - 2 a · b would leave a point at some distance to itself.
        distances = torch.cdist(embedded, embedded, compute_mode="donot_use_mm_for_euclid_dist")
        nearest, index = distances.topk(min(NEAREST, points.shape[-1]), largest=False)
        return torch.zeros_like(distances).scatter(-1, index, (-nearest).softmax(dim=-1))

    def published_names(self) -> dict[str, Source]:
        table = {
            "virtual_joints": Source(("hyper_joint",)),
            "links": Source(("PA",), constant=self.links.repeat(HEADS, 1, 1)),
            "importance": Source(("edge_importance",)),
            "alpha": Source(("alpha",)),
        }
        table |= same(self.embed, "embed", "to_V") | same(self.transform, "transform", "conv_d")
        table |= same(self.weigh[0], "weigh.0", "to_W.0") | same(self.weigh[2], "weigh.2", "to_W.2")
        return table | same(self.bn, "bn", "bn") | published_down(self.down)
