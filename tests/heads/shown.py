"""An encoder that shows stages and relations of any shape, computed of its clips in the simplest way."""

from __future__ import annotations

import torch
from torch import nn

from graph import get_skeleton
from model.encoder import Observed
from tests.engine.tiny import TinyEncoder

STAGES = ("low", "mid", "high", "fin")


class ShowingEncoder(TinyEncoder):
    """Four stages, each a convolution of the last; relations, products of the joints' features."""

    def __init__(self, *, relation_shape=None, **options) -> None:
        super().__init__(**options)
        channels, frames, joints = self._shape
        self.stages = nn.ModuleDict({name: nn.Conv2d(channels, channels, 1) for name in STAGES})
        self._relation_shape = relation_shape or (2, joints, joints)
        self._stage_shapes = dict.fromkeys(STAGES, (channels, frames, joints))

    @classmethod
    def of(cls, num_classes=4, window=8, **options) -> ShowingEncoder:
        """One for NW-UCLA's skeleton."""
        return cls(skeleton=get_skeleton("nw-ucla"), num_classes=num_classes, num_persons=1, window=window, **options)

    @property
    def stage_shapes(self):
        return self._stage_shapes

    @property
    def relation_shape(self):
        return self._relation_shape

    def extract_observed(self, x, joints, reads):
        features = self.extract(x, joints)
        maps, stages = features.flatten(0, 1), {}
        for name, convolution in self.stages.items():
            maps = convolution(maps).relu()
            stages[name] = maps.unflatten(0, features.shape[:2])
        pooled = features.mean(dim=(1, 3))
        relations = torch.einsum("ncu,ncv->nuv", pooled, pooled.cumsum(dim=1))
        return Observed(
            features,
            stages if "stages" in reads else {},
            relations[:, None].repeat(1, 2, 1, 1) if "relations" in reads else None,
        )
