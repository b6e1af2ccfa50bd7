"""Weights of fusion: equal, as published repositories have them, or searched for.

The published weights were evidently chosen by hand on the test sets that they are used on (they differ by benchmark),
so that figures made with them are a little optimistic; `equal` is not tuned on anything. A search is honest where the
clips that judge the weights had no part in it (`fit_held_out`); searched on the test labels themselves
(`fit_on_test_labels`, as some published tables are made) the figure is biased upwards.

Letters: S streams, n clips, K classes, D candidates, F folds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.words import did_you_mean
from feeders.benchmarks import BENCHMARKS
from fusion.fusing import Matched, Tally, count_correct, fuse
from fusion.scores import ScoresError

_J, _B, _JM, _BM = "joint", "bone", "joint_motion", "bone_motion"


@dataclass(frozen=True)
class _Preset:
    """Weights of one repository: `benchmark` None means any, `any_number` that streams may be missing or repeated."""

    name: str
    weights: dict[str, float]
    benchmark: str | None = None
    any_number: bool = False

    def fits(self, streams: Sequence[str | None]) -> bool:
        if self.any_number:
            return all(stream in self.weights for stream in streams)
        return sorted(map(str, streams)) == sorted(self.weights)


def _four(joint: float, bone: float, joint_motion: float, bone_motion: float) -> dict[str, float]:
    return {_J: joint, _B: bone, _JM: joint_motion, _BM: bone_motion}


# Where a repository has no working rule for a number of streams, there is no preset for it.
_PRESETS = (
    _Preset("agcn", {_J: 1, _B: 1}),
    _Preset("ctrgcn", {_J: 1, _B: 1}),
    _Preset("ctrgcn", {_J: 0.6, _B: 0.6, _JM: 0.4}),
    _Preset("ctrgcn", _four(0.6, 0.6, 0.4, 0.4)),
    _Preset("shiftgcn", {_J: 1, _B: 1}),
    _Preset("shiftgcn", _four(0.6, 0.6, 0.4, 0.4)),
    _Preset("dcgcn", _four(0.7, 0.7, 0.3, 0.3)),
    _Preset("pyskl", {_J: 1, _B: 1}),  # there of probabilities, not of logits
    _Preset("pyskl", _four(2, 2, 1, 1)),
    *(
        _Preset(name, weights)
        for name in ("hypergcn", "hypergcn_large")
        for weights in ({_J: 1.0, _B: 1.0}, {_J: 0.6, _B: 0.6, _JM: 0.4})
    ),
    *(
        _Preset(name, _four(*weights), benchmark.name)
        for benchmark in BENCHMARKS.values()
        for name, weights in benchmark.fusion_weights.items()
    ),
    _Preset("infogcn", _four(1.5, 1.5, 1, 1), any_number=True),
)

EQUAL = "equal"
PRESETS = (EQUAL, *dict.fromkeys(preset.name for preset in _PRESETS))

BOX = (0.2, 1.2)
"""The range of each weight in a search, as in the published ones."""
CANDIDATES = 1000
"""Weights that a search tries: seconds for NW-UCLA, a minute or two for the test clips of NTU120."""


def check_preset(name: str) -> None:
    """Refuse a name that is none of `PRESETS`."""
    if name not in PRESETS:
        raise ScoresError(f"unknown preset {name!r}{did_you_mean(name, PRESETS)}; known are {', '.join(PRESETS)}")


def preset_weights(name: str, streams: Sequence[str | None], benchmark: str | None = None) -> list[float]:
    """One weight per stream, in the order given.

    Args:
        name: one of `PRESETS`.
        streams: names of the streams.
        benchmark: needed by presets that differ between benchmarks.

    Raises:
        ScoresError: an unknown name; a preset that is not defined for these streams or this benchmark.
    """
    check_preset(name)
    if name == EQUAL:
        return [1.0] * len(streams)
    fitting = [preset for preset in _PRESETS if preset.fits(streams)]
    of_name = [preset for preset in fitting if preset.name == name]
    for preset in of_name:
        if preset.benchmark in (None, benchmark):
            return [float(preset.weights[str(stream)]) for stream in streams]
    if of_name and benchmark is None:
        known = ", ".join(sorted(str(preset.benchmark) for preset in of_name))
        raise ScoresError(f"preset {name!r} differs between benchmarks; add --benchmark with one of {known}")
    defined = [EQUAL, *dict.fromkeys(p.name for p in fitting if p.benchmark in (None, benchmark))]
    raise ScoresError(
        f"preset {name!r} is not defined for {len(streams)} streams ({', '.join(map(str, streams))})"
        f"{f' on {benchmark}' if benchmark else ''}; defined there are {', '.join(defined)}, or give numbers"
    )


@dataclass(frozen=True, eq=False)
class HeldOutFit:
    """Weights chosen without the clips that they are judged by.

    tally: over all clips, each fused with the weights chosen on the folds that it is not in.
    weights: chosen weights, float64 (F, S), each row scaled to sum 1, since only their direction matters.
    """

    tally: Tally
    weights: NDArray[np.float64]


def check_fit(num_streams: int) -> None:
    """Refuse to fit weights to a single stream."""
    if num_streams < 2:
        raise ScoresError("weights are fitted to two streams or more; name more score files")


def fit_held_out(matched: Matched, folds: int = 5, seed: int = 0) -> HeldOutFit:
    """Choose weights on all folds but one, apply them to that one, and pool the clips of all.

    The folds are stratified by class; the same seed gives the same folds and candidates.

    Raises:
        ScoresError: fewer than two streams, fewer than two folds, or more folds than the largest class has clips.
    """
    largest = int(np.bincount(matched.labels).max())
    if not 2 <= folds <= largest:
        raise ScoresError(f"--folds {folds}: must be from 2 to {largest}, the number of clips of the largest class")
    fold_of = _folds(matched.labels, folds, seed)
    candidates, hits = _search(matched, fold_of, seed)
    weights, fused = [], np.empty((len(matched.labels), matched.num_classes))
    for fold in range(folds):
        chosen = candidates[_best(hits.sum(axis=0) - hits[fold], candidates)]
        held_out = fold_of == fold
        fused[held_out] = fuse([stream[held_out] for stream in matched.logits], chosen.tolist())
        weights.append(chosen / chosen.sum())
    return HeldOutFit(count_correct(fused, matched.labels), np.array(weights))


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
    check_fit(num_streams)
    candidates = np.random.default_rng(seed).uniform(*BOX, size=(CANDIDATES, num_streams))
    candidates[0] = 1
    streams = np.stack(matched.logits)  # (S, n, K); float32 is exact enough to rank candidates, and half the time
    flat = streams.reshape(num_streams, -1)
    hits = np.empty((int(fold_of.max()) + 1, CANDIDATES), dtype=np.int64)
    for index, weights in enumerate(candidates.astype(np.float32)):
        correct = (weights @ flat).reshape(streams.shape[1:]).argmax(axis=1) == matched.labels
        hits[:, index] = np.bincount(fold_of[correct], minlength=len(hits))
    return candidates, hits


def _best(hits: NDArray[np.int64], candidates: NDArray[np.float64]) -> int:
    """The candidate with the most hits (D); among equals the one nearest to equal weights, the least tuned."""
    cosine = candidates.sum(axis=1) / np.linalg.norm(candidates, axis=1)
    return int(np.lexsort((-cosine, -hits))[0])
