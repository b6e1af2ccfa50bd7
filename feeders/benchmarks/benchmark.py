"""What a benchmark is: a data set with its protocol, and all that is known of it, in one object. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.files import user_path
from feeders.benchmarks.original import Original
from feeders.choices import Origin, SecondPerson, Split, Transforms

REPOSITORY = Path(__file__).resolve().parent.parent.parent

SIDE_COLUMN = "side"
"""Metadata column with which data say themselves which clips train and which test. It wins over `Benchmark.split`."""
SIDES: dict[Split, int] = {"train": 0, "test": 1}
NEITHER = -1
"""The number in that column of a clip that neither trains nor tests."""


@dataclass(frozen=True)
class SplitRule:
    """Which clips train and which test, by one number that is known of each clip.

    `column` is the metadata column of the packed store ("subject", "camera", ...); a clip whose number is in
    neither set belongs to neither side.
    """

    column: str
    train: frozenset[int]
    test: frozenset[int]

    def values(self, split: Split) -> frozenset[int]:
        """The numbers of one side."""
        return self.train if split == "train" else self.test


STATED_BY_THE_DATA = SplitRule(SIDE_COLUMN, train=frozenset({SIDES["train"]}), test=frozenset({SIDES["test"]}))
"""The rule of data with a column `side`."""


@dataclass(frozen=True)
class Benchmark:
    """A data set together with its protocol."""

    name: str
    title: str
    skeleton: str
    """A built-in name, or the path of a YAML file."""
    class_names: tuple[str, ...]
    """The class of each label."""
    num_persons: int
    """Most persons in a clip, and persons that a network sees."""
    window: int
    """Frames that a network sees."""
    repeat: int
    """How often a training epoch visits each clip."""
    default_path: str
    """Where the data lie when `data.path` is not given, relative to the repository."""
    source: str
    """What should lie there and who makes it."""
    split: SplitRule
    transforms: Transforms
    """The family of crops and augmentations."""
    rotation: float = 0.3
    """With the transforms `ntu`: largest angle in radians by which a training clip is turned about each axis."""
    origin: Origin = "clip"
    """With the transforms `ntu`: one origin per clip, as stored, or one per frame."""
    second_person: SecondPerson = "zero"
    """What stands in for the second person of a clip of which the data say that it has a lone actor."""
    expected_clips: Mapping[Split, int] = field(default_factory=dict)
    """How many clips each side of the whole data set has; empty where that is not known."""
    clips_per_class: tuple[int, ...] | None = None
    """How many clips of each class the whole data set has, both sides together; None where that is not known."""
    missing: frozenset[str] = frozenset()
    """Names of clips that are known to be unusable and that published results exclude."""
    fusion_weights: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)
    """Of the streams joint, bone, joint motion and bone motion, by the repository that publishes them."""
    original: Original | None = None
    """How the original files of the data set are read; None where `feeders.formats` knows them otherwise."""
    dataset: str = ""
    """The data set, where several benchmarks share it."""
    protocol: str = ""
    """What files that hold several protocols of the data set call this one."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def facts(self) -> dict[str, Any]:
        """What a trained encoder depends on beside the clips and the skeleton, as plain values."""
        return {
            "classes": list(self.class_names),
            "persons": self.num_persons,
            "window": self.window,
            "repeat": self.repeat,
            "transforms": self.transforms,
            "split": [self.split.column, *(sorted(self.split.values(side)) for side in SIDES)],
            "rotation": self.rotation,
            "origin": self.origin,
            "second_person": self.second_person,
        }

    def data_path(self, path: str | Path | None = None) -> Path:
        """`path` as given (relative to the working directory), or the default place inside the repository.

        A folder that holds the archive of the data set stands for the archive, whatever else lies there.
        """
        place = user_path(path) if path else REPOSITORY / self.default_path
        archive = place / Path(self.default_path).name
        return archive if self.original is not None and archive.is_file() else place
