"""What the command for fusing streams answers: the named score files fused, or a table of all sets under a folder.

Both answer with text and with the same as data, one dictionary for each fusion: `benchmark`, `streams`, `selection`,
`clips`, `correct`, `top1` and `top5` (%), `weights` (`name`, which ends in `l2` for normalised logits, and `values`)
and `members` (of each stream its score file and what made it), which `tools/record.py` turns into records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.words import did_you_mean
from feeders.choices import STREAMS
from fusion.fusing import Matched, Tally, check_weights, count_correct, fuse, match
from fusion.scores import Scores, ScoresError, load_labels, load_scores
from fusion.stream_sets import StreamSet, find_sets
from fusion.weights import (
    CANDIDATES,
    EQUAL,
    check_fit,
    check_preset,
    fit_held_out,
    fit_on_test_labels,
    preset_weights,
)

SHORT = {"joint": "J", "bone": "B", "joint_motion": "JM", "bone_motion": "BM"}
FUSIONS = {"2S": STREAMS[:2], "4S": STREAMS}
BEST_NOTE = (
    "best: each run's best epoch, chosen on these same test clips unless it held clips out; last: its final epoch"
)
TUNED = "tuned on test labels"
TUNED_NOTE = (
    "WARNING: the tuned weights were chosen on the very labels that they are judged by: the figure is biased upwards "
    "and serves only to compare with tables made in the same way"
)
NORMALISED = "l2"
NORMALISED_NOTE = f"{NORMALISED}: every stream's logits of a clip are divided by their Euclidean norm first"
LIMIT = 3  # incomplete sets that an error message names


class Report(NamedTuple):
    """The text for the terminal, and the fusions in it as data (see the top of this module)."""

    text: str
    fusions: list[dict[str, Any]]


@dataclass(frozen=True)
class Fit:
    """How weights are searched for: on held-out folds, or on the test labels themselves."""

    folds: int = 5
    seed: int = 0
    on_test_labels: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ScoresError(f"--seed {self.seed}: must be from 0 to {2**32 - 1}")
        if self.folds < 2:
            raise ScoresError(f"--folds {self.folds}: must be 2 or more")


def check_request(weights: str | Sequence[float], fit: Fit | None, num_streams: int) -> None:
    """Refuse weights or a fit that cannot be right for so many streams, whatever their scores.

    `report_named` begins with it; a command that first has to make the scores asks before it does.

    Raises:
        ScoresError: an unknown preset, weights that do not go with the streams, a fit to a single stream.
    """
    if isinstance(weights, str):
        check_preset(weights)
    else:
        check_weights(weights, num_streams)
    if fit is not None:
        check_fit(num_streams)


def report_named(
    paths: Sequence[Path],
    head_titles: Mapping[str, str],
    weights: str | Sequence[float] = EQUAL,
    fit: Fit | None = None,
    selection: str = "last",
    labels: Path | None = None,
    streams: Sequence[str] | None = None,
    benchmark: str | None = None,
    normalise: bool = False,
) -> Report:
    """Fuse the named score files, or those of the named folders of runs.

    Args:
        paths: score files, or folders of runs (then their scores of the `selection` epoch).
        head_titles: what tables call a training head, by its name in score files; others keep their name.
        weights: name of a preset, or a number for each of the paths.
        fit: search for weights too.
        labels: npz of names and labels, for score files that carry none.
        streams: the stream of each of the paths, for score files that do not say.
        benchmark: likewise, for presets.
        normalise: whether every stream's logits of a clip are divided by their Euclidean norm before they are added.

    Raises:
        ScoresError: whatever cannot be read, does not match, or is not defined.
    """
    check_request(weights, fit, len(paths))
    loaded, notes = _with_streams([load_scores(_score_file(path, selection)) for path in paths], streams)
    matched = match(loaded, load_labels(labels) if labels else None)
    if benchmark and matched.benchmark and benchmark != matched.benchmark:
        raise ScoresError(f"--benchmark {benchmark}: the score files are of {matched.benchmark}; omit it")
    benchmark = matched.benchmark or benchmark
    if normalise:
        matched = matched.normalised()
        notes.append(NORMALISED_NOTE)

    lines = [f"{f'{benchmark}: ' if benchmark else ''}{len(matched.names)} clips, {matched.num_classes} classes"]
    lines.append(f"{'':16}{'top-1 %':>9}{'correct':>9}{'top-5 %':>9}{'in top 5':>9}")
    for scores, logits in zip(loaded, matched.logits, strict=True):
        lines.append(_line(str(scores.stream), count_correct(logits, matched.labels), _described(scores, head_titles)))
    fusions = []
    if len(loaded) > 1:
        label = weights if isinstance(weights, str) else "given"
        if isinstance(weights, str):
            weights = preset_weights(weights, [scores.stream for scores in loaded], benchmark)
        tally, label = _fused(matched, weights), _named(label, normalise)
        lines.append(_line("fused", tally, f"weights {_numbers(weights)} ({label})"))
        fusions.append(_as_data(matched, loaded, tally, label, weights, benchmark))
    if fit is not None and fit.on_test_labels:
        tuned = fit_on_test_labels(matched, fit.seed)
        tally, label = _fused(matched, tuned), _named(TUNED, normalise)
        lines += [_line("fused, tuned", tally, f"weights {_numbers(tuned)} ({label})"), TUNED_NOTE]
        fusions.append(_as_data(matched, loaded, tally, label, tuned, benchmark))
    elif fit is not None:
        lines += _held_out(matched, fit)
    return Report("\n".join([*lines, *notes, *_notes(loaded)]), fusions)


def report_sets(
    work_dir: Path,
    head_titles: Mapping[str, str],
    preset: str = EQUAL,
    tune_on_test_labels: bool = False,
    normalise: bool = False,
) -> Report:
    """The table J, B, JM, BM, 2S, 4S of every complete set of streams under a folder, and what is incomplete.

    Args:
        work_dir: the runs' folder.
        head_titles: as in `report_named`.
        preset: name of the weights.
        tune_on_test_labels: two columns more, with weights that are chosen on the labels which judge them.
        normalise: as in `report_named`.

    Raises:
        ScoresError: no such folder, no complete set in it, an unknown preset.
    """
    check_preset(preset)
    sets, problems = find_sets(work_dir)
    tuned_columns = [f"{fusion} {TUNED}" for fusion in FUSIONS] if tune_on_test_labels else []
    rows = [["benchmark", "encoder", "runs", "epochs", "clips", *SHORT.values(), *FUSIONS, *tuned_columns]]
    notes: dict[str, None] = {}  # in order, each once
    fusions: list[dict[str, Any]] = []
    for found in sets:
        if found.missing:
            problems.append(f"{_title(found)}: no scores of {', '.join(found.missing)}")
            continue
        try:
            loaded = found.load()
            matched = match(loaded).normalised() if normalise else match(loaded)
        except ScoresError as error:
            problems.append(f"{_title(found)}: {error}")
            continue
        cells = [_percent(count_correct(logits, matched.labels)) for logits in matched.logits]
        for label in [preset, TUNED] if tune_on_test_labels else [preset]:
            for fusion, streams in FUSIONS.items():
                part = replace(matched, logits=matched.logits[: len(streams)])
                try:
                    weights = _weights(part, label, streams)
                except ScoresError as error:
                    cells.append("-")
                    notes[f"{fusion}: {error}"] = None
                    continue
                tally = _fused(part, weights)
                cells.append(_percent(tally))
                name = _named(label, normalise)
                fusions.append(_as_data(part, loaded[: len(streams)], tally, name, weights, matched.benchmark))
                if label != TUNED:
                    notes[f"{fusion} on {matched.benchmark}: weights {_numbers(weights)} ({name})"] = None
        title = loaded[0].title(head_titles)
        rows.append([found.benchmark, title, found.runs, found.selection, str(len(matched.names)), *cells])
    if len(rows) == 1:
        more = f"; and {len(problems) - LIMIT} more" if len(problems) > LIMIT else ""
        raise ScoresError(f"{work_dir}: no complete set of streams; {'; '.join(problems[:LIMIT])}{more}")
    lines = ["top-1 accuracy in %; 2S = J + B, 4S = J + B + JM + BM", *_aligned(rows), *notes, BEST_NOTE]
    if normalise:
        lines.append(NORMALISED_NOTE)
    if tune_on_test_labels:
        lines.append(TUNED_NOTE)
    return Report("\n".join([*lines, *(f"skipped: {problem}" for problem in problems)]), fusions)


def _named(label: str, normalise: bool) -> str:
    """How a fusion's weights are named, in the text and in records: they are others for other logits."""
    return f"{label} {NORMALISED}" if normalise else label


def _weights(matched: Matched, label: str, streams: Sequence[str]) -> list[float]:
    if label == TUNED:
        return fit_on_test_labels(matched)
    return preset_weights(label, streams, matched.benchmark)


def _as_data(
    matched: Matched,
    members: Sequence[Scores],
    tally: Tally,
    label: str,
    weights: Sequence[float],
    benchmark: str | None,
) -> dict[str, Any]:
    """A fusion as data; see the top of this module."""
    selections = {scores.selection for scores in members}
    return {
        "benchmark": benchmark,
        "streams": [scores.stream for scores in members],
        "selection": next(iter(selections)) if len(selections) == 1 else "mixed",
        "clips": tally.total,
        "correct": tally.correct,
        "top1": tally.top1_percent,
        "top5": tally.top5_percent,
        "weights": {"name": label, "values": [float(weight) for weight in weights]},
        "members": [
            {
                "scores": scores.source,
                "encoder": scores.encoder,
                "heads": scores.heads.split("+") if scores.heads else [],
                "stream": scores.stream,
                "run": scores.run,
                "selection": scores.selection,
                "epoch": scores.epoch,
                "top1": count_correct(logits, matched.labels).top1_percent,
            }
            for scores, logits in zip(members, matched.logits, strict=True)
        ],
    }


def _score_file(path: Path, selection: str) -> Path:
    """The file itself, or that of a run's folder."""
    if not path.is_dir():
        return path
    file = path / f"scores_{selection}.npz"
    if not file.exists():
        others = [other.name for other in sorted(path.glob("scores_*.npz"))]
        found = f"it has {', '.join(others)}" if others else "a finished run's folder has one"
        raise ScoresError(f"{path}: no {file.name} in it; {found}")
    return file


def _with_streams(loaded: list[Scores], given: Sequence[str] | None) -> tuple[list[Scores], list[str]]:
    """Scores that all know their stream, and a note if it had to be taken from the order of the files."""
    silent = [scores.source for scores in loaded if scores.stream is None]
    if given is not None:
        _check_streams(loaded, given)
        return [replace(scores, stream=stream) for scores, stream in zip(loaded, given, strict=True)], []
    if not silent:
        return loaded, []
    if len(silent) < len(loaded) or len(loaded) > len(STREAMS):
        raise ScoresError(f"{silent[0]}: does not say its stream; add --streams with one name for each score file")
    note = f"streams taken from the order of the files, which do not say ({', '.join(STREAMS)}); --streams names others"
    return [replace(scores, stream=stream) for scores, stream in zip(loaded, STREAMS, strict=False)], [note]


def _check_streams(loaded: list[Scores], given: Sequence[str]) -> None:
    if len(given) != len(loaded):
        raise ScoresError(f"--streams: {len(given)} names for {len(loaded)} score files; give one for each")
    for scores, stream in zip(loaded, given, strict=True):
        if stream not in STREAMS:
            raise ScoresError(
                f"--streams: unknown stream {stream!r}{did_you_mean(stream, STREAMS)}; known are {', '.join(STREAMS)}"
            )
        if scores.stream not in (None, stream):
            raise ScoresError(f"--streams: {scores.source} is of stream {scores.stream}, not {stream}")


def _fused(matched: Matched, weights: Sequence[float]) -> Tally:
    return count_correct(fuse(matched.logits, weights), matched.labels)


def _held_out(matched: Matched, fit: Fit) -> list[str]:
    found = fit_held_out(matched, fit.folds, fit.seed)
    mean, spread = found.weights.mean(axis=0), found.weights.std(axis=0)
    shares = ", ".join(f"{share:.3f} ± {deviation:.3f}" for share, deviation in zip(mean, spread, strict=True))
    return [
        _line("fused, held out", found.tally, f"weights of {fit.folds} folds, as shares: {shares}"),
        f"held out: each fold of the clips is fused with the best of {CANDIDATES} weights on the other folds",
    ]


def _notes(loaded: list[Scores]) -> list[str]:
    notes = []
    selections = {scores.selection for scores in loaded}
    if "best" in selections:
        notes.append(BEST_NOTE)
    if len(selections) > 1:
        notes.append("scores of best, last or unknown epochs are mixed")
    for first, other in combinations(loaded, 2):
        if first.stream == other.stream:
            same = ", with the same logits" if np.array_equal(first.logits, other.logits) else ""
            notes.append(f"{first.source} and {other.source} are of one stream, {first.stream}{same}")
    return notes


def _line(title: str, tally: Tally, remark: str) -> str:
    numbers = f"{tally.top1_percent:9.2f}{tally.correct:9}{tally.top5_percent:9.2f}{tally.top5:9}"
    return f"{title:16}{numbers}   {remark}"


def _described(scores: Scores, head_titles: Mapping[str, str]) -> str:
    """`ctrgcn + CSRE, best epoch 57: PATH`, as far as it is known."""
    known = []
    if scores.encoder:
        known.append(scores.title(head_titles))
    if scores.selection or scores.epoch is not None:
        known.append(f"{scores.selection or ''} epoch {scores.epoch if scores.epoch is not None else '?'}".strip())
    return f"{', '.join(known)}: {scores.source}" if known else scores.source


def _title(found: StreamSet) -> str:
    return f"{found.runs} ({found.benchmark}, {found.selection})"


def _percent(tally: Tally) -> str:
    return f"{tally.top1_percent:.2f}"


def _numbers(weights: Sequence[float]) -> str:
    return " ".join(f"{weight:.4g}" for weight in weights)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, text to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = 4  # leading columns that are not numbers
    return [
        "  ".join(
            cell.ljust(width) if column < text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
