"""Contrastive spatiotemporal representation enhancement (CSRE) for encoders of 3-D skeleton clips.

This package needs PyTorch and nothing else. ``CSRE`` is what a training loop uses; the parts, in reading order:

- ``options``: the choices of a contrast and their defaults
- ``stfd``: projection heads, from an encoder's last map to one feature per branch
- ``memory_bank``: the features of all training clips, sorted by class
- ``sampling``: choosing hard and random positives and negatives
- ``loss``: from chosen rows to a loss
- ``ranks``: what the ranks of a distributed run exchange
- ``contrast``: all branches from their features to their losses, also for banks that are very large or sharded over
  the ranks
- ``module``: ``CSRE``, which joins them, and its use over ranks
"""

from csre.memory_bank import ClassQueue, MemoryBank
from csre.module import CSRE, BankContrast, contrast_across_ranks, gathered_state_dict
from csre.options import ContrastOptions, Counts, CSREError
from csre.stfd import ProjectionHead, load_published_heads

__all__ = [
    "CSRE",
    "BankContrast",
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
