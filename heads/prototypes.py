"""Class prototypes that move with the correctly classified clips of a batch, as FR-Head and ACLNet keep them.

Letters: n clips of this rank, G of all ranks, D dimensions of a vector, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from csre.ranks import Ranks

_EPSILON = 1e-12  # of the released codes; it shows in float64 only


class Confusion(NamedTuple):
    """How the clips of a batch were classified.

    Attributes:
        true_positives, false_negatives, false_positives: (K, G) bool, the clips of each set of each class.
        p_true: (G,) floating, the probability of a clip's true class.
    """

    true_positives: Tensor
    false_negatives: Tensor
    false_positives: Tensor
    p_true: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, threshold: float) -> Confusion:
        """The sets of logits (G, K) and labels (G,); a clip whose logits are not finite is in none of them."""
        probabilities = logits.softmax(dim=1)
        predicted = logits.argmax(dim=1)
        p_true = probabilities.gather(1, labels[:, None]).squeeze(1)
        finite = logits.isfinite().all(dim=1)
        correct = (predicted == labels) & finite
        confused = (predicted != labels) & finite
        is_class, taken_for = (one_hot(classes, logits.shape[1]).T.bool() for classes in (labels, predicted))
        return cls(is_class & correct & (p_true > threshold), is_class & confused, taken_for & confused, p_true)


def of_all_ranks(
    projected: Mapping[str, Tensor], logits: Tensor, labels: Tensor, ranks: Ranks
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Vectors (G, D) by branch, logits (G, K) and labels (G,) of all ranks; only this rank's vectors have gradient."""
    own = torch.cat(list(projected.values()), dim=1)
    packed = torch.cat([own, logits.to(own.dtype), labels[:, None].to(own.dtype)], dim=1)
    everyone = ranks.gather(packed)
    part = ranks.part(len(own))
    width = own.shape[1]
    vectors = torch.cat([everyone[: part.start, :width], own, everyone[part.stop :, :width]])
    widths = [vector.shape[1] for vector in projected.values()]
    by_name = dict(zip(projected, vectors.split(widths, dim=1), strict=True))
    return by_name, everyone[:, width:-1], everyone[:, -1].long()


def whole_loss(loss: Tensor, ranks: Ranks) -> Tensor:
    """Of a loss of all clips that every rank computed, what this rank is to differentiate.

    It passes a gradient to its own clips only, so that is multiplied by the number of ranks: the mean over the ranks,
    which DistributedDataParallel takes, has the value of the loss and the gradient to all clips.
    """
    return loss.detach() + ranks.world * (loss - loss.detach())


def class_means(vectors: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the vectors (G, D) of each set (K, G) bool: (K, D), zero for an empty set; and which are not empty, (K,).

    Rows that are not finite are in no set.
    """
    finite = vectors.isfinite().all(dim=1)
    weights = (members & finite).to(vectors.dtype)
    count = weights.sum(dim=1)
    return weights @ torch.where(finite[:, None], vectors, 0.0) / (count[:, None] + _EPSILON), count > 0


def moved(prototypes: Tensor, vectors: Tensor, true_positives: Tensor, momentum: float) -> Tensor:
    """Prototypes (K, D) after a step: the share `momentum` of each, and the rest from the mean of its true positives.

    A class without true positives, (K, G) bool, keeps its prototype. Passes a gradient on to the vectors (G, D).
    """
    means, some = class_means(vectors, true_positives)
    return torch.where(some[:, None], momentum * prototypes + (1 - momentum) * means, prototypes)


def unit_rows(vectors: Tensor) -> Tensor:
    """Vectors (..., D) of length 1; zero stays zero, and passes a gradient on that is finite."""
    return vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + _EPSILON)
