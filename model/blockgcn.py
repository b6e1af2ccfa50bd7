"""BlockGCN (Zhou et al., CVPR 2024): grouped graph convolutions that keep knowing the skeleton's topology.

    block             C_in -> C_out   stride   residual of the block   down of the graph convolution
    l1-l4              128 -> 128       1      identity                identity
    l5                 128 -> 256       2      1x1 convolution + BN    1x1 convolution + BN
    l6-l7, l9-l10      256 -> 256       1      identity                identity
    l8                 256 -> 256       2      1x1 convolution + BN    identity

    x (N, 3, T, V, M) -> JointEmbedding -> l1 ... l10 -> features (N, M, 256, T / 4, V) -> PooledClassifier -> (N, K)
    joints (N, 3, T, V, M) -> DynamicTopology -> rows (n, 64) -> TopologicalTerms: t of every block (n, C_in)
    block(x) = ReLU( MultiScaleTemporal( BlockGraphConvolution(u) ) + residual(u) ),  u = x + t

Letters: N clips, M persons, n = N * M skeletons, C channels, H = 8 groups of C / H channels, T frames, V joints,
K classes; k one of three subsets; v the source joint, w the target joint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton, hop_distances, with_tips_on_hands
from model.block_encoder import BlockEncoder
from model.blocks import (
    MultiScaleTemporal,
    PooledClassifier,
    ResidualBlock,
    grouped_pointwise,
    one_image,
    published_down,
    residual_path,
)
from model.encoder import COORDINATES, Observed, check_multiple, check_probability
from model.errors import EncoderError
from model.joint_embedding import JointEmbedding
from model.published import PublishedModule, Source, joined, published_blocks, same, within
from model.topology import Choice, DynamicTopology

SUBSETS = 3
GROUPS = 8
TOPOLOGY_ELEMENTS = 64
NORM_OFFSET = 1e-4
"""Added to the norms of the topology's columns."""
BLOCKS = ((1, 1),) * 4 + ((2, 2), (2, 1), (2, 1)) * 2
"""(output channels as a multiple of base_channels, stride) of l1 to l10."""


class BlockGCN(BlockEncoder):
    """The encoder of the table above. It reads the raw joints beside the stream: pass them as `joints`.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        base_channels: channels of l1 to l4, a multiple of 8; l5-l10 have twice as many.
        topology: whose joints describe a skeleton's topology, and what scales their distances: `own`, `matched` or
            `published` (see DynamicTopology); None: `own`, and `published` once published weights are loaded. Only
            with `own` does a prediction not depend on the other clips of its batch.
        dropout: probability before the classifier.
    """

    classifier = "fc.linear"
    persons_apart = False  # the topology is that of all persons of a clip

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        in_channels: int = COORDINATES,
        base_channels: int = 128,
        topology: Choice | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            num_classes=num_classes,
            num_persons=num_persons,
            window=window,
            in_channels=in_channels,
        )
        check_multiple("base_channels", base_channels, GROUPS)
        check_probability("dropout", dropout)
        hops = torch.from_numpy(hop_distances(with_tips_on_hands(skeleton)))
        self.embedding = JointEmbedding(in_channels, base_channels, skeleton.num_joints, num_persons)
        self.topology = DynamicTopology(TOPOLOGY_ELEMENTS, topology)
        channels = base_channels
        term_widths = []
        for width, stride in BLOCKS:
            term_widths.append(channels)
            out_channels = width * base_channels
            block = ResidualBlock(
                BlockGraphConvolution(channels, out_channels, hops),
                MultiScaleTemporal(out_channels, stride),
                residual_path(channels, out_channels, stride),
            )
            self.add_block(block, out_channels, stride)
            channels = out_channels
        self.terms = TopologicalTerms(TOPOLOGY_ELEMENTS, term_widths)
        self.fc = PooledClassifier(channels, num_classes, dropout)

    def extract_observed(self, x: Tensor, joints: Tensor, reads: frozenset[str]) -> Observed:
        rows = self.topology(joints)
        if self.training and len(rows) == 1:
            raise EncoderError(
                "BlockGCN: a batch of one clip of one person cannot be trained on, because a batch normalisation of "
                "its topology needs two rows at least; use larger batches and drop such a last one"
            )
        maps = self.embedding(x)
        terms = {name: term[..., None, None] for name, term in zip(self.blocks, self.terms(rows), strict=True)}
        if not torch.is_autocast_enabled(x.device.type):
            return self.run(maps, reads, terms)
        num_joints = self.skeleton.num_joints
        spread = {name: one_image(term.expand(-1, -1, num_joints, -1)) for name, term in terms.items()}
        return self.run(one_image(maps), reads, spread)

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features)

    def published_names(self) -> dict[str, Source]:
        terms = [f"t{index}" for index in range(len(self.blocks))]
        table = same(self.fc.linear, "fc.linear", "fc")
        table |= {f"embedding.{name}": source for name, source in self.embedding.published_names().items()}
        table |= within("topology", "topo", self.topology.published_names())
        widths = self.terms.widths
        table |= joined(self.terms.linear, "terms.linear", [f"{term}.mlp" for term in terms], widths=widths)
        table |= joined(self.terms.bn, "terms.bn", [f"{term}.bn" for term in terms], widths=widths)
        return table | published_blocks(self.blocks)


class TopologicalTerms(nn.Module):
    """What the blocks add to their inputs, from the topology; (n, S) -> one (n, width) per block.

    Each is a linear layer, batch normalisation and ReLU; all are computed as one.
    """

    def __init__(self, num_elements: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(widths)
        self.linear = nn.Linear(num_elements, sum(widths))
        self.bn = nn.BatchNorm1d(sum(widths))

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        return functional.relu(self.bn(self.linear(rows))).split(self.widths, dim=1)


class BlockGraphConvolution(PublishedModule):
    """BlockGC with its subsets and groups at once; images (b, C_in, H, T) -> (b, C_out, H, T), see model.blocks.

        W_k[h]  = F_k[h] / (|F_k[h]| + 1e-4) + B_k[h] / (|B_k[h]| + 1e-4)     norms over v, one for each w
        output  = ReLU( BN( Σ_k 1x1 convolution_k of Σ_v W_k[h][v, w] x[v] ) + down(x) )

    for the channels of group h, which the convolutions keep apart too. F is learned freely; B[v, w] depends only on the
    number of bones between v and w (the static topological encoding). The mixed maps hold channel c of subset k at
    c * 3 + k, so that the sum over the subsets is one grouped convolution.
    """

    hops: Tensor

    def __init__(self, in_channels: int, out_channels: int, hops: Tensor) -> None:
        super().__init__()
        joints = len(hops)
        self.free = nn.Parameter(torch.eye(joints).repeat(SUBSETS, GROUPS, 1, 1))
        self.by_hops = nn.Parameter(torch.zeros(SUBSETS, GROUPS, int(hops.max()) + 1))
        self.weight = nn.Parameter(torch.empty(out_channels, SUBSETS * in_channels // GROUPS, 1, 1))
        self.bias = nn.Parameter(torch.zeros(SUBSETS, out_channels))
        self.bn = nn.BatchNorm2d(out_channels)
        self.down = residual_path(in_channels, out_channels)
        self.register_buffer("hops", hops, persistent=False)
        nn.init.normal_(self.weight, 0, math.sqrt(2 / out_channels))

    def forward(self, x: Tensor) -> Tensor:
        images, _, rows, frames = x.shape
        joints = self.hops.shape[0]
        grouped = x.view(images, GROUPS, -1, rows // joints, joints, frames)
        mixed = torch.einsum("khvw,bhcnvt->bhcknwt", self._topology(), grouped).reshape(images, -1, rows, frames)
        mixed = grouped_pointwise(mixed, self.weight, self.bias.sum(dim=0), GROUPS)
        return functional.relu(self.bn(mixed) + self.down(x), inplace=True)

    def _topology(self) -> Tensor:
        """W of all subsets and groups: (k, H, v, w)."""
        return _unit_columns(self.free) + _unit_columns(self.by_hops[:, :, self.hops])

    def published_names(self) -> dict[str, Source]:
        subsets = [f"fc2.{k}" for k in range(SUBSETS)]
        table = {
            "free": Source(("fc1",)),
            "by_hops": Source(("rpe",)),
            "weight": Source(tuple(f"{subset}.weight" for subset in subsets), _interleave_inputs),
            "bias": Source(tuple(f"{subset}.bias" for subset in subsets), torch.stack),
        }
        return table | same(self.bn, "bn", "bn") | published_down(self.down)


def _unit_columns(matrices: Tensor) -> Tensor:
    """Matrices (..., v, w) with columns of length 1, nearly; a zero column stays zero and has a finite gradient."""
    return matrices / (torch.linalg.vector_norm(matrices, dim=-2, keepdim=True) + NORM_OFFSET)


def _interleave_inputs(weights: list[Tensor]) -> Tensor:
    """Join kernels (C_out, C_in, 1, 1) so that input c of part k becomes input c * len(weights) + k."""
    return torch.stack(weights, dim=2).flatten(1, 2)
