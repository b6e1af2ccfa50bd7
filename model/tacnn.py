"""Ta-CNN: Topology-aware Convolutional Neural Network (Xu et al., AAAI 2022, arXiv 2112.04178).

    layers         operations                                              channels     map for 64 frames, 25 joints
    conv1          1x1, BN, ReLU                                             3 ->  64   64 x  V = 25 x  T = 64
    coordinates    augmentation: kernel of 3 frames, 10 groups              64 ->  32   32 x  V = 25 x  T = 64
    (turned)       joints become the channels, channels the last axis                   25 x  T = 64 x  W = 32
    joints         augmentation: 3x3, 6 groups, max-pool                     V ->  32   32 x      32 x      16
    conv4          3x3, max-pool, dropout                                   32 ->  64   64 x      16 x       8
    (joined)       position stream, velocity stream                                    128 x      16 x       8
    conv5          3x3, ReLU, max-pool, dropout                            128 -> 128  128 x       8 x       4
    conv6          3x3, ReLU                                               128 -> 256  256 x  T' = 8 x  W' = 4
    classifier     max-pool, mean over the frames, flatten, maximum over the persons, dropout, linear        K

The design is HCN's, with augmentations in place of its second and third convolution. The two streams have layers of
their own up to conv4. Convolutions keep the size, pooling is 2x2 and drops an odd last row. No graph is used.

Letters: N clips, M persons, n = N * M skeletons, C channels, T frames, V joints, W = 32 point features, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton
from model.encoder import COORDINATES, Encoder, check_probability, check_window
from model.published import PublishedModule, Source, same, within

STREAMS = {"position": "net_l", "velocity": "net_m"}
"""Our names -> the published ones."""
POINT_CHANNELS = 64
POINT_FEATURES = 32
STREAM_CHANNELS = (32, 64)
UNITS = (128, 256)
GROUPS = (10, 6)
"""Of the augmentation of coordinates and of that of joints."""


class TaCNN(Encoder):
    """The encoder of the table above. It computes the velocity itself, from the stream that it is given.

    The features, (N, M, 256, T', W'), have no axis of joints: the second augmentation mixes these. CSRE's spatial
    branch contrasts units by point feature instead.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder; 16 frames at least.
        in_channels: see Encoder.
        dropout: probability of all dropout layers.
    """

    persons_apart = True

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        in_channels: int = COORDINATES,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            num_classes=num_classes,
            num_persons=num_persons,
            window=window,
            in_channels=in_channels,
        )
        check_window("Ta-CNN", window)
        check_probability("dropout", dropout)
        self.streams = nn.ModuleDict({name: Stream(self.in_channels, skeleton.num_joints, dropout) for name in STREAMS})
        self.conv5 = nn.Conv2d(len(STREAMS) * STREAM_CHANNELS[-1], UNITS[0], 3, padding=1)
        self.conv6 = nn.Conv2d(UNITS[0], UNITS[1], 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(UNITS[1] * (POINT_FEATURES // 16), num_classes)
        self._init_weights()

    def _init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(self.fc.weight, 0, 0.01)
        nn.init.zeros_(self.fc.bias)

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        return UNITS[-1], self.window // 8, POINT_FEATURES // 8

    def extract(self, x: Tensor, joints: Tensor) -> Tensor:
        position = x.permute(0, 4, 1, 3, 2).flatten(0, 1)
        given = {"position": position, "velocity": velocity_of(position)}
        joined = torch.cat([stream(given[name]) for name, stream in self.streams.items()], dim=1)
        units = self.dropout(functional.max_pool2d(functional.relu(self.conv5(joined), inplace=True), 2))
        return functional.relu(self.conv6(units), inplace=True).unflatten(0, (-1, self.num_persons))

    def classify(self, features: Tensor) -> Tensor:
        pooled = functional.max_pool2d(features.flatten(0, 1), 2).mean(dim=2).flatten(1)
        return self.fc(self.dropout(pooled.unflatten(0, features.shape[:2]).amax(dim=1)))

    def published_names(self) -> dict[str, Source]:
        table = same(self.fc, "fc", "cls_head.fc")
        for layer in ("conv5", "conv6"):
            table |= same(self.get_submodule(layer), layer, f"backbone.{layer}.0")
        for name, stream in self.streams.items():
            assert isinstance(stream, Stream)
            table |= within(f"streams.{name}", f"backbone.{STREAMS[name]}", stream.published_names())
        return table


def velocity_of(position: Tensor) -> Tensor:
    """Each frame minus the one before, zero in the first; (n, C, V, T) -> (n, C, V, T)."""
    return functional.pad(position.diff(dim=-1), (1, 0))


class Stream(PublishedModule):
    """conv1 to conv4; (n, C, V, T) -> (n, 64, T / 4, W / 4)."""

    def __init__(self, in_channels: int, num_joints: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, POINT_CHANNELS, 1, bias=False)
        self.bn = nn.BatchNorm2d(POINT_CHANNELS)
        self.coordinates = Augmentation(POINT_CHANNELS, POINT_FEATURES, GROUPS[0], (1, 3))
        self.joints = Augmentation(num_joints, STREAM_CHANNELS[0], GROUPS[1], (3, 3))
        self.conv4 = nn.Conv2d(*STREAM_CHANNELS, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        # Few channels and small maps: with the channels innermost in memory, here and after the turn, a training step
        # takes four fifths of the time.
        x = x.contiguous(memory_format=torch.channels_last)
        points = self.coordinates(functional.relu(self.bn(self.conv1(x)), inplace=True))
        turned = points.permute(0, 2, 3, 1).contiguous(memory_format=torch.channels_last)
        mixed = functional.max_pool2d(self.joints(turned), 2)
        return self.dropout(functional.max_pool2d(self.conv4(mixed), 2))

    def published_names(self) -> dict[str, Source]:
        table = same(self.conv1, "conv1", "0.0") | same(self.bn, "bn", "0.1") | same(self.conv4, "conv4", "6")
        table |= within("coordinates", "2", self.coordinates.published_names())
        return table | within("joints", "4", self.joints.published_names())


class Augmentation(PublishedModule):
    """Map, attend, group, map; (n, C_in, H, W) -> (n, C_out, H, W).

        a      = ReLU( 1x1 convolution of x )                           I channels, the most up to C_out that g divides
        a      = a * sigmoid( 1x1( ReLU( 1x1 of the mean of a ) ) )     a gate per skeleton and channel
        b      = ReLU( convolution of a in g groups ) + ReLU( 1x1 convolution of a in g / 2 groups )
        output = ReLU( 1x1 convolution of b )

    No convolution has a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        inner = out_channels // groups * groups
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.enter = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.squeeze = nn.Conv2d(inner, inner, 1, bias=False)
        self.excite = nn.Conv2d(inner, inner, 1, bias=False)
        self.wide = nn.Conv2d(inner, inner, kernel, padding=padding, groups=groups, bias=False)
        self.narrow = nn.Conv2d(inner, inner, 1, groups=groups // 2, bias=False)
        self.leave = nn.Conv2d(inner, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        entered = functional.relu(self.enter(x), inplace=True)
        squeezed = functional.relu(self.squeeze(entered.mean(dim=(2, 3), keepdim=True)), inplace=True)
        gated = entered * self.excite(squeezed).sigmoid()
        grouped = functional.relu(self.wide(gated), inplace=True) + functional.relu(self.narrow(gated), inplace=True)
        return functional.relu(self.leave(grouped), inplace=True)

    def published_names(self) -> dict[str, Source]:
        names = {"enter": "map1", "squeeze": "attend.fc1", "excite": "attend.fc2", "wide": "group.conv1"}
        names |= {"narrow": "group.conv2", "leave": "map2"}
        table: dict[str, Source] = {}
        for ours, published in names.items():
            table |= same(self.get_submodule(ours), ours, published)
        return table
