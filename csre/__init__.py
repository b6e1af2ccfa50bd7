"""Contrastive spatiotemporal representation enhancement (CSRE) for encoders of 3-D skeleton clips.

This package needs PyTorch and nothing else. ``CSRE`` is what a training loop uses; the parts, in reading order:

- ``stfd``: projection heads, from an encoder's last map to one feature per branch
- ``memory_bank``, ``class_queue``: the features of all training clips, sorted by class
- ``sampling``: choosing hard and random positives and negatives
- ``similarity``, ``loss``, ``contrast``: from chosen rows to a loss
- ``options``: the choices and their defaults
- ``module``: ``CSRE``, which joins them
- ``reference``: the same contrast as a plain loop over the clips, to read and to test against
"""

from csre.class_queue import ClassQueue
from csre.errors import CSREError
from csre.memory_bank import MemoryBank
from csre.module import CSRE
from csre.options import ContrastOptions, Counts
from csre.stfd import ProjectionHead, load_published_heads

__all__ = [
    "CSRE",
    "CSREError",
    "ClassQueue",
    "ContrastOptions",
    "Counts",
    "MemoryBank",
    "ProjectionHead",
    "load_published_heads",
]
