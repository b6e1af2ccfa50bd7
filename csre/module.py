"""CSRE: the training-time plug-in that adds contrastive losses to any encoder of skeleton clips.

``CSRE`` contrasts an encoder's last map. ``BankContrast`` is what it stands on, for features that come from elsewhere.

Over the ranks of a distributed run, every rank brings some clips of a global batch, and all of them meet every bank.
The banks stay bit-identical on all ranks. Averaged over the ranks, as DistributedDataParallel averages gradients, the
losses and their gradients are those of one process with the global batch.

Shapes: n clips of this rank, G of all ranks (N where there is one process), M persons, C channels, T frames and V
joints of the encoder's last map, L training indices, D dimensions of a contrasted feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from csre.contrast import contrast
from csre.loss import normalise_rows
from csre.memory_bank import WHOLE_BANK, ClassQueue, ClassSortedBank, MemoryBank, Shard
from csre.options import (
    ContrastOptions,
    Counts,
    CSREError,
    Denominator,
    OwnRow,
    PositiveReduction,
    RepeatedNegatives,
    TooFew,
    check_choice,
)
from csre.ranks import ALONE, Ranks
from csre.sampling import WHOLE_BATCH, Draws
from csre.stfd import POOLED_AXES, ProjectionHead

BANK_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class BankContrast(nn.Module):
    """Unit features of one or more branches, each contrasted with a memory bank of its own.

    Args:
        branches: their names.
        labels: class of every training index, (L,) int64 tensor or sequence, 0 or more.
        options: how rows are chosen and contrasted.
        dim: D.
        weight: factor of every branch's loss.
        bank_dtype: storage of the banks: ``float32``, ``float16`` or ``bfloat16``.
        capacity: rows per class at most, kept as a queue (``ClassQueue``); None for a row per training index.
        shard: (rank, ranks) to keep only this rank's part of every bank's rows; None for all rows.

    Attributes:
        active_share: after a step, per branch, the share of the global batch's clips that had something to be
            contrasted with: a scalar without gradient on the device of the features.
        similarity: likewise the mean cosine of these clips to their ``positives``, ``hard_negatives`` and
            ``random_negatives``; its mean over the ranks is that of the global batch.

    Raises:
        CSREError: an argument is out of range, unknown or of the wrong shape.
    """

    def __init__(
        self,
        branches: Sequence[str],
        labels: Tensor | Sequence[int],
        options: ContrastOptions,
        *,
        dim: int = 256,
        weight: float = 1.0,
        bank_dtype: str = "float32",
        capacity: int | None = None,
        shard: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        check_choice("bank_dtype", bank_dtype, BANK_DTYPES)
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise CSREError(f"weight is {weight!r}: it must be a finite number >= 0, such as 1.0")
        self.options = options
        self.weight = weight
        part = WHOLE_BANK if shard is None else Shard.of(shard)
        self.banks = nn.ModuleDict({name: _build_bank(labels, dim, bank_dtype, capacity, part) for name in branches})
        self.active_share: dict[str, Tensor] = {}
        self.similarity: dict[str, dict[str, Tensor]] = {}

    def write(self, unit_rows: dict[str, Tensor], labels: Tensor, indices: Tensor) -> None:
        """Store the unit features of every branch, (N, D) each, in its bank.

        Raises:
            CSREError: as ``CSRE.forward``, for ``labels`` and ``indices``.
        """
        for name, bank in self._checked_banks(unit_rows, labels, indices):
            bank.write(unit_rows[name], labels, indices)

    def contrast(
        self,
        queries: dict[str, Tensor],
        labels: Tensor,
        indices: Tensor,
        draws: Draws = WHOLE_BATCH,
        ranks: Ranks = ALONE,
        unit_rows: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The weighted loss of every branch for unit features (n, D), after they were written.

        With ``draws`` they can be a part of a larger batch: random rows are then drawn as for the whole of it. With
        several ``ranks``, labels and indices are (G,), those of all ranks, as are ``unit_rows``, (G, D) per branch.

        Raises:
            CSREError: as ``CSRE.forward``, for ``labels`` and ``indices``.
        """
        everyone = queries if unit_rows is None else unit_rows
        named = self._checked_banks(everyone, labels, indices)
        results = contrast(
            [queries[name] for name, _ in named],
            [everyone[name].detach() for name, _ in named],
            labels,
            indices,
            [bank for _, bank in named],
            self.options,
            draws,
            ranks,
        )
        losses = {}
        for (name, _), result in zip(named, results, strict=True):
            losses[name] = self.weight * result.loss
            self.active_share[name] = result.active.float().mean()
            self.similarity[name] = result.similarity
        return losses

    def metrics(self) -> dict[str, Tensor]:
        """Numbers worth logging about the latest step, scalars without gradient; empty before the first one.

        Per branch ``active_<branch>``, the share of active clips; ``similarity_<branch>_<kind>``, their mean cosine to
        what was chosen of each kind; ``bound_<branch>_lower`` and ``bound_<branch>_upper``, between which the loss of
        a clip lies that has as many positives and negatives as asked for. Of the latter two kinds, those of other
        ranks enter by taking the mean over the ranks.
        """
        numbers = {f"active_{branch}": share for branch, share in self.active_share.items()}
        for branch, similarity in self.similarity.items():
            numbers |= {f"similarity_{branch}_{kind}": value for kind, value in similarity.items()}
            for side, bound in zip(("lower", "upper"), self.options.loss_bounds(), strict=True):
                numbers[f"bound_{branch}_{side}"] = torch.full_like(self.active_share[branch], self.weight * bound)
        return numbers

    def _checked_banks(
        self, unit_rows: dict[str, Tensor], labels: Tensor, indices: Tensor
    ) -> list[tuple[str, ClassSortedBank]]:
        banks = cast("list[tuple[str, ClassSortedBank]]", list(self.banks.items()))
        name, bank = banks[0]  # one check suffices: all branches see the same clips and the same training set
        check_shapes(len(unit_rows[name]), labels, indices)
        _check_values(labels, indices, bank.labels)
        return banks


class CSRE(BankContrast):
    """Spatiotemporal feature decoupling and contrast against memory banks (paper section 3).

    In a training loop::

        csre = CSRE(encoder.feature_shape, labels)  # its parameters go to the optimiser, too
        losses = csre(features, batch_labels, indices)
        loss = cross_entropy + sum(losses.values())

    It reads the encoder's last map and never changes the encoder, which is used alone at test time. Every forward pass
    writes the banks, so CSRE belongs in training steps only.
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
        active_share, similarity: of the latest step, see ``BankContrast``.

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
        _check_branches(branches)
        options = ContrastOptions(
            temperature=temperature,
            positives=Counts.of(positives),
            negatives=Counts.of(negatives),
            denominator=denominator,
            positive_reduction=positive_reduction,
            repeated_negatives=repeated_negatives,
            own_row=own_row,
            too_few=too_few,
        )
        super().__init__(
            branches,
            labels,
            options,
            dim=dim,
            weight=weight,
            bank_dtype=bank_dtype,
            capacity=capacity,
            shard=shard,
        )
        self.feature_shape = tuple(feature_shape)
        self.heads = nn.ModuleDict({name: ProjectionHead(name, feature_shape, dim, reduction) for name in branches})

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
                that is not the index's. Elsewhere finding these would stop the device: such a clip is ignored.
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


def contrast_across_ranks(
    csre: BankContrast,
    queries: dict[str, Tensor],
    labels: Tensor,
    indices: Tensor,
    group: dist.ProcessGroup | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Write the clips of all ranks to every bank and contrast this rank's own; collective.

    In a training loop, where ``model`` is DistributedDataParallel over the encoder and ``csre.project``::

        logits, queries = model(x)
        losses = contrast_across_ranks(csre, queries, labels, indices)
        (cross_entropy(logits, labels) + sum(losses.values())).backward()

    Keep the banks out of what DistributedDataParallel wraps, or it sends them to all ranks in every step. There is no
    collective in the backward pass. Without a process group, or with one rank, this is ``csre.write`` and
    ``csre.contrast``.

    Args:
        csre: built alike on all ranks.
        queries: per branch what ``csre.project`` gave for this rank's clips, (n, D) with gradient.
        labels: (n,) int64, classes of this rank's clips.
        indices: (n,) int64, their training indices.
        group: the ranks; None for the default group.
        generator: where random rows are drawn from; None for torch's global generator of the device. In the same state
            on all ranks they draw what one process draws for the global batch.

    Returns:
        Per branch this rank's part of the weighted loss, a scalar: its mean over the ranks is the loss of the global
        batch. ``csre.active_share`` is that of the global batch.

    Raises:
        CSREError: as ``csre.write``, on all ranks alike where the values of another rank are at fault. For tensors on
            the CPU also ranks with unequal numbers of clips; elsewhere looking would stop the device.
    """
    ranks = Ranks.of(group)
    check_shapes(len(next(iter(queries.values()))), labels, indices)
    if indices.device.type == "cpu":
        ranks.check_equal("clips", len(indices))
    unit_rows = _gather_branches(ranks, queries)
    all_labels, all_indices = ranks.gather(torch.stack([labels, indices], dim=1)).unbind(dim=1)
    csre.write(unit_rows, all_labels, all_indices)

    draws = Draws(generator, ranks.part(len(indices)).start, len(all_indices))
    return csre.contrast(queries, all_labels, all_indices, draws, ranks, unit_rows)


def gathered_state_dict(csre: BankContrast, group: dist.ProcessGroup | None = None) -> dict[str, Any] | None:
    """The state of ``csre`` with all rows of every bank, for a checkpoint; collective.

    It is what one process has, whatever the number of ranks, and may be loaded into any other number of them: each
    keeps its own rows. For that, ``torch.load`` with ``mmap=True`` spares every rank the rest.

    Args:
        csre: with sharded banks or without.
        group: the ranks; None for the default group.

    Returns:
        On rank 0 what ``csre.state_dict()`` gives, with the rows of sharded banks collected on the host; None on the
        other ranks.
    """
    ranks = Ranks.of(group)
    state = csre.state_dict()
    for name, bank in cast("dict[str, ClassSortedBank]", csre.banks).items():
        if bank.shard.ranks > 1:
            spans = [Shard(rank, ranks.world).span(len(bank.written)) for rank in range(ranks.world)]
            state[f"banks.{name}.rows"] = ranks.collect(bank.rows, [stop - start for start, stop in spans])
    return state if ranks.rank == 0 else None


def _gather_branches(ranks: Ranks, queries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Per branch the unit rows (G, D) of all ranks, by one collective for all branches."""
    together = ranks.gather(torch.cat(list(queries.values()), dim=1))
    widths = [query.shape[1] for query in queries.values()]
    return dict(zip(queries, together.split(widths, dim=1), strict=True))


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
