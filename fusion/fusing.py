"""Fusing streams: match the clips of several score files by name, and add up their weighted logits.

The fused score of a clip is the sum over the streams of weight times logits, raw ones unless `unit_length` has been
there first; its prediction is the first largest. Published scripts pair the rows of files by position, so that files of
differently ordered runs are fused wrongly in silence; here clips are matched by name, and whatever differs is refused.

Letters: S streams, n clips, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fusion.scores import Scores, ScoresError, check_classes, some_names


@dataclass(frozen=True, eq=False)
class Matched:
    """Streams whose rows belong to the same clips.

    names: (n). labels: int64 (n). logits: S arrays, float32 (n, K), in the order of the streams they came from.
    benchmark: None where no stream says.
    """

    names: Sequence[str]
    labels: NDArray[np.int64]
    logits: list[NDArray[np.float32]]
    benchmark: str | None

    def normalised(self) -> Matched:
        """The same clips with logits of length 1."""
        return replace(self, logits=[unit_length(logits) for logits in self.logits])

    @property
    def num_classes(self) -> int:
        """K."""
        return self.logits[0].shape[1]


@dataclass(frozen=True)
class Tally:
    """Clips whose class came first (`correct`) or among the first five (`top5`), of `total`."""

    correct: int
    top5: int
    total: int

    @property
    def top1_percent(self) -> float:
        """Top-1 accuracy in per cent."""
        return 100 * self.correct / self.total

    @property
    def top5_percent(self) -> float:
        """Top-5 accuracy in per cent."""
        return 100 * self.top5 / self.total


def match(streams: Sequence[Scores], labels: Mapping[str, int] | None = None) -> Matched:
    """Bring streams into the clip order of the first one.

    Args:
        streams: one or more; the clips of each may be in any order.
        labels: class of every clip by name, for streams that carry none; those that do must agree with it.

    Raises:
        ScoresError: different benchmarks, class counts, clips or labels; no labels at all.
    """
    for first, other in pairwise(streams):
        _check_same("class counts", first, first.logits.shape[1], other, other.logits.shape[1])
    benchmarks = [scores for scores in streams if scores.benchmark is not None]
    for first, other in pairwise(benchmarks):
        _check_same("benchmarks", first, first.benchmark, other, other.benchmark)

    reference = streams[0]
    rows = [_rows(scores, reference.names, reference.source) for scores in streams]
    known = [
        (scores.source, scores.labels[order])
        for scores, order in zip(streams, rows, strict=True)
        if scores.labels is not None
    ]
    if labels is not None:
        known.insert(0, ("the labels file", _labels_of(reference, labels)))
    if not known:
        raise ScoresError(
            f"{reference.source}: carries no labels, like all pickled scores; add --labels FILE (npz: names, labels)"
        )
    for (first_source, first_labels), (other_source, other_labels) in pairwise(known):
        differing = np.flatnonzero(first_labels != other_labels)
        if len(differing):
            raise ScoresError(
                f"{first_source} and {other_source}: different labels for {len(differing)} of {len(reference.names)} "
                f"clips ({some_names(reference.names[row] for row in differing.tolist())}); fuse runs of one data set"
            )
    return Matched(
        names=reference.names,
        labels=known[0][1],
        logits=[scores.logits[order] for scores, order in zip(streams, rows, strict=True)],
        benchmark=benchmarks[0].benchmark if benchmarks else None,
    )


def unit_length(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (n, K) of one stream, each clip's divided by their Euclidean norm; zeros stay.

    A stream of small logits then weighs as much as one of large ones, and a clip as much as another (HD-GCN's fusion).
    """
    norms = np.linalg.norm(logits.astype(np.float64), axis=1, keepdims=True)
    return (logits / np.where(norms > 0, norms, 1)).astype(np.float32)


def check_weights(weights: Sequence[float], num_streams: int) -> None:
    """Refuse another number of weights than streams, and weights that are negative, not finite or all zero."""
    if len(weights) != num_streams:
        raise ScoresError(f"{len(weights)} weights for {num_streams} streams; give one for each, in their order")
    if not np.isfinite(weights).all() or min(weights) < 0 or max(weights) == 0:
        shown = " ".join(f"{weight:g}" for weight in weights)
        raise ScoresError(f"weights {shown}: finite numbers are expected, none negative and one positive")


def fuse(logits: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float64]:
    """The weighted sum over streams: S arrays (n, K) and S weights, as `check_weights` admits, to float64 (n, K)."""
    check_weights(weights, len(logits))
    fused = np.zeros(logits[0].shape)
    for weight, stream in zip(weights, logits, strict=True):
        fused += weight * stream.astype(np.float64)
    return fused


def count_correct(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Tally:
    """Count the clips whose class ranks first and among the first five; of equal scores the lower class ranks first.

    Args:
        logits: (n, K), of one stream or fused.
        labels: (n).
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    lower_class = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & lower_class)).sum(axis=1)
    return Tally(correct=int((rank < 1).sum()), top5=int((rank < 5).sum()), total=len(labels))


def _check_same(what: str, first: Scores, value: object, other: Scores, other_value: object) -> None:
    if value != other_value:
        raise ScoresError(f"different {what}: {value} in {first.source}, {other_value} in {other.source}")


def _rows(scores: Scores, names: Sequence[str], source: str) -> NDArray[np.intp]:
    """For each of the names the row of `scores` that has it."""
    row_of = {name: row for row, name in enumerate(scores.names)}
    _check_same_clips(names, source, row_of, scores.source)
    return np.array([row_of[name] for name in names], dtype=np.intp)


def _labels_of(scores: Scores, labels: Mapping[str, int]) -> NDArray[np.int64]:
    """The labels file in the order of a stream."""
    # Extra names matter: another protocol of the same data set may give the same names to other clips.
    _check_same_clips(scores.names, scores.source, labels, "the labels file")
    found = np.array([labels[name] for name in scores.names], dtype=np.int64)
    check_classes(found, scores.logits.shape[1])
    return found


def _check_same_clips(names: Sequence[str], source: str, others: Mapping[str, int], other_source: str) -> None:
    only_here = [name for name in names if name not in others]
    known = set(names)
    only_there = [name for name in others if name not in known]
    if only_here or only_there:
        sides = [
            f"{len(only)} of {total} only in {where} ({some_names(only)})"
            for only, total, where in ((only_here, len(names), source), (only_there, len(others), other_source))
            if only
        ]
        raise ScoresError(f"different clips: {', '.join(sides)}; fuse scores of one benchmark, tested on all its clips")
