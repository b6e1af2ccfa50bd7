"""What the graph encoders have in common: blocks in a row, whose maps and relations between joints training heads read.

Letters: N clips, M persons, n = N * M skeletons, C channels, T frames, V joints, S subsets or heads; b images of H
rows, see model.blocks.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from model.blocks import skeleton_maps
from model.encoder import Encoder, Observed
from model.published import PublishedModule


class BlockEncoder(Encoder):
    """An encoder of blocks l1, l2, ... of which two halve the frames; a subclass builds them with `add_block`.

    It shows four stages: the maps of the first block, of the two with a stride, and of the last.
    """

    persons_apart = True
    blocks: nn.ModuleDict
    """By their published names; each takes and gives images, (b, C_in, H, T) -> (b, C_out, H, ceil(T / stride))."""
    relation_subsets: ClassVar[int | None] = None
    """S of the relations between joints; None: this encoder has none."""
    relation_layer: ClassVar[str] = "gcn"
    """The layer of a block whose `relations` gives them: (n, S, V, V), from what the block reads."""
    _shapes: dict[str, tuple[int, int, int]]
    _stages: dict[str, str]
    _sums: dict[str, str]

    def add_block(self, block: PublishedModule, channels: int, stride: int, also_reads: str | None = None) -> None:
        """Append a block with that many output channels; `also_reads` names an earlier one whose output is added to
        that of the block before."""
        if not hasattr(self, "blocks"):
            self.blocks, self._shapes, self._stages, self._sums = nn.ModuleDict(), {}, {}, {}
        frames = self._last_shape[1] if self._shapes else self.window
        name = f"l{len(self.blocks) + 1}"
        self.blocks[name] = block
        if also_reads is not None:
            self._sums[name] = also_reads
        self._shapes[name] = (channels, math.ceil(frames / stride), self.skeleton.num_joints)
        if not self._stages:
            self._stages["low"] = name
        elif stride > 1:
            self._stages["high" if "mid" in self._stages else "mid"] = name

    @property
    def _last_shape(self) -> tuple[int, int, int]:
        return next(reversed(self._shapes.values()))

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        return self._last_shape

    @property
    def stage_shapes(self) -> Mapping[str, tuple[int, int, int]]:
        return {name: self._shapes[block] for name, block in self._stages.items()} | {"fin": self._last_shape}

    @property
    def relation_shape(self) -> tuple[int, int, int] | None:
        joints = self.skeleton.num_joints
        return None if self.relation_subsets is None else (self.relation_subsets, joints, joints)

    @abstractmethod
    def extract_observed(self, x: Tensor, joints: Tensor, reads: frozenset[str]) -> Observed:
        """As `observe`, of checked clips; a subclass makes the images that its first block reads and calls `run`."""

    def extract(self, x: Tensor, joints: Tensor) -> Tensor:
        return self.extract_observed(x, joints, frozenset()).features

    def run(self, images: Tensor, reads: frozenset[str], terms: Mapping[str, Tensor] | None = None) -> Observed:
        """All blocks in a row, and what of them is read.

        Args:
            images: (b, C, H, T), what the first block reads.
            reads: see `observe`.
            terms: by the names of blocks, what is added to their inputs.
        """
        stages: dict[str, Tensor] = {}
        relations = None
        num_skeletons = images.shape[0] * images.shape[2] // self.skeleton.num_joints
        stage_of = {block: stage for stage, block in self._stages.items()} if "stages" in reads else {}
        last = next(reversed(self._shapes))
        outputs: dict[str, Tensor] = {}
        for name, block in self.blocks.items():
            if terms is not None:
                images = images + terms[name]
            if name in self._sums:
                images = images + outputs.pop(self._sums[name])
            if name == last and "relations" in reads:
                of_skeletons = getattr(block, self.relation_layer).relations(images)
                relations = of_skeletons.unflatten(0, (-1, self.num_persons)).mean(dim=1)
            images = block(images)
            if name in self._sums.values():
                outputs[name] = images
            if name in stage_of:
                stages[stage_of[name]] = self._by_person(images, num_skeletons)
        features = self._by_person(images, num_skeletons)
        if "stages" in reads:
            stages["fin"] = features
        return Observed(features, stages, relations)

    def _by_person(self, images: Tensor, num_skeletons: int) -> Tensor:
        """(b, C, H, T) -> (N, M, C, T, V)."""
        return skeleton_maps(images, num_skeletons).unflatten(0, (-1, self.num_persons)).transpose(-1, -2)
