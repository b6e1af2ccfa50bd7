"""The contract that every encoder keeps.

Letters: N clips, C coordinates, T frames (the window), V joints, M persons, K classes; C', T', V' the same axes of the
last feature map (V' counts joints in a graph encoder; another encoder may have another axis there). The map of an
encoder that merges the persons itself has M = 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from common.words import did_you_mean
from graph import Skeleton
from model.draws import Draws, RandomLayer
from model.errors import EncoderError
from model.published import Source

COORDINATES = 3
SHORTEST_WINDOW = 16
"""Of encoders that halve the frames four times, which leaves one of it."""


class Observed(NamedTuple):
    """What an encoder shows of a batch of clips, all with gradient; `stages` and `relations` only where asked for.

    features: (N, M, C', T', V'), the last map.
    stages: maps within the encoder by the name of their depth, shallow to deep: (N, M, C, T, V) each, after the
        activation that ends their block. The four of a graph encoder are "low" (first block), "mid" and "high" (the
        blocks that halve the frames) and "fin" (the last block).
    relations: (N, S, V, V), how the joints of each clip relate to each other in the last block, in S subsets, the
        mean over the persons, absent ones included; before anything that all clips share is added.
    """

    features: Tensor
    stages: Mapping[str, Tensor]
    relations: Tensor | None


class Encoder(nn.Module, ABC):
    """A classifier of skeleton clips that shows its last spatio-temporal feature map.

    A subclass builds its layers, states its `feature_shape`, and writes `extract` (from clips to the feature map) and
    `classify` (from there to logits). What its constructor takes beyond the first four arguments below are its options.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: C, numbers per joint: x, y and z, or x, y and confidence in 2-D clips; 2 for x and y alone.

    Raises EncoderError for an argument of the wrong type or out of range.
    """

    classifier: ClassVar[str] = "fc"
    """The layer whose rows are the classes, by its name in the state dict."""

    persons_apart: ClassVar[bool] = False
    """Whether in evaluation the map of a person depends on this person alone, and on its place among the persons in no
    layer but `model.blocks.PersonNorm`. Tests then compute absent persons once (`model/evaluation.py`)."""

    frame_multiple: ClassVar[int] = 1
    """The window must be a multiple of so many frames."""

    label_smoothing: float = 0.0
    """Smoothing of the labels in the cross entropy that the encoder trains with, in [0, 1). Part of its recipe."""

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        in_channels: int = COORDINATES,
    ) -> None:
        super().__init__()
        if not isinstance(skeleton, Skeleton):
            raise EncoderError(f"skeleton: {skeleton!r} is not a graph.Skeleton; make one with get_skeleton")
        sizes = {"num_classes": num_classes, "num_persons": num_persons, "window": window, "in_channels": in_channels}
        for name, value in sizes.items():
            check_positive(name, value)
        if window % self.frame_multiple:
            multiple = self.frame_multiple
            raise EncoderError(
                f"window: {type(self).__name__} takes clips of a multiple of {multiple} frames, got {window}; set "
                f"data.window to {-(-window // multiple) * multiple}"
            )
        self.skeleton = skeleton
        self.num_classes = num_classes
        self.num_persons = num_persons
        self.window = window
        self.in_channels = in_channels

    @property
    @abstractmethod
    def feature_shape(self) -> tuple[int, int, int]:
        """(C', T', V') of the map that `features` returns."""

    @abstractmethod
    def extract(self, x: Tensor, joints: Tensor) -> Tensor:
        """The feature map (N, M, C', T', V') of checked clips; arguments as in `features`, but joints always given."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of feature maps (N, M, C', T', V')."""

    @property
    def stage_shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """(C, T, V) of every map of `Observed.stages`, by name, shallow to deep; empty: the encoder shows none."""
        return {}

    @property
    def relation_shape(self) -> tuple[int, int, int] | None:
        """(S, V, V) of `Observed.relations`; None: the encoder shows none."""
        return None

    @property
    def shows(self) -> frozenset[str]:
        """What `observe` can be asked for: "features", and "stages" and "relations" where the encoder has them."""
        extra = {"stages": bool(self.stage_shapes), "relations": self.relation_shape is not None}
        return frozenset({"features"} | {name for name, shown in extra.items() if shown})

    def join_persons(self, maps: Tensor) -> Tensor:
        """The features of clips from those of their persons, each computed as a clip of its own: (N, M, C', T', V')."""
        return maps

    def own_losses(self, labels: Tensor) -> dict[str, Tensor]:
        """The encoder's own losses, to be added to the cross entropy; most encoders have none.

        A training step asks for them once, after the forward pass (in training mode) of the clips that it trains on:

            logits = encoder(x)
            loss = cross_entropy(logits, labels, label_smoothing=encoder.label_smoothing)
            loss = loss + sum(encoder.own_losses(labels).values())

        Args:
            labels: (N,) int64, the classes of these clips.

        Returns:
            Name -> scalar, weighted already.
        """
        return {}

    def weight_decay_factors(self) -> Mapping[str, float]:
        """Factors on the weight decay, by the names of parameters; those that are not named have 1."""
        return {}

    def begin_step(self, epoch: int, epochs: int, draws: Draws) -> None:
        """Prepare a training step; a training run calls it before the step's forward pass.

        Args:
            epoch: the epoch that it belongs to, from 1, of `epochs`.
            draws: the step's random numbers, for RandomLayers; torch's own dropout does not draw from them.
        """
        layers = [module for module in self.modules() if isinstance(module, RandomLayer)]
        for number, layer in enumerate(layers):
            layer.draws, layer.number = draws, number

    def edit_gradients(self) -> None:
        """Change gradients where the recipe says so; most encoders leave them as they are.

        A training step calls it once, right before the optimiser's: gradients are then unscaled, the mean over all
        processes, and clipped.
        """

    def published_names(self) -> Mapping[str, Source]:
        """Our state-dict names -> the published ones, for `load_published_weights`.

        Raises EncoderError where no published weights are known.
        """
        raise EncoderError(f"{type(self).__name__} knows no published weights; it has no table of published names")

    def published_tables(self) -> Sequence[Mapping[str, Source]]:
        """`published_names`, then those of other codes that publish weights of this encoder."""
        return [self.published_names()]

    def published_aliases(self) -> Mapping[str, str]:
        """Further published names of tensors that are published twice -> the names in `published_names`."""
        return {}

    def features(self, x: Tensor, joints: Tensor | None = None) -> Tensor:
        """The last feature map per person, before pooling (the paper's X): (N, M, C', T', V').

        Args:
            x: (N, C, T, V, M), float, of the stream that the encoder works on; absent persons are zero.
            joints: the raw joints of the same clips, same shape, for encoders that read them beside the stream; None
                means x.

        Raises EncoderError when a shape is not the one that the encoder was built for.
        """
        return self._as_stated(self.extract(*self._checked(x, joints)))

    def observe(self, x: Tensor, joints: Tensor | None = None, reads: Collection[str] = ("features",)) -> Observed:
        """What a training head reads, from one pass; x and joints as in `features`.

        Args:
            reads: some of `shows`. The features always come, for `classify`; the others only where asked for.

        Raises EncoderError for something that the encoder does not show, or a wrong shape.
        """
        for name in sorted(set(reads) - self.shows):
            raise EncoderError(
                f"{type(self).__name__} shows no {name}, only {', '.join(sorted(self.shows))}; use another encoder, or "
                "a head that reads these"
            )
        x, joints = self._checked(x, joints)
        observed = self.extract_observed(x, joints, frozenset(reads))
        self._as_stated(observed.features)
        return observed

    def extract_observed(self, x: Tensor, joints: Tensor, reads: frozenset[str]) -> Observed:
        """As `observe`, of checked clips; an encoder that shows more than its features overrides it."""
        return Observed(self.extract(x, joints), {}, None)

    def forward(self, x: Tensor, joints: Tensor | None = None) -> Tensor:
        """Logits (N, K), float; arguments as in `features`."""
        return self.classify(self.features(x, joints))

    def _as_stated(self, features: Tensor) -> Tensor:
        """The features, if they have the shape that the encoder states."""
        if features.ndim != 5 or features.shape[2:] != tuple(self.feature_shape):
            raise EncoderError(
                f"{type(self).__name__}: feature_shape says (C', T', V') = {tuple(self.feature_shape)}, extract "
                f"gives (N, M, C', T', V') = {tuple(features.shape)}; correct one of them"
            )
        return features

    def _checked(self, x: Tensor, joints: Tensor | None) -> tuple[Tensor, Tensor]:
        """The clips of both arguments, checked; x in the place of absent joints."""
        self._check_clips("x", x)
        if joints is None:
            return x, x
        self._check_clips("joints", joints)
        return x, joints

    def _check_clips(self, name: str, clips: Tensor) -> None:
        expected = (self.in_channels, self.window, self.skeleton.num_joints, self.num_persons)
        if clips.shape[1:] != expected or clips.ndim != 5:
            axes = ("channels (in_channels)", "frames (window)", "joints", "persons (num_persons)")
            wrong = [
                f"{given} {axis} instead of {needed}"
                for axis, given, needed in zip(axes, clips.shape[1:], expected, strict=False)
                if given != needed and clips.ndim == 5
            ]
            raise EncoderError(
                f"{type(self).__name__}: {name} has shape {tuple(clips.shape)}, expected (N, C, T, V, M) = "
                f"(N, {', '.join(map(str, expected))}){': ' if wrong else ''}{', '.join(wrong)}"
            )
        if clips.shape[0] == 0:  # len() would fix the number of clips in an exported program
            raise EncoderError(f"{type(self).__name__}: {name} has shape {tuple(clips.shape)}, an empty batch; skip it")
        if not clips.is_floating_point():
            raise EncoderError(
                f"{type(self).__name__}: {name} is {clips.dtype}, expected a float tensor; call .float()"
            )


def check_positive(name: str, value: int) -> None:
    """Raise EncoderError unless value is an integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise EncoderError(f"{name}: must be an integer >= 1, got {value!r}")


def check_window(encoder: str, window: int) -> None:
    """Raise EncoderError for clips too short for an encoder that halves them four times."""
    if window < SHORTEST_WINDOW:
        raise EncoderError(
            f"window: {window} frames halved four times leave none for {encoder}; take {SHORTEST_WINDOW} or more"
        )


def check_multiple(name: str, value: int, divisor: int) -> None:
    """Raise EncoderError unless value is an integer >= 1 that divisor divides."""
    check_positive(name, value)
    if value % divisor:
        nearest = max(divisor, value // divisor * divisor)
        raise EncoderError(f"{name}: must be a multiple of {divisor}, got {value}; try {nearest}")


def check_probability(name: str, value: float) -> None:
    """Raise EncoderError unless 0 <= value < 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise EncoderError(f"{name}: must be a probability in [0, 1), got {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """Raise EncoderError unless value is a finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise EncoderError(f"{name}: must be a number >= 0, got {value!r}")


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise EncoderError unless value is one of the known words."""
    if value not in known:
        raise EncoderError(
            f"{name}: {value!r} is unknown{did_you_mean(str(value), known)}; known are {', '.join(known)}"
        )
