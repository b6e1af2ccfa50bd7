"""HCN: Hierarchical Co-occurrence Network (Li et al., IJCAI 2018, arXiv 1804.06055).

    layers         operations                                                  channels     map for 32 frames, 25 joints
    conv1          1x1, ReLU                                                     3 ->  64   64 x  V = 25 x  T = 32
    conv2          3 frames                                                     64 ->   W   32 x  V = 25 x  T = 32
    (turned)       joints become the channels, channels the last axis                       25 x  T = 32 x  W = 32
    conv3          3x3, max-pool                                                 V ->  32   32 x      16 x      16
    conv4          3x3, channel dropout, max-pool                               32 ->  64   64 x       8 x       8
    (joined)       position stream, motion stream                                          128 x       8 x       8
    conv5          3x3, ReLU, channel dropout, max-pool                        128 -> 128  128 x       4 x       4
    conv6          3x3, ReLU                                                   128 -> 256  256 x  T' = 4 x  W' = 4
    (merged)       maximum over the persons                                                the features, X
    classifier     channel dropout, max-pool, flatten, linear, ReLU, dropout, linear        512, then K

Two streams, of the positions and of their motion, have conv1 to conv4 of their own. Convolutions keep the size, pooling
is 2x2 and drops an odd last row. There is no normalisation and no graph. W is the number of frames: the paper's design
ties the width of conv2, and with it the last axis of all later maps, to the window.

Letters: N clips, M persons, n = N * M skeletons, C channels, T frames, V joints, W = T point features, K classes.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton
from model.encoder import COORDINATES, Encoder, check_choice, check_positive, check_probability, check_window
from model.published import Source, same

FeatureMap = Literal["units", "joints"]

STREAMS = ("position", "motion")
POINT_CHANNELS = 64
STREAM_CHANNELS = (32, 64)
UNITS = (128, 256)

PUBLISHED_LAYERS = {
    "points.position.conv1": "conv1.0",
    "points.position.conv2": "conv2",
    "points.motion.conv1": "conv1m.0",
    "points.motion.conv2": "conv2m",
    "cooccurrence.position.conv3": "conv3.0",
    "cooccurrence.position.conv4": "conv4.0",
    "cooccurrence.motion.conv3": "conv3m.0",
    "cooccurrence.motion.conv4": "conv4m.0",
    "aggregation.conv5": "conv5.0",
    "aggregation.conv6": "conv6.0",
    "fc.hidden": "fc7.0",
    "fc.output": "fc8",
}
"""Our layers -> the published ones."""


class HCN(Encoder):
    """The encoder of the table above. It computes the motion itself, from the stream that it is given.

    What CSRE contrasts is up to `feature_map`:

    - `units`: the features of the table, (N, 1, 256, T', W'). They have no axis of joints: conv3 mixes these. CSRE's
      spatial branch contrasts co-occurrence units by point feature instead (axis W'), with the whole network behind
      them.
    - `joints`: conv2 of both streams, (N, M, 2 W, T, V), position before motion. "Spatial" then means joints, but the
      contrast reaches conv1 and conv2 alone, and no joint has seen another.

    The logits are those of the published network with either. In training, the channel dropout after conv6 falls on
    the merged map; the published one draws for each person before they are merged.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder; 16 frames at least.
        in_channels: see Encoder.
        feature_map: `units` or `joints`.
        hidden: width of the classifier's hidden layer; 256 in older published weights.
        dropout: probability of all dropout layers.
    """

    classifier = "fc.output"
    persons_apart = True

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        in_channels: int = COORDINATES,
        feature_map: FeatureMap = "units",
        hidden: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            num_classes=num_classes,
            num_persons=num_persons,
            window=window,
            in_channels=in_channels,
        )
        check_window("HCN", window)
        check_choice("feature_map", feature_map, get_args(FeatureMap))
        check_positive("hidden", hidden)
        check_probability("dropout", dropout)
        self.feature_map = feature_map
        self.points = nn.ModuleDict({stream: PointFeatures(in_channels, window) for stream in STREAMS})
        self.cooccurrence = nn.ModuleDict({stream: Cooccurrence(skeleton.num_joints, dropout) for stream in STREAMS})
        self.aggregation = Aggregation(dropout)
        pooled = window // 16
        self.fc = UnitClassifier(UNITS[-1] * pooled * pooled, hidden, num_classes, dropout)
        self._init_weights()

    def _init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        if self.feature_map == "joints":
            return 2 * self.window, self.window, self.skeleton.num_joints
        return UNITS[-1], self.window // 8, self.window // 8

    def extract(self, x: Tensor, joints: Tensor) -> Tensor:
        position = x.permute(0, 4, 1, 3, 2).flatten(0, 1)
        streams = {"position": position, "motion": motion_of(position)}
        points = [layers(streams[name]) for name, layers in self.points.items()]
        if self.feature_map == "joints":
            return torch.cat(points, dim=1).unflatten(0, (-1, self.num_persons)).transpose(-1, -2)
        return self._units(points)

    def classify(self, features: Tensor) -> Tensor:
        if self.feature_map == "joints":
            features = self._units(list(features.transpose(-1, -2).flatten(0, 1).chunk(2, dim=1)))
        return self.fc(features)

    def _units(self, points: list[Tensor]) -> Tensor:
        """The merged map (N, 1, 256, T', W') of the point features (n, W, V, T) of both streams."""
        streams = [layers(part) for layers, part in zip(self.cooccurrence.values(), points, strict=True)]
        persons = self.aggregation(torch.cat(streams, dim=1)).unflatten(0, (-1, self.num_persons))
        return persons.amax(dim=1, keepdim=True)

    def join_persons(self, maps: Tensor) -> Tensor:
        return maps if self.feature_map == "joints" else maps.amax(dim=1, keepdim=True)

    def published_names(self) -> dict[str, Source]:
        table: dict[str, Source] = {}
        for ours, published in PUBLISHED_LAYERS.items():
            table |= same(self.get_submodule(ours), ours, published)
        return table


def motion_of(position: Tensor) -> Tensor:
    """Differences of successive frames, stretched back to T frames; (n, C, V, T) -> (n, C, V, T).

    Between the T - 1 differences it interpolates linearly, frames and differences taken as intervals of equal length
    that cover the same time.
    """
    return functional.interpolate(position.diff(dim=-1), size=position.shape[-2:], mode="bilinear")


class PointFeatures(nn.Module):
    """conv1 and conv2, which see each joint by itself; (n, C, V, T) -> (n, W, V, T)."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, POINT_CHANNELS, 1)
        self.conv2 = nn.Conv2d(POINT_CHANNELS, width, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        # Few channels and small maps: with the channels innermost in memory, here and from conv3 on, a training step
        # takes three quarters of the time.
        x = x.contiguous(memory_format=torch.channels_last)
        return self.conv2(functional.relu(self.conv1(x), inplace=True))


class Cooccurrence(nn.Module):
    """conv3 and conv4, which mix all joints as channels; (n, W, V, T) -> (n, 64, T / 4, W / 4)."""

    def __init__(self, num_joints: int, dropout: float) -> None:
        super().__init__()
        first, second = STREAM_CHANNELS
        self.conv3 = nn.Conv2d(num_joints, first, 3, padding=1)
        self.conv4 = nn.Conv2d(first, second, 3, padding=1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, points: Tensor) -> Tensor:
        turned = points.permute(0, 2, 3, 1).contiguous(memory_format=torch.channels_last)
        mixed = functional.max_pool2d(self.conv3(turned), 2)
        return functional.max_pool2d(self.dropout(self.conv4(mixed)), 2)


class Aggregation(nn.Module):
    """conv5 and conv6, which see both streams; (n, 128, T / 4, W / 4) -> (n, 256, T / 8, W / 8)."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        first, second = UNITS
        self.conv5 = nn.Conv2d(len(STREAMS) * STREAM_CHANNELS[-1], first, 3, padding=1)
        self.conv6 = nn.Conv2d(first, second, 3, padding=1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, streams: Tensor) -> Tensor:
        units = functional.max_pool2d(self.dropout(functional.relu(self.conv5(streams))), 2)
        return functional.relu(self.conv6(units))


class UnitClassifier(nn.Module):
    """The layers after the merged map, which depend on position; (N, 1, 256, T', W') -> (N, K)."""

    def __init__(self, in_features: int, hidden: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.channel_dropout = nn.Dropout2d(dropout)
        self.hidden = nn.Linear(in_features, hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, units: Tensor) -> Tensor:
        pooled = functional.max_pool2d(self.channel_dropout(units.squeeze(1)), 2)
        return self.output(self.dropout(functional.relu(self.hidden(pooled.flatten(1)))))
