"""ST-GCN++ (Duan et al., PYSKL, ACM MM 2022): ST-GCN with a free graph, residuals and temporal branches.

    block   C_in -> C_out   stride   residual of the block   down of the graph convolution   widths of the branches
    l1          3 ->  64      1      none                    1x1 convolution + BN            14, 5 x 10
    l2-l4      64 ->  64      1      identity                identity                        14, 5 x 10
    l5         64 -> 128      2      1x1 convolution + BN    1x1 convolution + BN            23, 5 x 21
    l6-l7     128 -> 128      1      identity                identity                        23, 5 x 21
    l8        128 -> 256      2      1x1 convolution + BN    1x1 convolution + BN            46, 5 x 42
    l9-l10    256 -> 256      1      identity                identity                        46, 5 x 42

    clips (N, 3, T, V, M) -> PersonNorm -> l1 ... l10 -> features (N, M, 256, T / 4, V) -> PooledClassifier -> (N, K)
    block(x) = ReLU( BranchesTransform( FreeGraphConvolution(x) ) + residual(x) )

Letters: N clips, M persons, n = N * M skeletons, C channels, T frames, V joints, K classes; k one of the three subsets
(self, inward, outward) of the graph; v the source joint, w the target joint; b images of H rows, see model.blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton, spatial_partition, with_tips_on_hands
from model.blocks import TemporalBranches, pointwise, published_down, residual_path, shared_graph_convolution
from model.encoder import COORDINATES, check_positive, check_probability
from model.errors import EncoderError
from model.published import PublishedModule, Source, same
from model.ten_blocks import NormedBlocksEncoder

SUBSETS = 3
KERNEL_FRAMES = 3
DILATIONS = (1, 2, 3, 4)
BRANCHES = len(DILATIONS) + 2


class STGCNPP(NormedBlocksEncoder):
    """The encoder of the table above.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        base_channels: channels of l1 to l4, 6 at least; l5-l7 have twice, l8-l10 four times as many.
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
        check_positive("base_channels", base_channels)
        if base_channels < BRANCHES:
            raise EncoderError(f"base_channels: {base_channels} are too few for {BRANCHES} branches; take {BRANCHES}")
        check_probability("dropout", dropout)
        adjacency = torch.from_numpy(spatial_partition(with_tips_on_hands(skeleton)))
        self.build_ten_blocks(
            base_channels,
            lambda in_channels, out_channels: FreeGraphConvolution(in_channels, out_channels, adjacency),
            BranchesTransform,
            dropout,
            persons_share_norm=True,
        )
        self._init_weights()

    def _init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()  # torch's default, as in PYSKL
        nn.init.normal_(self.fc.linear.weight, 0, 0.01)
        nn.init.zeros_(self.fc.linear.bias)

    def published_names(self) -> dict[str, Source]:
        return self.pyskl_names()


class FreeGraphConvolution(PublishedModule):
    """All subsets of a graph that is learned whole; (n, C_in, V, T) -> (n, C_out, V, T).

    output = ReLU( BN( Σ_k Σ_v A_k[v, w] u_k[v] ) + down(x) ),  u = 1x1 convolution of x into k * C_out channels

    A starts as the skeleton's graph and is the same for all clips.
    """

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, SUBSETS * out_channels, 1)
        self.topology = nn.Parameter(adjacency.clone())
        self.bn = nn.BatchNorm2d(out_channels)
        self.down = residual_path(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        mixed = shared_graph_convolution(x, self.topology, self.conv)
        return functional.relu(self.bn(mixed) + self.down(x), inplace=True)

    def published_names(self) -> dict[str, Source]:
        table = same(self.conv, "conv", "conv") | same(self.bn, "bn", "bn") | {"topology": Source(("A",))}
        return table | published_down(self.down)


class BranchesTransform(TemporalBranches):
    """BN( 1x1 convolution( ReLU( BN( branches(x) ) ) ) ); (b, C, H, T) -> (b, C, H, ceil(T / stride))."""

    last_entry = ""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, stride, KERNEL_FRAMES, DILATIONS)
        self.branches_bn = nn.BatchNorm2d(channels)
        self.transform = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        joined = functional.relu(self.branches_bn(self.branches(x)), inplace=True)
        return self.bn(pointwise(joined, self.transform))

    def published_names(self) -> dict[str, Source]:
        table = same(self.branches_bn, "branches_bn", "transform.0") | same(self.transform, "transform", "transform.2")
        return super().published_names() | table | same(self.bn, "bn", "bn")
