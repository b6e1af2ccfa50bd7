"""Finding the streams that belong together among the runs of a working folder.

Runs lie in `<work_dir>/<benchmark>/<config name>/` with their `scores_last.npz` and `scores_best.npz`. Those with equal
configuration apart from the stream (`group`), equal benchmark and equal encoder make a set; one that has all four
streams is complete.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from common.files import ASIDE
from feeders.choices import STREAMS
from fusion.scores import Origin, Scores, ScoresError, load_origin, load_scores

RANKED = ("best", "last")  # what every finished run has


@dataclass(frozen=True)
class StreamSet:
    """Score files of one set: the best epochs, or the last ones, of runs that differ in their stream alone.

    runs: the common name of the runs, with * in the place of the stream.
    files: the score file of each stream there is.
    """

    benchmark: str
    selection: str
    runs: str
    files: dict[str, Path]

    @property
    def missing(self) -> list[str]:
        """Streams without a score file."""
        return [stream for stream in STREAMS if stream not in self.files]

    def load(self) -> list[Scores]:
        """The scores of the four streams in the order of `STREAMS`; ScoresError if a file cannot be used."""
        return [load_scores(self.files[stream]) for stream in STREAMS]


def find_sets(work_dir: Path) -> tuple[list[StreamSet], list[str]]:
    """All sets under a working folder, complete or not, and a line for every score file that belongs to none.

    Folders set aside (`.old-` in their name) are skipped.

    Raises:
        ScoresError: no such folder, or no score file in it.
    """
    if not work_dir.is_dir():
        raise ScoresError(f"{work_dir}: no such folder; name score files or runs, or the runs' folder with --work_dir")
    paths = sorted(
        path
        for selection in RANKED
        for path in work_dir.glob(f"*/*/scores_{selection}.npz")
        if ASIDE not in str(path.relative_to(work_dir))
    )
    if not paths:
        raise ScoresError(f"{work_dir}: no finished runs in it (<benchmark>/<run>/scores_best.npz); train some first")

    members: dict[tuple[str, str, str, str], dict[str, Origin]] = defaultdict(dict)
    problems = []
    for path in paths:
        try:
            origin = load_origin(path)
            key = _key(origin)
            stream = str(origin.stream)
            if stream in members[key]:
                raise ScoresError(f"{path}: the same stream and settings as {members[key][stream].source}")
            members[key][stream] = origin
        except ScoresError as error:
            problems.append(str(error))
    return [_set(key, streams) for key, streams in sorted(members.items())], problems


def _key(origin: Origin) -> tuple[str, str, str, str]:
    """Benchmark, encoder, group and selection: what the streams of a set have in common."""
    if None in (origin.benchmark, origin.encoder, origin.group, origin.selection) or origin.stream not in STREAMS:
        raise ScoresError(f"{origin.source}: does not say which set it belongs to; name the files of its set instead")
    return str(origin.benchmark), str(origin.encoder), str(origin.group), str(origin.selection)


def _set(key: tuple[str, str, str, str], streams: dict[str, Origin]) -> StreamSet:
    benchmark, _, _, selection = key
    patterns = dict.fromkeys((origin.run or "").replace(stream, "*") for stream, origin in streams.items())
    return StreamSet(
        benchmark=benchmark,
        selection=selection,
        runs=" ".join(patterns),
        files={stream: Path(origin.source) for stream, origin in streams.items()},
    )
