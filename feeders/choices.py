"""The words a configuration may use for data. Pure Python, so that a typo is found before any heavy import."""

from __future__ import annotations

from typing import Literal, get_args

Split = Literal["train", "test"]
Part = Literal["train", "validation", "test"]
Stream = Literal["joint", "bone", "joint_motion", "bone_motion"]
Variant = Literal["plain", "centred"]
Transforms = Literal["ntu", "nw-ucla", "2d"]
Origin = Literal["clip", "frame"]
SecondPerson = Literal["copy", "zero"]
Placement = Literal["auto", "host", "device"]
OnBadClip = Literal["error", "skip"]

SPLITS: tuple[Split, ...] = get_args(Split)
"""The sides of a benchmark."""
PARTS: tuple[Part, ...] = get_args(Part)
"""What a feeder can feed: the training side may be split for validation."""
STREAMS: tuple[str, ...] = get_args(Stream)
VARIANTS: tuple[str, ...] = get_args(Variant)
TRANSFORMS: tuple[str, ...] = get_args(Transforms)
ORIGINS: tuple[str, ...] = get_args(Origin)
SECOND_PERSON: tuple[SecondPerson, ...] = get_args(SecondPerson)
PLACEMENTS: tuple[str, ...] = get_args(Placement)
ON_BAD_CLIP: tuple[str, ...] = get_args(OnBadClip)
