"""Which joints and frames of a clip speak for a class in the contrast that CSRE trained with.

Gradient times input of the similarity between the clip and a class: its projected feature against the mean of the
class's rows in the memory bank. The spatial branch gives each joint a weight, the temporal branch each frame: the sum
of gradient x input over everything else, its size as a share of the largest. A first-order account of what the
similarity rests on, not a proof of what the classifier uses.

Shapes: T window, V joints.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from csre import CSRE
from csre.memory_bank import ClassSortedBank
from engine.checkpoint import load_checkpoint
from engine.predictor import Predictor

BRANCHES = ("spatial", "temporal")


class ExplainError(UserError):
    """A run that has no contrast to explain."""


def load_csre(predictor: Predictor) -> CSRE:
    """The projections and banks of the run that a predictor comes from.

    Raises:
        ExplainError: it was trained without CSRE, or without one of both branches.
    """
    path, settings = Path(predictor.source), predictor.settings
    if not settings.get("csre.enabled") or not set(BRANCHES) <= set(settings["csre.branches"]):
        raise ExplainError(
            f"{path}: trained without CSRE's spatial and temporal branches; there is no contrast to show"
        )
    training = load_checkpoint(path).get("training") or {}
    if "csre" not in training:
        raise ExplainError(f"{path}: holds the encoder alone; name the run folder or a checkpoint of the training")
    state = training["csre"]
    csre = CSRE(
        predictor.encoder.feature_shape,
        state["banks.spatial.labels"],
        dim=settings["csre.dim"],
        reduction=settings["csre.reduction"],
        branches=settings["csre.branches"],
        bank_dtype=settings["csre.bank.dtype"],
        capacity=settings["csre.bank.capacity"],
    )
    csre.load_state_dict(state)
    return csre.eval()


def contributions(predictor: Predictor, csre: CSRE, clip: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the joints (V,) in the spatial and of the frames (T,) in the temporal contrast with a class, 0 to 1.

    Raises:
        ExplainError: the bank holds no clip of the class.
        DataError: the clip does not fit the run's benchmark.
    """
    batch, capacity = predictor.batch([clip]), predictor.settings["csre.bank.capacity"]
    weights = []
    for branch, kept in zip(BRANCHES, (3, 2), strict=True):
        x = batch.x.clone().requires_grad_()
        joints = x if batch.joints is batch.x else batch.joints
        features = predictor.encoder.features(x, joints=joints)
        query = csre.project(features)[branch][0]
        (query @ class_mean(csre, branch, label, capacity)).backward()
        assert x.grad is not None
        summed = (x.grad * x.detach()).sum(dim=[axis for axis in range(5) if axis != kept]).abs()
        weights.append((summed / summed.max().clamp(min=1e-12)).numpy())
    return weights[0], weights[1]


def class_mean(csre: CSRE, branch: str, label: int, capacity: int | None) -> torch.Tensor:
    """The mean (D,) of the rows that a branch's bank holds of a class. ExplainError when there are none."""
    bank = csre.get_submodule(f"banks.{branch}")
    assert isinstance(bank, ClassSortedBank)
    per_class = torch.bincount(bank.labels, minlength=label + 1)
    per_class = per_class if capacity is None else per_class.clamp(max=capacity)
    last = int(per_class[: label + 1].sum())  # rows are sorted by class
    own = slice(last - int(per_class[label]), last)
    rows = bank.rows[own][bank.written[own]]
    if not len(rows):
        raise ExplainError(f"class {label}: the memory bank of this checkpoint holds no clip of it")
    return rows.float().mean(dim=0)
