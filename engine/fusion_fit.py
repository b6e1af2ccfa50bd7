"""Choosing weights of fusion by searching for the best accuracy: honestly (held-out folds), or as published tables do.

The candidates are equal weights and random draws from the box that published searches use, [0.2, 1.2] for each
stream. For a clip of class y and a rival class j, the fused margin is the sum over the streams of weight times (logit
of y minus logit of j); the clip is correct if all its margins are positive. Rivals that are behind in every stream, or
ahead in every one, are decided for all positive weights; only the others have to be tried with each candidate, which
is one matrix product.

Letters: S streams, n clips, K classes, D candidates, F folds, R undecided rivals.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.fusion import Counts, Matched, count_correct, fuse
from engine.scores import ScoresError

BOX = (0.2, 1.2)
MAX_CANDIDATES = 2000
MIN_CANDIDATES = 200
# Margins computed in one search: what a core or two do in some seconds. Large test sets get fewer candidates for it.
MARGINS_IN_ALL = 2_000_000_000
CLIPS_AT_ONCE = 1024  # (S, clips, K) margins of a chunk fill a few megabytes
RIVALS_AT_ONCE = 1024  # (rivals, D) margins of a chunk stay in the processor's cache


@dataclass(frozen=True, eq=False)
class HeldOutFit:
    """Weights chosen without the clips that they are judged by.

    counts: over all clips, each fused with the weights chosen on the folds that it is not in.
    weights: chosen weights, float64 (F, S), each row scaled to sum 1, since only their direction matters.
    candidates: D.
    """

    counts: Counts
    weights: NDArray[np.float64]
    candidates: int


def fit_held_out(matched: Matched, folds: int = 5, seed: int = 0) -> HeldOutFit:
    """Choose weights on all folds but one, apply them to that one, and pool the clips of all.

    The folds are stratified by class; the same seed gives the same folds and candidates.

    Raises:
        ScoresError: fewer than two streams, fewer than two folds, or more folds than the largest class has clips.
    """
    largest = int(np.bincount(matched.labels).max())
    if not 2 <= folds <= largest:
        raise ScoresError(f"--folds {folds}: from 2 to {largest}, the number of clips of the largest class")
    fold_of = _folds(matched.labels, folds, seed)
    candidates, hits = _search(matched, fold_of, seed)
    weights, fused = [], np.empty((len(matched.labels), matched.num_classes))
    for fold in range(folds):
        chosen = candidates[_best(hits.sum(axis=0) - hits[fold], candidates)]
        held_out = fold_of == fold
        fused[held_out] = fuse([stream[held_out] for stream in matched.logits], chosen.tolist())
        weights.append(chosen / chosen.sum())
    return HeldOutFit(count_correct(fused, matched.labels), np.array(weights), len(candidates))


def fit_on_test_labels(matched: Matched, seed: int = 0) -> list[float]:
    """The weights with the most correct clips, chosen and judged on the same labels: the figure is biased upwards.

    Raises:
        ScoresError: fewer than two streams.
    """
    candidates, hits = _search(matched, np.zeros(len(matched.labels), dtype=np.intp), seed)
    return candidates[_best(hits[0], candidates)].tolist()


def _folds(labels: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of every clip (n)."""
    from sklearn.model_selection import StratifiedKFold  # takes a second to import, which only a fit need pay

    fold_of = np.empty(len(labels), dtype=np.intp)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer clips than folds is missing in some of them, which does no harm to a choice of weights.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels)):
            fold_of[held_out] = fold
    return fold_of


def _search(matched: Matched, fold_of: NDArray[np.intp], seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Candidates (D, S), the first with equal weights, and the correct clips of each fold with each of them (F, D)."""
    num_streams = len(matched.logits)
    if num_streams < 2:
        raise ScoresError("weights are fitted to two streams or more; name more score files")
    rivals = _undecided_rivals(matched.logits, matched.labels)
    count = int(np.clip(MARGINS_IN_ALL // max(len(rivals.clips), 1), MIN_CANDIDATES, MAX_CANDIDATES))
    candidates = np.random.default_rng(seed).uniform(*BOX, size=(count, num_streams))
    candidates[0] = 1
    return candidates, _hits(rivals, candidates, fold_of)


def _best(hits: NDArray[np.int64], candidates: NDArray[np.float64]) -> int:
    """The candidate with the most hits (D); among equals the one nearest to equal weights, the least tuned."""
    cosine = candidates.sum(axis=1) / np.linalg.norm(candidates, axis=1)
    return int(np.lexsort((-cosine, -hits))[0])


@dataclass(frozen=True, eq=False)
class _Rivals:
    """Rival classes that some weights put first and others do not.

    clips: the clip of each, ascending (R). margins: float32 (R, S). always_correct: clips without any such rival that
    every choice of weights classifies correctly, bool (n).
    """

    clips: NDArray[np.intp]
    margins: NDArray[np.float32]
    always_correct: NDArray[np.bool_]


def _undecided_rivals(logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> _Rivals:
    clips, margins, always_correct = [], [], []
    for start in range(0, len(labels), CLIPS_AT_ONCE):
        chunk = slice(start, start + CLIPS_AT_ONCE)
        own = labels[chunk, None]
        margin = np.stack([np.take_along_axis(stream[chunk], own, axis=1) - stream[chunk] for stream in logits])
        is_own = np.arange(margin.shape[2]) == own
        behind = np.all(margin > 0, axis=0) | is_own  # (clips, K): no weights put this class before the clip's own
        ahead = np.all(margin <= 0, axis=0) & ~is_own  # every choice of weights does
        rows, classes = np.nonzero(~behind & ~np.any(ahead, axis=1, keepdims=True))
        clips.append(rows + start)
        margins.append(margin[:, rows, classes].T)
        always_correct.append(np.all(behind, axis=1))
    return _Rivals(np.concatenate(clips), np.concatenate(margins), np.concatenate(always_correct))


def _hits(rivals: _Rivals, candidates: NDArray[np.float64], fold_of: NDArray[np.intp]) -> NDArray[np.int64]:
    """Correct clips of each fold with each candidate (F, D). A tie with a rival counts as a miss."""
    num_folds = int(fold_of.max()) + 1
    always = np.bincount(fold_of[rivals.always_correct], minlength=num_folds)
    hits = np.repeat(always[:, None], len(candidates), axis=1)
    clips, first = np.unique(rivals.clips, return_index=True)
    bounds = np.append(first, len(rivals.clips))
    directions = candidates.T.astype(np.float32)
    start = 0
    while start < len(clips):
        # Whole clips, as many as have about that many rivals.
        stop = max(start + 1, int(np.searchsorted(bounds, bounds[start] + RIVALS_AT_ONCE, side="right")) - 1)
        rows = slice(bounds[start], bounds[stop])
        behind = rivals.margins[rows] @ directions > 0
        correct = np.logical_and.reduceat(behind, bounds[start:stop] - bounds[start])
        members = fold_of[clips[start:stop]] == np.arange(num_folds)[:, None]
        hits += (members.astype(np.float32) @ correct.astype(np.float32)).astype(np.int64)
        start = stop
    return hits
