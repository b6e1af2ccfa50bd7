"""Contrastive spatiotemporal representation enhancement (CSRE) for encoders of 3-D skeleton clips.

This package needs PyTorch and nothing else. ``CSRE`` is what a training loop uses; the parts, in reading order:

- ``stfd``: projection heads, from an encoder's last map to one feature per branch
- ``memory_bank``, ``class_queue``, ``anchors``: the features of all training clips, sorted by class
- ``sampling``, ``choice``: choosing hard and random positives and negatives
- ``similarity``, ``loss``, ``contrast``: from chosen rows to a loss
- ``options``: the choices and their defaults
- ``module``: ``CSRE``, which joins them
- ``collectives``, ``ranks``: the same over the ranks of a distributed run
- ``blockwise``: the same for banks that are very large, or sharded over the ranks
- ``reference``: the same contrast as a plain loop over the clips, to read and to test against
"""

from csre.class_queue import ClassQueue
from csre.errors import CSREError
from csre.memory_bank import MemoryBank
from csre.module import CSRE
from csre.options import ContrastOptions, Counts
from csre.ranks import contrast_across_ranks, gathered_state_dict
from csre.stfd import ProjectionHead, load_published_heads

__all__ = [
    "CSRE",
    "CSREError",
    "ClassQueue",
    "ContrastOptions",
    "Counts",
    "MemoryBank",
    "ProjectionHead",
    "contrast_across_ranks",
    "gathered_state_dict",
    "load_published_heads",
]
