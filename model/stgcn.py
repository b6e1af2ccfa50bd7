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

from graph import Skeleton, root_partition, with_tips_on_hands
from model.blocks import ResidualBlock, TemporalConvolution, shared_graph_convolution
from model.encoder import COORDINATES, check_positive, check_probability
from model.published import PublishedModule, Source, joined, same
from model.ten_blocks import NormedBlocksEncoder

SUBSETS = 3
KERNEL_FRAMES = 9
OTHER_TIPS = " PYSKL's graph of NTU needs model.options.tips_on_hands true, the authors' false"
PUBLISHED_LAYERS = {
    "gcn.conv": "gcn.conv",
    "gcn.bn": "tcn.0",
    "tcn.conv": "tcn.2",
    "tcn.bn": "tcn.3",
    "residual.conv": "residual.0",
    "residual.bn": "residual.1",
}
"""Layers of a block -> their names in the authors' block."""


class STGCN(NormedBlocksEncoder):
    """The encoder of the table above.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        base_channels: channels of l1 to l4; l5-l7 have twice, l8-l10 four times as many.
        dropout: probability with which l2 to l10 drop each number before the residual is added.
        tips_on_hands: whether the hand tips of NTU hang on the hands, as in PYSKL, and not on the thumbs.
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
        tips_on_hands: bool = False,
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
        adjacency = torch.from_numpy(root_partition(with_tips_on_hands(skeleton) if tips_on_hands else skeleton))
        self.build_ten_blocks(
            base_channels,
            lambda in_channels, out_channels: WeightedGraphConvolution(in_channels, out_channels, adjacency),
            lambda channels, stride: TemporalConvolution(channels, channels, KERNEL_FRAMES, stride),
            dropout=0.0,
            persons_share_norm=True,
        )
        for name, block in self.blocks.items():
            if name != "l1":
                assert isinstance(block, ResidualBlock)
                block.main_drop = nn.Dropout(dropout)
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
        table = same(self.data_bn.norm, "data_bn.norm", "data_bn")
        kernel = (*self.fc.linear.weight.shape, 1, 1)
        table |= joined(self.fc.linear, "fc.linear", ["fcn"], weight_shape=kernel)
        table["adjacency"] = Source(("A",), constant=self.get_buffer("blocks.l1.gcn.adjacency"), hint=OTHER_TIPS)
        for number, (name, block) in enumerate(self.blocks.items()):
            table[f"blocks.{name}.gcn.importance"] = Source((f"edge_importance.{number}",))
            layers = dict(block.named_modules())
            for ours, published in PUBLISHED_LAYERS.items():
                if ours in layers:
                    table |= same(layers[ours], f"blocks.{name}.{ours}", f"st_gcn_networks.{number}.{published}")
        return table

    def published_tables(self) -> list[dict[str, Source]]:
        return [self.published_names(), self.pyskl_names()]


class WeightedGraphConvolution(PublishedModule):
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

    def published_names(self) -> dict[str, Source]:
        """PYSKL's names, of a block that holds the graph and its weights; the authors' are in STGCN."""
        table = same(self.conv, "conv", "conv") | same(self.bn, "bn", "bn") | {"importance": Source(("PA",))}
        return table | {"adjacency": Source(("A",), constant=self.adjacency, hint=OTHER_TIPS)}
