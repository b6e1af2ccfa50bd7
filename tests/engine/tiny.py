"""The smallest encoder that learns, for tests of everything around it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from graph import Skeleton
from model.drop_graph import DropGraph
from model.dropout import DropPath
from model.encoder import Encoder


class TinyEncoder(Encoder):
    """One convolution over frames; pooling and a linear layer."""

    classifier = "linear"

    def __init__(
        self, *, skeleton: Skeleton, num_classes: int, num_persons: int, window: int, channels: int = 8
    ) -> None:
        super().__init__(skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window)
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, channels, kernel_size=(3, 1), padding=(1, 0), stride=(2, 1))
        self.linear = nn.Linear(channels, num_classes)
        self._shape = (channels, (window + 1) // 2, skeleton.num_joints)

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        return self._shape

    def extract(self, x: Tensor, joints: Tensor) -> Tensor:
        persons = x.permute(0, 4, 1, 2, 3)
        return self.conv(self.norm(persons.flatten(0, 1))).relu().unflatten(0, persons.shape[:2])

    def classify(self, features: Tensor) -> Tensor:
        return self.linear(features.mean(dim=(1, 3, 4)))


class DroppingEncoder(TinyEncoder):
    """Drops a path, joints and frames in training."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.drop_path = DropPath(0.3)
        self.drop_graph = DropGraph(torch.eye(self.skeleton.num_joints), block_size=3, rate=0.5)

    def extract(self, x: Tensor, joints: Tensor) -> Tensor:
        features = super().extract(x, joints)
        maps = features.flatten(0, 1).transpose(-1, -2)
        return self.drop_graph(maps + self.drop_path(maps)).transpose(-1, -2).view_as(features)


class PoisonedEncoder(TinyEncoder):
    """Its logits become NaN in given training steps of the last rank."""

    def __init__(self, *, poisoned: list[int], **options: Any) -> None:
        super().__init__(**options)
        self.poisoned, self.steps = poisoned, 0

    def classify(self, features: Tensor) -> Tensor:
        self.steps += self.training
        last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1
        spoil = self.training and last and self.steps in self.poisoned
        return super().classify(features) * (torch.nan if spoil else 1.0)


class HungryEncoder(TinyEncoder):
    """No batch fits into memory, in training or in tests."""

    def __init__(self, *, in_training: bool, **options: Any) -> None:
        super().__init__(**options)
        self.in_training = in_training

    def extract(self, x: Tensor, joints: Tensor) -> Tensor:
        if self.training == self.in_training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. Try")
        return super().extract(x, joints)
