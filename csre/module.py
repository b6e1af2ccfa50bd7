"""CSRE: the training-time plug-in that adds contrastive losses to any encoder of skeleton clips.

Shapes: N clips, M persons, C channels, T frames and V joints of the encoder's last map, L training indices,
D dimensions of a contrasted feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from csre.class_queue import ClassQueue
from csre.contrast import contrast
from csre.errors import CSREError, check_choice
from csre.memory_bank import WHOLE_BANK, ClassSortedBank, MemoryBank, Shard
from csre.options import ContrastOptions, Counts, Denominator, OwnRow, PositiveReduction, RepeatedNegatives, TooFew
from csre.sampling import WHOLE_BATCH, Draws
from csre.similarity import normalise_rows
from csre.stfd import POOLED_AXES, ProjectionHead

BANK_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class CSRE(nn.Module):
    """Spatiotemporal feature decoupling and contrast against memory banks (paper section 3).

    In a training loop::

        csre = CSRE(encoder.feature_shape, labels)  # its parameters go to the optimiser, too
        losses = csre(features, batch_labels, indices)
        loss = cross_entropy + sum(losses.values())

    It reads the encoder's last map and never changes the encoder, which is used alone at test time. Every forward pass
    writes the banks, so CSRE belongs in training steps only; call ``backward`` on its losses before the next one.
    ``forward`` is ``project``, ``write`` and ``contrast`` for one process; ranks of a distributed run call ``project``
    and then ``contrast_across_ranks``.

    Args:
        feature_shape: (C, T, V) of the encoder's last map.
        labels: class of every training index, (L,) int64 tensor or sequence, 0 or more.
        dim: D.
        reduction: the reduction of channels in each head, r.
        branches: which features to contrast, of ``spatial``, ``temporal`` and ``global`` (paper, Table 5).
        weight: factor of every branch's loss. 1 in the paper (eq. 10), 0.5 in the released code.
        temperature: see ``ContrastOptions``, as for the next seven.
        positives: ``Counts`` or a pair (hard, random).
        negatives: ``Counts`` or a pair (hard, random).
        denominator: ``joint`` or ``split``.
        positive_reduction: ``mean`` or ``sum``.
        repeated_negatives: ``twice`` or ``once``.
        own_row: ``exclude`` or ``include``.
        too_few: ``use`` or ``skip``.
        bank_dtype: storage of the banks: ``float32``, ``float16`` or ``bfloat16``.
        capacity: rows per class at most, kept as a queue (``ClassQueue``); None for a row per training index.
        shard: (rank, ranks) to keep only this rank's part of every bank's rows. Such a CSRE is used with
            ``contrast_across_ranks`` and saved with ``gathered_state_dict``; None for all rows.

    Attributes:
        active_share: after a forward pass, per branch, the share of the batch's clips that had something to be
            contrasted with: a scalar without gradient on the device of the features.

    Raises:
        CSREError: an argument is out of range, unknown or of the wrong shape.
    """

    def __init__(
        self,
        feature_shape: tuple[int, int, int],
        labels: Tensor | Sequence[int],
        *,
        dim: int = 256,
        reduction: int = 8,
        branches: Sequence[str] = ("spatial", "temporal"),
        weight: float = 1.0,
        temperature: float = ContrastOptions.temperature,
        positives: Counts | tuple[int, int] = ContrastOptions.positives,
        negatives: Counts | tuple[int, int] = ContrastOptions.negatives,
        denominator: Denominator = ContrastOptions.denominator,
        positive_reduction: PositiveReduction = ContrastOptions.positive_reduction,
        repeated_negatives: RepeatedNegatives = ContrastOptions.repeated_negatives,
        own_row: OwnRow = ContrastOptions.own_row,
        too_few: TooFew = ContrastOptions.too_few,
        bank_dtype: str = "float32",
        capacity: int | None = None,
        shard: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.options = ContrastOptions(
            temperature=temperature,
            positives=Counts.of(positives),
            negatives=Counts.of(negatives),
            denominator=denominator,
            positive_reduction=positive_reduction,
            repeated_negatives=repeated_negatives,
            own_row=own_row,
            too_few=too_few,
        )
        _check_branches(branches)
        check_choice("bank_dtype", bank_dtype, BANK_DTYPES)
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise CSREError(f"weight is {weight!r}: give a finite number, 0 or more, such as 1.0")
        self.weight = weight
        self.feature_shape = tuple(feature_shape)
        self.heads = nn.ModuleDict({name: ProjectionHead(name, feature_shape, dim, reduction) for name in branches})
        part = WHOLE_BANK if shard is None else Shard.of(shard)
        self.banks = nn.ModuleDict({name: _build_bank(labels, dim, bank_dtype, capacity, part) for name in branches})
        self.active_share: dict[str, Tensor] = {}

    def forward(
        self, features: Tensor, labels: Tensor, indices: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Losses of a batch, to be added to the cross entropy.

        Args:
            features: (N, M, C, T, V) floating, the encoder's last map per person, with gradient.
            labels: (N,) int64, classes of the clips.
            indices: (N,) int64, their training indices, so that ``labels`` is the constructor's ``labels`` at them.
            generator: where random rows are drawn from; None for torch's global generator of the device.

        Returns:
            Per branch a weighted scalar, float32 (float64 for float64 features); a differentiable zero if no clip has
            anything to be contrasted with yet.

        Raises:
            CSREError: a wrong shape or dtype; for tensors on the CPU also an index outside the training set or a label
                that is not the index's. Elsewhere finding these would stop the device: such a clip is left out.
        """
        queries = self.project(features)
        self.write(queries, labels, indices)
        return self.contrast(queries, labels, indices, Draws(generator))

    def project(self, features: Tensor) -> dict[str, Tensor]:
        """Per branch the unit features (N, D) of the maps ``features`` (N, M, C, T, V), in float32 or float64.

        A clip whose feature is zero or not finite gets a zero row, which is neither stored nor contrasted.

        Raises:
            CSREError: a map of another shape than the constructor's ``feature_shape``, or no floating dtype.
        """
        if features.ndim != 5 or features.shape[2:] != self.feature_shape or 0 in features.shape:
            raise CSREError(
                f"features has shape {tuple(features.shape)}, CSRE was built for (clips, persons, "
                f"{', '.join(map(str, self.feature_shape))}): build it with the encoder's feature_shape"
            )
        if not features.is_floating_point():
            raise CSREError(f"features has dtype {features.dtype}: give the encoder's floating-point map")
        # The heads may run in a lower precision under autocast; their outputs are promoted here.
        return {name: normalise_rows(head(features)) for name, head in self.heads.items()}

    def write(self, unit_rows: dict[str, Tensor], labels: Tensor, indices: Tensor) -> None:
        """Store the unit features of every branch, (N, D) each, in its bank.

        Raises:
            CSREError: as ``forward``, for ``labels`` and ``indices``.
        """
        for name, bank in self._checked_banks(unit_rows, labels, indices):
            bank.write(unit_rows[name], labels, indices)

    def contrast(
        self, queries: dict[str, Tensor], labels: Tensor, indices: Tensor, draws: Draws = WHOLE_BATCH
    ) -> dict[str, Tensor]:
        """The weighted loss of every branch for unit features (N, D), after they were written.

        With ``draws`` they can be a part of a larger batch: random rows are then drawn as for the whole of it.

        Raises:
            CSREError: as ``forward``, for ``labels`` and ``indices``.
        """
        losses = {}
        for name, bank in self._checked_banks(queries, labels, indices):
            loss, active = contrast(queries[name], labels, indices, bank, self.options, draws)
            losses[name] = self.weight * loss
            self.active_share[name] = active.float().mean()
        return losses

    def _checked_banks(
        self, unit_rows: dict[str, Tensor], labels: Tensor, indices: Tensor
    ) -> list[tuple[str, ClassSortedBank]]:
        banks = cast("list[tuple[str, ClassSortedBank]]", list(self.banks.items()))
        name, bank = banks[0]  # one look suffices: all branches see the same clips and the same training set
        check_shapes(len(unit_rows[name]), labels, indices)
        _check_values(labels, indices, bank.labels)
        return banks


def _build_bank(
    labels: Tensor | Sequence[int], dim: int, dtype: str, capacity: int | None, shard: Shard
) -> ClassSortedBank:
    if capacity is None:
        return MemoryBank(labels, dim, BANK_DTYPES[dtype], shard)
    return ClassQueue(labels, dim, capacity, BANK_DTYPES[dtype], shard)


def _check_branches(branches: Sequence[str]) -> None:
    if isinstance(branches, str) or len(branches) == 0:
        raise CSREError(f"branches is {branches!r}: give a list of one or more of {', '.join(POOLED_AXES)}")
    for name in branches:
        check_choice("branches", name, POOLED_AXES)
    if len(set(branches)) < len(branches):
        raise CSREError(f"branches is {branches!r}: name every branch once")


def check_shapes(clips: int, labels: Tensor, indices: Tensor) -> None:
    """Refuse labels and indices that are not one int64 per clip.

    Raises:
        CSREError: a wrong shape or dtype.
    """
    for argument, values in (("labels", labels), ("indices", indices)):
        if values.shape != (clips,):
            raise CSREError(
                f"{argument} has shape {tuple(values.shape)} but there are {clips} clips: "
                f"give one number per clip, shape ({clips},)"
            )
        if values.dtype != torch.int64:
            raise CSREError(f"{argument} has dtype {values.dtype}: give torch.int64")


def _check_values(labels: Tensor, indices: Tensor, bank_labels: Tensor) -> None:
    if indices.device.type != "cpu" or torch.compiler.is_compiling():
        return  # looking at values would stop the device, or break the graph
    outside = (indices < 0) | (indices >= len(bank_labels))
    if outside.any():
        raise CSREError(
            f"index {int(indices[outside][0])} is outside the {len(bank_labels)} training indices that CSRE was built "
            "for: build it with the labels of the whole training set, repetitions included"
        )
    contradicting = bank_labels[indices] != labels
    if contradicting.any():
        index = int(indices[contradicting][0])
        raise CSREError(
            f"index {index} comes with label {int(labels[contradicting][0])}, CSRE was built with label "
            f"{int(bank_labels[index])} for it: build it with labels in the order of the training indices"
        )
