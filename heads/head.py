"""The interface between a training run and what it trains beside the encoder.

A training step, on each of W ranks with n clips, uses a head in this order:

    observed = encoder.observe(x, joints, reads)          # reads: what all heads of the run read
    logits = encoder.classify(observed.features)
    projected = head.project(observed)                    # up to here inside DistributedDataParallel
    losses = head.losses(projected, logits, ...)          # updates the head's state, then scores
    (cross_entropy + sum of all losses).backward()        # no collective of a head in here

Letters: n clips of this rank, G = W * n of the step, D dimensions of a projection, K classes, L training indices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from csre.ranks import Ranks
from model.encoder import Encoder, Observed


class Moment(NamedTuple):
    """Where a training run is: `epoch` and `step` within it, both from 1, of `steps` per epoch. Never a test."""

    epoch: int
    step: int
    steps: int


class TrainingHead(nn.Module, ABC):
    """Losses that are trained along with an encoder.

    It is built by `heads.registry.build_heads` as `Class(encoder, labels, options)`, for a user's own class as
    `Class(encoder, labels, **options)`. A subclass says what it `reads`, puts every layer that learns into `trained`,
    and its state (banks, prototypes, counts) into buffers of its own, outside `trained`. State that is alike on all
    ranks must stay bit-equal on them: it is saved from rank 0.

    Args:
        encoder: for its shapes (`feature_shape`, `stage_shapes`, `relation_shape`, `num_classes`); it is not kept.
        labels: (L,) int64, the class of every training index.

    Raises HeadError when an option does not fit the encoder or the data.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"features"})
    """What of `model.encoder.Observed` the head reads: some of "features", "stages" and "relations"."""

    inactive_advice: ClassVar[str] = ""
    """What a user can do when a metric named `active_...` was 0 for a whole epoch; follows the warning about it."""

    trained: nn.Module
    """The layers that learn: optimised and, with several ranks, kept equal together with the encoder's. A head that
    trains nothing leaves it empty, as it is; a frozen layer belongs beside it, its weights as buffers."""

    def __init__(self, encoder: Encoder, labels: Tensor) -> None:
        super().__init__()
        self.trained = nn.Module()

    @abstractmethod
    def project(self, observed: Observed) -> dict[str, Tensor]:
        """What the losses need of this rank's clips: name -> (n, D), float32 or float64 whatever autocast does.

        Runs inside DistributedDataParallel's forward pass, under autocast, and uses `trained`, but no state and no
        other rank.
        """

    @abstractmethod
    def losses(
        self,
        projected: dict[str, Tensor],
        logits: Tensor,
        labels: Tensor,
        indices: Tensor,
        moment: Moment,
        ranks: Ranks,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The weighted losses of a step; collective where there are several ranks.

        The mean over the ranks of each loss, and of its gradient, is that of one process with all G clips in rank
        order. State is updated first, from the detached values of all ranks; rows that are not finite enter no state.
        A loss that does not act yet is a zero that depends on all of `trained`, since DistributedDataParallel admits
        no parameters that come and go.

        Args:
            projected: what `project` gave for this rank's clips, with gradient.
            logits: (n, K) of the same forward pass, float32, detached.
            labels: (n,) int64, the classes of the clips.
            indices: (n,) int64, their training indices, 0 .. L - 1.
            moment: where the run is.
            ranks: for gathering what the ranks have.
            generator: the source of all random choices, on the device, in the same state on all ranks.

        Returns:
            Name -> scalar. The names are the log's: short, and of no other head that may be on beside this one.
        """

    def metrics(self) -> dict[str, Tensor]:
        """Numbers worth logging about the newest step, for all G clips: name -> scalar without gradient.

        The names are the same in every step, since an epoch's means are over all of them.
        A share of clips that the head acted on is named `active_...`: a run warns when one stays 0 for an epoch. The
        figures show `bound_<loss>_lower` and `bound_<loss>_upper` with the loss of that name, and all
        `similarity_<loss>_<kind>` together. Of ranks whose numbers differ the mean is logged.
        """
        return {}

    def gathered_state_dict(self, group: dist.ProcessGroup | None = None) -> dict[str, Any] | None:
        """The whole state on rank 0, loadable by `load_state_dict` in any number of ranks; elsewhere anything.

        Collective. The default is `state_dict()`, right for all state that every rank holds alike.
        """
        return self.state_dict()

    def snapshot(self) -> Any:
        """What `restore` needs to undo a step's changes of state; asked for before every step that may be skipped.

        The default copies all buffers. A head with large banks, which refuse rows that are not finite, copies less.
        """
        return [buffer.clone() for buffer in self.buffers()]

    def restore(self, snapshot: Any, skipped: Tensor) -> None:
        """Undo the changes of state since `snapshot` where `skipped`, a bool scalar on the device, is true.

        Called after every step that may be skipped: nobody waits to know whether it is.
        """
        for buffer, before in zip(self.buffers(), snapshot, strict=True):
            buffer.copy_(torch.where(skipped, before, buffer))
