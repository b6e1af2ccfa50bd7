"""DC-GCN with ADG: Decoupling GCN with DropGraph Module (Cheng et al., ECCV 2020).

    block   C_in -> C_out   stride   residual of the block   down of the graph convolution   drops
    l1          3 ->  64      1      none                    1x1 convolution + BN            no
    l2-l4      64 ->  64      1      identity                identity                        no
    l5         64 -> 128      2      1x1 convolution + BN    1x1 convolution + BN            no
    l6        128 -> 128      1      identity                identity                        no
    l7        128 -> 128      1      identity                identity                        yes
    l8        128 -> 256      2      1x1 convolution + BN    1x1 convolution + BN            yes
    l9-l10    256 -> 256      1      identity                identity                        yes

    clips (N, 3, T, V, M) -> PersonNorm -> l1 ... l10 -> features (N, M, 256, T / 4, V) -> PooledClassifier -> (N, K)
    block(x) = ReLU( drop( TemporalConvolution( DecoupledGraphConvolution(x) ) ) + drop( residual(x) ) ), over 9 frames

Letters: n skeletons, C channels, G groups of channels, V joints, T frames, K classes; k one of the three subsets (self,
inward, outward) of the graph; v the source joint, w the target joint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton, spatial_partition
from graph.reader import built_in_name
from model.blocks import ResidualBlock, TemporalConvolution, published_down, residual_path
from model.draws import Draws
from model.drop_graph import DropGraph
from model.encoder import COORDINATES, check_multiple, check_positive, check_probability
from model.errors import EncoderError
from model.published import PublishedModule, Source, same
from model.ten_blocks import NormedBlocksEncoder

SUBSETS = 3
KERNEL_FRAMES = 9
COLUMN_OFFSET = 1e-3
"""Added to the sums of the topologies' columns."""
DROPPING = ("l7", "l8", "l9", "l10")


class DCGCN(NormedBlocksEncoder):
    """The encoder of the table above.

    In a training run the drops begin at nothing and grow evenly, epoch by epoch, to 1 - keep_rate at the end, and the
    topologies stay as the graph in the first epoch. In your own training loop `begin_step` does that; without it the
    rate of the drops is 1 - keep_rate throughout.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        base_channels: channels of l1 to l4, a multiple of `groups`; l5-l7 have twice, l8-l10 four times as many.
        groups: topologies per subset. Channel c has number c mod groups.
        keep_rate: 1 minus the rate of the drops at the end of the training, above 0 and at most 1.
        block_size: frames that a drop in time spans, an odd number.
        main_block_size: the same for the drops after the temporal convolution; None: as `block_size`. (The published
            code has 41 there whatever it is told.)
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
        groups: int = 16,
        keep_rate: float = 0.9,
        block_size: int = 9,
        main_block_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            num_classes=num_classes,
            num_persons=num_persons,
            window=window,
            in_channels=in_channels,
        )
        check_positive("groups", groups)
        check_multiple("base_channels", base_channels, groups)
        check_probability("dropout", dropout)
        if isinstance(keep_rate, bool) or not isinstance(keep_rate, int | float) or not 0 < keep_rate <= 1:
            raise EncoderError(f"keep_rate: must be a probability in (0, 1], got {keep_rate!r}")
        main_block_size = block_size if main_block_size is None else main_block_size
        for name, size in (("block_size", block_size), ("main_block_size", main_block_size)):
            check_positive(name, size)
            if size % 2 == 0:
                raise EncoderError(f"{name}: must be odd, so that a drop reaches equally far both ways, got {size}")
        self.keep_rate = keep_rate
        self._topology_waits = False
        # The published edges of NW-UCLA hold the root as its own child.
        adjacency = torch.from_numpy(spatial_partition(skeleton, rooted=built_in_name(skeleton) == "nw-ucla"))
        self._neighbours = adjacency.sum(dim=0)
        self.build_ten_blocks(
            base_channels,
            lambda channels, out_channels: DecoupledGraphConvolution(channels, out_channels, adjacency, groups),
            lambda channels, stride: TemporalConvolution(channels, channels, KERNEL_FRAMES, stride),
            dropout,
        )
        for name in DROPPING:
            block = self.get_submodule(f"blocks.{name}")
            assert isinstance(block, ResidualBlock)
            block.main_drop = DropGraph(self._neighbours, main_block_size, 1 - keep_rate)
            block.skip_drop = DropGraph(self._neighbours, block_size, 1 - keep_rate)

    def begin_step(self, epoch: int, epochs: int, draws: Draws) -> None:
        super().begin_step(epoch, epochs, draws)
        self._topology_waits = epoch == 1
        for module in self.modules():
            if isinstance(module, DropGraph):
                module.drop_rate.fill_((1 - self.keep_rate) * min(1.0, (epoch - 1) / epochs))

    def edit_gradients(self) -> None:
        """In the first epoch the topologies get no gradient, and no weight decay."""
        if self._topology_waits:
            for block in self.blocks.values():
                block.get_parameter("gcn.topology").grad = None

    def published_names(self) -> dict[str, Source]:
        table = super().published_names()
        # The published blocks keep the sum of the graph's matrices, which tells their drops who is whose neighbour.
        return table | {f"blocks.{name}.A": Source((f"{name}.A",), constant=self._neighbours) for name in self.blocks}


class DecoupledGraphConvolution(PublishedModule):
    """The three subsets and all groups at once; (n, C_in, V, T) -> (n, C_out, V, T).

        D_k[g]  = topology_k[g] / (sums of its columns + 0.001)                           (V, V) for each of G groups
        F_k     = BN of 1x1 convolution_k of x                                            (n, C_out, V, T)
        output  = ReLU( BN( Σ_k Σ_v D_k[c mod G][v, w] F_k[c, v] ) + down(x) )            for channel c

    The topology starts as the graph in all groups, and is free afterwards. The convolutions are one layer, which holds
    channel c of subset k at c * 3 + k: the source joints of all subsets of a channel then lie side by side, and the
    double sum is one matrix product per skeleton and channel.
    """

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor, groups: int) -> None:
        super().__init__()
        self.topology = nn.Parameter(adjacency[:, None].repeat(1, groups, 1, 1))
        self.transform = nn.Conv2d(in_channels, SUBSETS * out_channels, 1)
        self.transform_bn = nn.BatchNorm2d(SUBSETS * out_channels)
        self.bn = nn.BatchNorm2d(out_channels)
        self.down = residual_path(in_channels, out_channels)
        nn.init.normal_(self.transform.weight, 0, math.sqrt(0.5 / (SUBSETS * out_channels)))
        assert self.transform.bias is not None
        nn.init.constant_(self.transform.bias, 1e-6)
        # The graph starts switched off: at first a block passes `down(x)` on.
        nn.init.constant_(self.bn.weight, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        num_skeletons, _, joints, frames = x.shape
        channels, groups = self.bn.num_features, self.topology.shape[1]
        transformed = self.transform_bn(self.transform(x))
        columns = self.topology / (self.topology.sum(dim=2, keepdim=True) + COLUMN_OFFSET)
        mixing = columns.permute(1, 3, 0, 2).reshape(groups, joints, SUBSETS * joints)  # rows w, columns k * V + v
        sources = transformed.reshape(num_skeletons, channels, SUBSETS * joints, frames)
        mixed = torch.matmul(mixing.repeat(channels // groups, 1, 1), sources)
        return functional.relu(self.bn(mixed) + self.down(x), inplace=True)

    def published_names(self) -> dict[str, Source]:
        in_channels, channels = self.transform.in_channels, self.bn.num_features
        groups_of_ones = torch.eye(self.topology.shape[-1]).expand(channels, -1, -1)
        table = {
            "topology": Source(("DecoupleA",)),
            "identities": Source(("eyes",), constant=groups_of_ones),
            "transform.weight": Source(
                ("Linear_weight",), lambda parts: _interleaved(parts[0].T), ((in_channels, SUBSETS * channels),)
            ),
            "transform.bias": Source(
                ("Linear_bias",), lambda parts: _interleaved(parts[0].flatten()), ((1, SUBSETS * channels, 1, 1),)
            ),
        }
        table |= {
            name: Source(source.names, lambda parts: _interleaved(parts[0]) if parts[0].ndim else parts[0])
            for name, source in same(self.transform_bn, "transform_bn", "bn0").items()
        }
        return table | same(self.bn, "bn", "bn") | published_down(self.down)


def _interleaved(rows: Tensor) -> Tensor:
    """Row k * C + c becomes row c * 3 + k; (3 * C, ...) -> (3 * C, ...)."""
    return rows.unflatten(0, (SUBSETS, -1)).transpose(0, 1).flatten(0, 1)
