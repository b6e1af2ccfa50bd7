"""The frame that ST-GCN (Yan et al., AAAI 2018) gave CTR-GCN, 2S-AGCN, HD-GCN and others, and in part Hyperformer.

    block   C_in -> C_out   stride   residual
    l1          3 ->  64      1      none
    l2-l4      64 ->  64      1      identity
    l5         64 -> 128      2      1x1 convolution + BN
    l6-l7     128 -> 128      1      identity
    l8        128 -> 256      2      1x1 convolution + BN
    l9-l10    256 -> 256      1      identity

    clips (N, 3, T, V, M) -> PersonNorm -> l1 ... l10 -> features (N, M, 256, T / 4, V) -> PooledClassifier -> (N, K)

Letters: N clips, M persons, n = N * M skeletons, C channels, T frames, V joints, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from graph import Skeleton, spatial_partition
from model.block_encoder import BlockEncoder
from model.blocks import PersonNorm, PooledClassifier, ResidualBlock, residual_path
from model.encoder import COORDINATES, Observed, check_multiple, check_probability
from model.published import PublishedModule, Source, published_blocks, same

BLOCKS = ((1, 1),) * 4 + ((2, 2), (2, 1), (2, 1)) + ((4, 2), (4, 1), (4, 1))
"""(output channels as a multiple of base_channels, stride) of l1 to l10."""


class NormedBlocksEncoder(BlockEncoder):
    """PersonNorm, a sequence of blocks, PooledClassifier; a subclass builds them."""

    classifier = "fc.linear"
    data_bn: PersonNorm
    fc: PooledClassifier

    def build_ten_blocks(
        self,
        base_channels: int,
        graph_convolution: Callable[[int, int], PublishedModule],
        temporal_module: Callable[[int, int], PublishedModule],
        dropout: float,
        persons_share_norm: bool = False,
    ) -> None:
        """The layers of the table above, with `base_channels` in l1 to l4 and a dropout before the classifier.

        Args:
            graph_convolution: (C_in, C_out) -> what mixes the joints, (n, C_in, V, T) -> (n, C_out, V, T).
            temporal_module: (C, stride) -> what mixes the frames, (n, C, V, T) -> (n, C, V, ceil(T / stride)).
            persons_share_norm: whether the persons of a clip share the statistics of the input's normalisation.
        """
        persons = 1 if persons_share_norm else self.num_persons
        self.data_bn = PersonNorm(self.in_channels, self.skeleton.num_joints, persons)
        channels = self.in_channels
        for number, (width, stride) in enumerate(BLOCKS, start=1):
            out_channels = width * base_channels
            block = ResidualBlock(
                graph_convolution(channels, out_channels),
                temporal_module(out_channels, stride),
                residual_path(channels, out_channels, stride) if number > 1 else None,
            )
            self.add_block(block, out_channels, stride)
            channels = out_channels
        self.fc = PooledClassifier(channels, self.num_classes, dropout)

    def extract_observed(self, x: Tensor, joints: Tensor, reads: frozenset[str]) -> Observed:
        return self.run(self.data_bn(x), reads)

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features)

    def published_names(self) -> dict[str, Source]:
        table = same(self.data_bn.norm, "data_bn.norm", "data_bn") | same(self.fc.linear, "fc.linear", "fc")
        return table | published_blocks(self.blocks)

    def pyskl_names(self) -> dict[str, Source]:
        """Our names -> those of PYSKL, for encoders that it trains, too."""
        table = same(self.data_bn.norm, "data_bn.norm", "backbone.data_bn")
        table |= same(self.fc.linear, "fc.linear", "cls_head.fc_cls")
        for ours, source in published_blocks(self.blocks, "backbone.gcn").items():
            names = [name.replace(".gcn1.", ".gcn.").replace(".tcn1.", ".tcn.") for name in source.names]
            table[ours] = replace(source, names=tuple(names))
        return table


class TenBlockEncoder(NormedBlocksEncoder):
    """An encoder of the table above. A subclass says what its blocks do with joints and what with frames.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        base_channels: channels of l1 to l4, a multiple of `divisor`; l5-l7 have twice, l8-l10 four times as many.
        dropout: probability before the classifier.
    """

    divisor: ClassVar[int]
    """Into how many equal parts the layers of the subclass divide the channels of a block."""

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
        check_multiple("base_channels", base_channels, self.divisor)
        check_probability("dropout", dropout)
        adjacency = torch.from_numpy(spatial_partition(skeleton))
        self.build_ten_blocks(
            base_channels,
            lambda in_channels, out_channels: self.graph_convolution(in_channels, out_channels, adjacency),
            self.temporal_module,
            dropout,
        )

    @staticmethod
    @abstractmethod
    def graph_convolution(in_channels: int, out_channels: int, adjacency: Tensor) -> PublishedModule:
        """What mixes the joints, (n, C_in, V, T) -> (n, C_out, V, T); adjacency (3, V, V) of the spatial partition."""

    @staticmethod
    @abstractmethod
    def temporal_module(channels: int, stride: int) -> PublishedModule:
        """What mixes the frames, (n, C, V, T) -> (n, C, V, ceil(T / stride))."""
