"""The two losses of ACLNet (arXiv 2601.16694, 2026; section `acl`), on the relations that an encoder shows.

Intra-class: each clip is drawn to the clips of its class in a first-in first-out memory, gently (a margin), against
those of other classes. Inter-class: from a certain epoch on, classes that the encoder confuses, directly or because
they are confused with the same others, form families, and each clip is contrasted with the prototypes of its family.
The losses are those of the authors' released code. The relations that they are applied to are ours: the mean over the
subsets of what the encoder shows. docs/heads.md names all differences.

Letters: n clips of this rank, G of all ranks, V joints, D dimensions of a vector, K classes, B places in the memory.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from csre.ranks import Ranks
from heads.acl_options import ACLOptions
from heads.errors import HeadError
from heads.head import Moment, TrainingHead
from heads.prototypes import Confusion, moved, of_all_ranks, unit_rows, whole_loss
from model.encoder import Encoder, Observed

_TOP = 10
"""Classes that a class is confused with most, as many as count."""
_COMMON = 4
"""Classes with more than this many of them in common belong to one family."""


class Remembered(NamedTuple):
    """The memory, oldest first, empty places (zero rows, label -1) before all others.

    Attributes:
        rows: (B, D) unit rows.
        labels: (B,) int64.
    """

    rows: Tensor
    labels: Tensor

    def with_clips(self, vectors: Tensor, labels: Tensor) -> Remembered:
        """The newest B of what is remembered and the unit vectors (G, D), without those that are not finite."""
        kept = vectors.detach().isfinite().all(dim=1)
        rows = torch.cat([self.rows, torch.where(kept[:, None], vectors.detach(), 0.0)])
        labels = torch.cat([self.labels, torch.where(kept, labels, -1)])
        newest = (labels >= 0).long().argsort(stable=True)[-len(self.labels) :]
        return Remembered(rows[newest], labels[newest])


def intra_class_loss(vectors: Tensor, labels: Tensor, memory: Remembered, options: ACLOptions) -> tuple[Tensor, Tensor]:
    """Contrast clips with the memory that they end, and with each other.

    With s the cosines over the temperature and j a memory row of the clip's class, other than the clip itself, j costs
    -s_j + log( exp(-epsilon) exp(s_j) + sum over rows of other classes of exp(s) ); a clip's costs are averaged.

    Args:
        vectors: (G, D) unit rows, with gradient, through both sides of a product.
        labels: (G,) int64.
        memory: of at least G places, its last G rows are the clips.
        options: see there.

    Returns:
        The mean over the clips, a zero with gradient until the memory is full; and (G,) bool, the clips that have a
        positive in a full memory.
    """
    clips, places = len(vectors), len(memory.labels)
    rows = torch.cat([memory.rows[: places - clips], vectors])
    scores = vectors @ rows.T / options.temperature
    scores = scores - scores.detach().amax(dim=1, keepdim=True)
    of_class = labels[:, None] == memory.labels
    place = torch.arange(places, device=labels.device)
    itself = place == place[places - clips :, None]
    exponentials = scores.exp()
    others = torch.where(of_class, 0.0, exponentials).sum(dim=1, keepdim=True)
    costs = torch.log(math.exp(-options.epsilon) * exponentials + others + 1e-6) - scores
    positives = of_class & ~itself
    per_clip = torch.where(positives, costs, 0.0).sum(dim=1) / positives.sum(dim=1).clamp(min=1)
    full = (memory.labels >= 0).all()
    return per_clip.mean() * full, positives.any(dim=1) & full


def count_confusions(predicted: Tensor, labels: Tensor, classes: int, false_positives: str) -> Tensor:
    """(K, K) int64: clips of class a that were taken for b; plus those of b taken for a, once per clip of class a."""
    pairs = torch.zeros(classes, classes, dtype=torch.int64, device=labels.device)
    pairs.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)
    clips = pairs.sum(dim=1, keepdim=True)
    errors = pairs.fill_diagonal_(0)
    return errors + errors.T * (clips if false_positives == "per_clip" else 1)


def build_families(counts: Tensor, own_class: str) -> Tensor:
    """(K, K) bool: the family of each class, from its counts (K, K).

    The ten classes that it is confused with most (of equals, those of lower number), and the classes that have more
    than four of their ten in common with it.
    """
    order = counts.sort(dim=1, descending=True, stable=True).indices[:, :_TOP]
    top = torch.zeros_like(counts, dtype=torch.float32).scatter_(1, order, 1.0)
    itself = torch.eye(len(counts), dtype=torch.bool, device=counts.device)
    families = top.bool() | (top @ top.T > _COMMON) & ~itself
    return families & ~itself if own_class == "exclude" else families


def inter_class_loss(vectors: Tensor, labels: Tensor, prototypes: Tensor, families: Tensor) -> Tensor:
    """Mean cross entropy of clips (G, D) with the prototype of their class against those of its family (K, K).

    The larger the family, the higher the temperature: 0.1 up to ten classes, 0.5 up to twenty, else 1.
    """
    sizes = families.sum(dim=1)
    temperatures = (
        torch.ones_like(sizes, dtype=vectors.dtype).masked_fill(sizes <= 20, 0.5).masked_fill(sizes <= 10, 0.1)
    )
    scores = unit_rows(vectors) @ unit_rows(prototypes).T / temperatures[labels][:, None]
    own = scores.gather(1, labels[:, None])
    against = scores.masked_fill(~families[labels], -torch.inf)
    return (torch.cat([own, against], dim=1).logsumexp(dim=1) - own[:, 0]).mean()


class ACLHead(TrainingHead):
    """A linear layer for each loss; memory, prototypes, counts and families. The encoder shows `relations`."""

    reads: ClassVar[frozenset[str]] = frozenset({"features", "relations"})
    inactive_advice = "acl.memory was never full, or held no two clips of a class; lower it"

    memory: Tensor
    memory_labels: Tensor
    prototypes: Tensor
    counts: Tensor
    families: Tensor
    families_epoch: Tensor

    def __init__(self, encoder: Encoder, labels: Tensor, options: ACLOptions) -> None:
        super().__init__(encoder, labels)
        assert encoder.relation_shape is not None  # the registry builds no head for what an encoder does not show
        self.options = options
        joints, classes = encoder.relation_shape[-1], encoder.num_classes
        self.trained = nn.ModuleDict({name: nn.Linear(joints**2, options.dim) for name in ("inter", "intra")})
        self.register_buffer("memory", torch.zeros(options.memory, options.dim))
        self.register_buffer("memory_labels", torch.full((options.memory,), -1))
        self.register_buffer("prototypes", torch.randn(classes, options.dim))
        self.register_buffer("counts", torch.zeros(classes, classes, dtype=torch.int64))
        self.register_buffer("families", torch.zeros(classes, classes, dtype=torch.bool))
        self.register_buffer("families_epoch", torch.tensor(0))  # of which epoch they are
        self._metrics: dict[str, Tensor] = {}

    def project(self, observed: Observed) -> dict[str, Tensor]:
        assert observed.relations is not None
        with torch.autocast(observed.relations.device.type, enabled=False):  # see heads.skeleton_gcl
            graphs = observed.relations.to(next(self.trained.parameters()).dtype).mean(dim=1).flatten(1)
            vectors = {name: layer(graphs) for name, layer in self.trained.named_children()}
        return {"inter": vectors["inter"], "intra": unit_rows(vectors["intra"])}

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
        options = self.options
        if len(labels) * ranks.world > options.memory:
            raise HeadError(
                f"acl.memory: {options.memory} is less than the {len(labels) * ranks.world} clips of a step; raise it "
                "to a few times optim.batch_size"
            )
        with torch.autocast(labels.device.type, enabled=False):
            vectors, logits, labels = of_all_ranks(projected, logits, labels, ranks)
            memory = Remembered(self.memory.to(logits.dtype), self.memory_labels).with_clips(vectors["intra"], labels)
            intra, acts = intra_class_loss(vectors["intra"], labels, memory, options)
            inter = self._inter(vectors["inter"], logits, labels, moment)
        self.memory.copy_(memory.rows)
        self.memory_labels.copy_(memory.labels)
        self._metrics = {
            "active_acl_intra": acts.float().mean(),
            "acl_memory_filled": (memory.labels >= 0).float().mean(),
            "acl_family_size": self.families.sum(dim=1).float().mean(),
        }
        return {
            "acl_intra": whole_loss(options.intra_weight * intra, ranks),
            "acl_inter": whole_loss(options.inter_weight * inter, ranks),
        }

    def metrics(self) -> dict[str, Tensor]:
        return self._metrics

    def _inter(self, vectors: Tensor, logits: Tensor, labels: Tensor, moment: Moment) -> Tensor:
        """The loss between classes after its state has moved; a zero with gradient up to `count_epoch`."""
        options, epoch = self.options, moment.epoch
        confusion = Confusion.of(logits, labels, options.threshold)
        prototypes = moved(self.prototypes.to(logits.dtype), vectors, confusion.true_positives, options.momentum)
        with torch.no_grad():
            self.prototypes.copy_(prototypes)
            if epoch >= options.count_epoch:
                predicted = torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), labels)
                self.counts += count_confusions(predicted, labels, len(prototypes), options.false_positives)
        if epoch <= options.count_epoch:
            return 0 * vectors.sum()
        with torch.no_grad():  # built in the first step of an epoch, also where that one was skipped or resumed
            families = build_families(self.counts, options.own_class)
            self.families.copy_(torch.where(self.families_epoch == epoch, self.families, families))
            self.families_epoch.fill_(epoch)
        return inter_class_loss(vectors, labels, prototypes, self.families)
