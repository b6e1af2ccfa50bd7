"""ST-GCN: Spatial Temporal Graph Convolutional Network (Yan et al., AAAI 2018).

    block   C_in -> C_out   stride   residual of the block
    l1          3 ->  64      1      none
    l2-l4      64 ->  64      1      identity
    l5         64 -> 128      2      1x1 convolution + BN
    l6-l7     128 -> 128      1      identity
    l8        128 -> 256      2      1x1 convolution + BN
    l9-l10    256 -> 256      1      identity

    clips (N, 3, T, V, M) -> PersonNorm -> l1 ... l10 -> features (N, M, 256, T / 4, V) -> PooledClassifier -> (N, K)
    block(x) = ReLU( dropout( TemporalConvolution( WeightedGraphConvolution(x) ) ) + residual(x) ), over 9 frames

Letters: N clips, M persons, n = N * M skeletons, C channels, T frames, V joints, K classes; k one of the three subsets
of the graph; v the source joint, w the target joint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton, root_partition
from model.blocks import PersonNorm, PooledClassifier, TemporalConvolution, residual_path, shared_graph_convolution
from model.encoder import COORDINATES, check_positive, check_probability
from model.published import PublishedModule, Source, joined, published_blocks, same
from model.ten_blocks import BLOCKS, NormedBlocksEncoder

SUBSETS = 3
KERNEL_FRAMES = 9


class STGCN(NormedBlocksEncoder):
    """The encoder of the table above.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        base_channels: channels of l1 to l4; l5-l7 have twice, l8-l10 four times as many.
        dropout: probability with which l2 to l10 drop each number before the residual is added.
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
        check_probability("dropout", dropout)
        adjacency = torch.from_numpy(root_partition(skeleton))
        self.data_bn = PersonNorm(in_channels, skeleton.num_joints, num_persons=1)
        channels = in_channels
        for number, (width, stride) in enumerate(BLOCKS, start=1):
            out_channels = width * base_channels
            gcn = WeightedGraphConvolution(channels, out_channels, adjacency)
            first = number == 1
            block = Block(gcn, channels, stride, dropout=0.0 if first else dropout, has_residual=not first)
            self.add_block(block, out_channels, stride)
            channels = out_channels
        self.fc = PooledClassifier(channels, num_classes)
        self._init_weights()

    def _init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.02)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1, 0.02)

    def published_names(self) -> dict[str, Source]:
        kernel = (*self.fc.linear.weight.shape, 1, 1)
        table = same(self.data_bn.norm, "data_bn.norm", "data_bn")
        table["adjacency"] = Source(("A",), constant=self.get_buffer("blocks.l1.gcn.adjacency"))
        table |= joined(self.fc.linear, "fc.linear", ["fcn"], weight_shape=kernel)
        table |= published_blocks(self.blocks, "st_gcn_networks")
        importance = {
            f"blocks.{name}.gcn.importance": Source((f"edge_importance.{number}",))
            for number, name in enumerate(self.blocks)
        }
        return table | importance


class Block(PublishedModule):
    """A graph convolution, a convolution over frames, residual; (n, C_in, V, T) -> (n, C_out, V, ceil(T / stride))."""

    def __init__(
        self, gcn: WeightedGraphConvolution, in_channels: int, stride: int, *, dropout: float, has_residual: bool
    ) -> None:
        super().__init__()
        channels = gcn.bn.num_features
        self.gcn = gcn
        self.tcn = TemporalConvolution(channels, channels, KERNEL_FRAMES, stride)
        self.dropout = nn.Dropout(dropout)
        self.residual = residual_path(in_channels, channels, stride) if has_residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.tcn(self.gcn(x)))
        if self.residual is not None:
            y = y + self.residual(x)
        return functional.relu(y, inplace=True)

    def published_names(self) -> dict[str, Source]:
        """Names relative to the published block; the importance is not in it."""
        table = same(self.gcn.conv, "gcn.conv", "gcn.conv") | same(self.gcn.bn, "gcn.bn", "tcn.0")
        table |= same(self.tcn.conv, "tcn.conv", "tcn.2") | same(self.tcn.bn, "tcn.bn", "tcn.3")
        if isinstance(self.residual, TemporalConvolution):
            table |= same(self.residual.conv, "residual.conv", "residual.0")
            table |= same(self.residual.bn, "residual.bn", "residual.1")
        return table


class WeightedGraphConvolution(nn.Module):
    """All subsets of the skeleton's graph, each link with a learned weight; (n, C_in, V, T) -> (n, C_out, V, T).

    output = ReLU( BN( Σ_k Σ_v A_k[v, w] E_k[v, w] u_k[v] ) ),  u = 1x1 convolution of x into k * C_out channels

    A is fixed; E, of ones at first, acts only where A is not zero.
    """

    adjacency: Tensor

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, SUBSETS * out_channels, 1)
        self.importance = nn.Parameter(torch.ones_like(adjacency))
        self.bn = nn.BatchNorm2d(out_channels)
        self.register_buffer("adjacency", adjacency, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = shared_graph_convolution(x, self.adjacency * self.importance, self.conv)
        return functional.relu(self.bn(mixed), inplace=True)
