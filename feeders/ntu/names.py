"""What the name of an NTU RGB+D clip says, which clips are unusable, and the facts of the two data sets.

A clip is called SsssCcccPpppRrrrAaaa: set-up, camera, performer (subject), replication and action, three digits each,
all counted from 1 (Shahroudy et al., CVPR 2016; Liu et al., TPAMI 2019).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from feeders.errors import DataError, unknown_choice

NUM_JOINTS = 25
PUBLISHED_FRAMES = 300
"""Frames that the published arrays have room for; no usable clip has more."""
SUFFIX = ".skeleton"
MISSING = Path(__file__).parent / "missing.txt"

CLASS_NAMES = (
    "drink water",
    "eat meal",
    "brush teeth",
    "brush hair",
    "drop",
    "pick up",
    "throw",
    "sit down",
    "stand up",
    "clapping",
    "reading",
    "writing",
    "tear up paper",
    "put on jacket",
    "take off jacket",
    "put on a shoe",
    "take off a shoe",
    "put on glasses",
    "take off glasses",
    "put on a hat or cap",
    "take off a hat or cap",
    "cheer up",
    "hand waving",
    "kicking something",
    "reach into pocket",
    "hopping",
    "jump up",
    "phone call",
    "play with phone or tablet",
    "type on a keyboard",
    "point to something",
    "taking a selfie",
    "check time from watch",
    "rub two hands",
    "nod head or bow",
    "shake head",
    "wipe face",
    "salute",
    "put palms together",
    "cross hands in front",
    "sneeze or cough",
    "staggering",
    "falling down",
    "headache",
    "chest pain",
    "back pain",
    "neck pain",
    "nausea or vomiting",
    "fan self",
    "punch or slap",
    "kicking",
    "pushing",
    "pat on back",
    "point finger",
    "hugging",
    "giving object",
    "touch pocket",
    "shaking hands",
    "walking towards",
    "walking apart",
    "put on headphone",
    "take off headphone",
    "shoot at basket",
    "bounce ball",
    "tennis bat swing",
    "juggle table tennis ball",
    "hush",
    "flick hair",
    "thumb up",
    "thumb down",
    "make OK sign",
    "make victory sign",
    "staple book",
    "counting money",
    "cutting nails",
    "cutting paper",
    "snap fingers",
    "open bottle",
    "sniff or smell",
    "squat down",
    "toss a coin",
    "fold paper",
    "ball up paper",
    "play magic cube",
    "apply cream on face",
    "apply cream on hand",
    "put on bag",
    "take off bag",
    "put object into bag",
    "take object out of bag",
    "open a box",
    "move heavy objects",
    "shake fist",
    "throw up cap or hat",
    "capitulate",
    "cross arms",
    "arm circles",
    "arm swings",
    "run on the spot",
    "butt kicks",
    "cross toe touch",
    "side kick",
    "yawn",
    "stretch oneself",
    "blow nose",
    "hit with object",
    "wield knife",
    "knock over",
    "grab stuff",
    "shoot with gun",
    "step on foot",
    "high-five",
    "cheers and drink",
    "carry object",
    "take a photo",
    "follow",
    "whisper",
    "exchange things",
    "support somebody",
    "rock-paper-scissors",
)
"""The class of label 0 .. 119, which is action 1 .. 120; NTU60 has the first sixty."""


@dataclass(frozen=True)
class Dataset:
    """NTU60 or NTU120.

    `files` is the number of clips recorded, missing ones included; the sides of the splits are in
    `feeders.benchmarks`.
    """

    name: str
    setups: int
    subjects: int
    actions: int
    files: int

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each label."""
        return CLASS_NAMES[: self.actions]

    @cached_property
    def missing(self) -> frozenset[str]:
        """Names of the clips whose skeletons are absent or unusable; every published training leaves them out."""
        return frozenset(name for name in _unusable() if parse_name(name) in self)

    @property
    def usable(self) -> int:
        """Number of clips that a complete data set has."""
        return self.files - len(self.missing)

    def __contains__(self, name: ClipName) -> bool:
        return name.setup <= self.setups and name.subject <= self.subjects and name.action <= self.actions


class ClipName(NamedTuple):
    """The numbers in a clip's name."""

    setup: int
    camera: int
    subject: int
    replication: int
    action: int

    def __str__(self) -> str:
        return "S{:03}C{:03}P{:03}R{:03}A{:03}".format(*self)


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("ntu60", setups=17, subjects=40, actions=60, files=56_880),
        Dataset("ntu120", setups=32, subjects=106, actions=120, files=114_480),
    )
}

_PATTERN = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII)
_LIMITS = {"set-up": 32, "camera": 3, "subject": 106, "replication": 2, "action": 120}


def get_dataset(name: str) -> Dataset:
    """The data set of that name; `DataError` with the nearest name when there is none."""
    if name not in DATASETS:
        raise unknown_choice("dataset", name, DATASETS)
    return DATASETS[name]


def parse_name(name: str) -> ClipName:
    """The numbers of `name`, given without folder and extension.

    Raises `DataError`, without naming the clip, when it is none or says a number that neither data set has.
    """
    match = _PATTERN.fullmatch(name)
    if match is None:
        raise DataError("its name is not of the form SsssCcccPpppRrrrAaaa.skeleton")
    numbers = [int(digits) for digits in match.groups()]
    for (field, limit), number in zip(_LIMITS.items(), numbers, strict=True):
        if not 1 <= number <= limit:
            raise DataError(f"its name says {field} {number}, NTU RGB+D has 1 to {limit}")
    return ClipName(*numbers)


@cache
def _unusable() -> tuple[str, ...]:
    """The 535 names of NTU120, the 302 of NTU60 among them."""
    return tuple(MISSING.read_text(encoding="ascii").split())
