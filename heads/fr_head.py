"""FR-Head: feature refinement with the confused clips of a batch (Zhou, Liu and Wang, CVPR 2023; section `fr_head`).

At four stages of the encoder, a spatial and a temporal branch project the map to one vector per clip. Every branch of
every stage keeps a prototype per class, the moving mean of the vectors of correctly classified clips, and scores the
clips against the prototypes. Clips that the encoder confuses shift the score of their true class: false negatives of
the class (clips of it that were taken for another) pull, false positives (clips taken for it) push. It is the
formulation of the authors' released code; docs/heads.md names what differs here.

Letters: n clips of this rank, G of all ranks, M persons, C channels, T frames, V joints, S positions left after
pooling, D dimensions of a vector, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from csre.ranks import Ranks
from heads.errors import HeadError
from heads.fr_head_options import FRHeadOptions
from heads.head import Moment, TrainingHead
from heads.prototypes import Confusion, class_means, moved, of_all_ranks, unit_rows, whole_loss
from model.encoder import Encoder, Observed

POOLED_AXIS = {"spatial": 2, "temporal": 3}
"""The axis of a map (N, C, T, V) that a branch averages."""


class Branch(nn.Module):
    """One vector per clip from a map, its persons averaged: (N, C, T, V) -> (N, D).

    mean over frames (spatial) or joints (temporal) -> 1x1 convolution to D // S channels -> BatchNorm -> ReLU ->
    flattened, position s of channel c at c * S + s -> linear layer to D. All layers start as PyTorch starts them.

    Raises HeadError for more positions than D, which would leave no channel.
    """

    def __init__(self, branch: str, shape: tuple[int, int, int], dim: int) -> None:
        super().__init__()
        channels, frames, joints = shape
        positions = joints if branch == "spatial" else frames
        if positions > dim:
            raise HeadError(f"fr_head.dim: {dim} is less than the {positions} positions of a {branch} branch; raise it")
        self.pooled_axis = POOLED_AXIS[branch]
        self.reduce = nn.Conv1d(channels, dim // positions, 1)
        self.norm = nn.BatchNorm1d(dim // positions)
        self.project = nn.Linear(dim // positions * positions, dim)

    def forward(self, maps: Tensor) -> Tensor:
        reduced = torch.relu(self.norm(self.reduce(maps.mean(dim=self.pooled_axis))))
        vectors = self.project(reduced.flatten(1))
        return vectors if vectors.dtype == torch.float64 else vectors.float()


class Refined(NamedTuple):
    """What a branch computes of a batch.

    Attributes:
        loss: scalar, the mean over the clips.
        prototypes: (K, D), updated; with gradient to the vectors.
        scores_fn, scores_fp: (G, K), cosines to the prototypes after the refinement by false negatives and by false
            positives, before the temperature.
    """

    loss: Tensor
    prototypes: Tensor
    scores_fn: Tensor
    scores_fp: Tensor


def refine(
    vectors: Tensor, labels: Tensor, confusion: Confusion, prototypes: Tensor, options: FRHeadOptions
) -> Refined:
    """Update the prototypes of a branch and contrast the clips with them.

    The prototype of a class with true positives keeps the share `momentum` and takes the rest from their mean; any
    other stays as it is. The scores of a clip are its cosines to all prototypes. They enter two cross entropies, each
    with a term added to the score of the true class: alpha * (1 - p) * (cosine to the mean of the class's false
    negatives - 1), and alpha * (1 - p) * (-cosine to the mean of the class's false positives - 1), p being the clip's
    probability of its class. A class without them has no term. For the other versions see docs/heads.md.

    Args:
        vectors: (G, D) float32 or float64, with gradient. Rows that are not finite enter no mean.
        labels: (G,) int64.
        confusion: of the same clips.
        prototypes: (K, D), without gradient; they are not changed.
        options: see there.
    """
    updated = moved(prototypes, vectors, confusion.true_positives, options.momentum)
    of_fn, has_fn = class_means(vectors, confusion.false_negatives)
    of_fp, has_fp = class_means(vectors, confusion.false_positives)

    unit, unit_prototypes = unit_rows(vectors), unit_rows(updated)
    scores = unit @ unit_prototypes.T
    scale = torch.ones_like(confusion.p_true)
    if options.version == "prototypes":
        pull = has_fn * ((unit_prototypes * unit_rows(of_fn)).sum(dim=1) - 1)
        push = has_fp * (-(unit_prototypes * unit_rows(of_fp)).sum(dim=1) - 1)
        shift_fn, shift_fp = pull.expand_as(scores), push.expand_as(scores)
        scale = 1 - confusion.p_true
    else:
        strength = options.alpha * (1 - confusion.p_true if options.use_p_map else scale)
        if options.version == "true_positives":
            strength = strength * confusion.true_positives.any(dim=0)
        pull = strength * has_fn[labels] * ((unit * unit_rows(of_fn)[labels]).sum(dim=1) - 1)
        push = strength * has_fp[labels] * (-(unit * unit_rows(of_fp)[labels]).sum(dim=1) - 1)
        own_class = one_hot(labels, len(prototypes)).to(scores.dtype)
        shift_fn, shift_fp = pull[:, None] * own_class, push[:, None] * own_class
    scores_fn = scores + shift_fn if "false_negatives" in options.terms else scores
    scores_fp = scores + shift_fp if "false_positives" in options.terms else scores
    losses = sum(
        cross_entropy(refined / options.temperature, labels, reduction="none") for refined in (scores_fn, scores_fp)
    )
    return Refined((scale * losses).mean(), updated, scores_fn, scores_fp)


class FRHead(TrainingHead):
    """Branches and prototypes of all stages that have a weight."""

    reads: ClassVar[frozenset[str]] = frozenset({"features", "stages"})
    inactive_advice = (
        "no clip's class had a false negative (fn) or false positive (fp) in its batch: every training clip was "
        "classified correctly, or batches are small beside the number of classes; a larger optim.batch_size meets more"
    )

    prototypes: Tensor
    updated: Tensor

    def __init__(self, encoder: Encoder, labels: Tensor, options: FRHeadOptions) -> None:
        super().__init__(encoder, labels)
        self.options = options
        self.weights = _stage_weights(encoder, options)
        self.trained = nn.ModuleDict(
            {
                f"{stage}_{branch}": Branch(branch, encoder.stage_shapes[stage], options.dim)
                for stage in self.weights
                for branch in POOLED_AXIS
            }
        )
        # As released, they start as noise of norm sqrt(D), which 50 updates of a class shrink to 0.5 %.
        self.register_buffer("prototypes", torch.randn(len(self._branches), encoder.num_classes, options.dim))
        self.register_buffer("updated", torch.zeros(encoder.num_classes, dtype=torch.bool))
        self._metrics: dict[str, Tensor] = {}

    def project(self, observed: Observed) -> dict[str, Tensor]:
        maps = {stage: observed.stages[stage].mean(dim=1) for stage in self.weights}
        return {name: branch(maps[name.rpartition("_")[0]]) for name, branch in self._branches.items()}

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
        with torch.autocast(labels.device.type, enabled=False):
            vectors, logits, labels = of_all_ranks(projected, logits, labels, ranks)
            confusion = Confusion.of(logits, labels, self.options.threshold)
            results = {
                name: refine(vectors[name], labels, confusion, self.prototypes[place].to(logits.dtype), self.options)
                for place, name in enumerate(vectors)
            }
        with torch.no_grad():
            self.prototypes.copy_(torch.stack([result.prototypes for result in results.values()]))
            self.updated |= confusion.true_positives.any(dim=1)
        self._metrics = self._measure(confusion, labels)
        totals = {}
        for branch in POOLED_AXIS:
            weighted = [weight * results[f"{stage}_{branch}"].loss for stage, weight in self.weights.items()]
            total = self.options.weight * torch.stack(weighted).sum()
            if moment.epoch < self.options.start_epoch:
                total = 0 * total
            totals[f"fr_{branch}"] = whole_loss(total, ranks)
        return totals

    def metrics(self) -> dict[str, Tensor]:
        return self._metrics

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        """Fill the layers from a published checkpoint, whose entries are `ren_<stage>.<layer>`.

        It has no prototypes. Other entries are ignored.

        Raises HeadError when an entry is missing or has another shape than here.
        """
        for name, branch in self._branches.items():
            own = branch.state_dict()
            for entry, published in published_names(name).items():
                if published not in state_dict:
                    raise HeadError(f"{published} is not in the checkpoint; give one that was trained with FR-Head")
                value = state_dict[published]
                if value.numel() != own[entry].numel():
                    raise HeadError(
                        f"{published} has shape {tuple(value.shape)}, here it is {tuple(own[entry].shape)}: the "
                        "checkpoint is of another skeleton, window or encoder"
                    )
                own[entry] = value.reshape(own[entry].shape)
            branch.load_state_dict(own)

    @property
    def _branches(self) -> Mapping[str, Branch]:
        return cast("Mapping[str, Branch]", self.trained)

    def _measure(self, confusion: Confusion, labels: Tensor) -> dict[str, Tensor]:
        metrics = {}
        names = {"false_negatives": "active_fr_fn", "false_positives": "active_fr_fp"}
        for term in self.options.terms:
            some = getattr(confusion, term).any(dim=1)
            if self.options.version == "prototypes":  # the correction of a class acts on all clips
                acts = some.any().expand(len(labels))
            elif self.options.version == "true_positives":
                acts = some[labels] & confusion.true_positives.any(dim=0)
            else:
                acts = some[labels]
            metrics[names[term]] = acts.float().mean()
        return metrics | {"fr_classes_updated": self.updated.float().mean()}


def published_names(name: str) -> dict[str, str]:
    """Entries of the branch called name (`<stage>_<branch>`) -> their published names."""
    stage, _, branch = name.rpartition("_")
    prefix = f"ren_{stage}.{ {'spatial': 'spatio', 'temporal': 'tempor'}[branch] }"
    layers = {"reduce": "squeeze.0", "norm": "squeeze.1", "project": "cl_net.cl_fc"}
    kinds = ("weight", "bias")
    table = {f"{ours}.{kind}": f"{prefix}_{theirs}.{kind}" for ours, theirs in layers.items() for kind in kinds}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return table | {f"norm.{kind}": f"{prefix}_squeeze.1.{kind}" for kind in statistics}


def _stage_weights(encoder: Encoder, options: FRHeadOptions) -> dict[str, float]:
    weights = {stage: weight for stage, weight in vars(options.stage_weights).items() if weight > 0}
    if not weights:
        raise HeadError("fr_head.stage_weights: all of them are 0, so nothing is trained; set one above 0")
    for stage in weights:
        if stage not in encoder.stage_shapes:
            raise HeadError(
                f"fr_head.stage_weights.{stage}: {type(encoder).__name__} shows no stage {stage}, only "
                f"{', '.join(encoder.stage_shapes)}; set it to 0"
            )
    return weights
