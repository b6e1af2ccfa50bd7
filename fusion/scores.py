"""The score file: the raw logits of one stream on the test clips, with their names, labels and what made them.

Ours is an npz (`save_scores`). `load_scores` reads it back, and the score files that published training codes pickle.
What is in an npz:

| key | content |
|---|---|
| names | clip names, text (n) |
| labels | classes from 0, int64 (n) |
| logits | float32 (n, K), before any softmax |
| stream, encoder, heads, benchmark, run, group, selection | text; see `Origin` |
| epoch | an integer |

Only names and logits must be there. Letters: n clips, K classes.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import write_atomically
from common.pickles import PickleRefusedError
from fusion.published_scores import read_pickled_scores

SELECTIONS = ("last", "best", "test")

# What an npz says of its origin, and the numpy kinds of it: text, integer, boolean. `csre` is what older files have
# instead of `heads`.
_ORIGIN_KINDS = {
    **dict.fromkeys(("stream", "encoder", "heads", "benchmark", "run", "group", "selection"), "U"),
    "epoch": "iu",
    "csre": "b",
}


class ScoresError(UserError):
    """Score files that cannot be used as asked; the message is one line naming the file, the reason and the fix."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Origin:
    """What made a score file, as far as it is known (None: unknown).

    encoder, benchmark, stream: as in the configuration; run: its name.
    heads: the training heads that were trained beside the encoder, joined by "+" ("csre"); "" for none.
    group: fingerprint of the configuration without its stream, equal in the streams of one set.
    selection: one of `SELECTIONS`, which of the run's weights were tested (`test`: those that `--weights` named).
    epoch: training epochs behind these weights.
    source: where the scores were read from, for messages; it is not saved.
    """

    stream: str | None = None
    encoder: str | None = None
    benchmark: str | None = None
    epoch: int | None = None
    run: str | None = None
    heads: str | None = None
    group: str | None = None
    selection: str | None = None
    source: str = "scores"

    def __post_init__(self) -> None:
        if self.selection not in (None, *SELECTIONS):
            raise ScoresError(f"unknown selection {self.selection!r}; known are {', '.join(SELECTIONS)}")

    def title(self, head_titles: Mapping[str, str]) -> str:
        """Encoder and heads for a table, such as `ctrgcn + CSRE`; `head_titles`: what tables call a head, by name."""
        heads = self.heads.split("+") if self.heads else []
        return " + ".join([str(self.encoder), *(head_titles.get(head, head) for head in heads)])


@dataclass(frozen=True, eq=False)
class Scores(Origin):
    """Logits of one stream on the test clips, and their origin.

    names: n different clip names. labels: classes from 0, int64 (n), or None. logits: float32 (n, K), finite.

    Raises:
        ScoresError: shapes that do not fit, no clip, repeated names, logits that are NaN or infinite, labels that are
            not among the K classes, an unknown selection.
    """

    names: Sequence[str]
    labels: NDArray[np.int64] | None
    logits: NDArray[np.float32]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logits.ndim != 2 or self.logits.dtype != np.float32 or 0 in self.logits.shape:
            raise ScoresError(f"the logits are {_described(self.logits)}; float32 (clips, classes) is expected")
        count, num_classes = self.logits.shape
        _check_names(self.names, count)
        bad = np.flatnonzero(~np.isfinite(self.logits).all(axis=1)).tolist()
        if bad:
            raise ScoresError(
                f"NaN or infinite logits in {len(bad)} of {count} clips "
                f"({some_names(self.names[row] for row in bad)}); train or test this stream again"
            )
        if self.labels is not None:
            if self.labels.shape != (count,) or self.labels.dtype != np.int64:
                raise ScoresError(f"the labels are {_described(self.labels)}; int64 ({count},) is expected")
            check_classes(self.labels, num_classes)


def save_scores(path: str | Path, scores: Scores) -> None:
    """Write an npz without pickled objects, atomically. What is None is omitted.

    Raises:
        WriteError: the disk refuses.
    """
    entries = {field.name: getattr(scores, field.name) for field in fields(scores) if field.name != "source"}
    arrays = {key: np.asarray(value) for key, value in entries.items() if value is not None}
    write_atomically(Path(path), lambda file: np.savez(file, allow_pickle=False, **arrays))


def load_scores(path: str | Path) -> Scores:
    """Read a score file: an npz of this project, or a pickled dictionary from clip name to logits (.pkl, .pickle).

    Pickles carry no labels and say nothing of what made them; they are read without running any code they may hold.

    Raises:
        ScoresError: a missing, damaged or malicious file, or one that `Scores` refuses.
    """
    path = Path(path)
    with _naming(path):
        if path.suffix == ".npz":
            return _scores_from_npz(path)
        if path.suffix in (".pkl", ".pickle"):
            names, logits = read_pickled_scores(path.read_bytes())
            return Scores(names, None, logits, source=str(path))
        if not path.exists():
            raise ScoresError("no such file or folder; check the path")
        raise ScoresError("not a score file; these end in .npz, .pkl or .pickle")


def load_origin(path: str | Path) -> Origin:
    """What made an npz of this project, without reading its logits.

    Raises:
        ScoresError: a missing or damaged file.
    """
    path = Path(path)
    with _naming(path):
        return Origin(**_origin(_read_npz(path, keys=_ORIGIN_KINDS)), source=str(path))


def load_labels(path: str | Path) -> dict[str, int]:
    """Read a labels file, an npz with `names` (n; text or integers) and `labels` (n; classes from 0).

    Returns:
        The class of every clip, by name.

    Raises:
        ScoresError: a missing or damaged file, repeated names, labels that are not integers >= 0.
    """
    path = Path(path)
    with _naming(path):
        if path.suffix != ".npz":
            raise ScoresError("not a labels file; it is an npz with names and labels")
        arrays = _read_npz(path, required=("names", "labels"))
        names, labels = _names(arrays["names"]), _labels(arrays["labels"])
        _check_names(names, len(labels))
        check_classes(labels)
    return dict(zip(names, labels.tolist(), strict=True))


def check_classes(labels: NDArray[np.int64], num_classes: int | None = None) -> None:
    """Refuse labels outside 0 to K - 1 (or below 0, if K is not given)."""
    if labels.min() < 0 or (num_classes is not None and labels.max() >= num_classes):
        expected = f"0 to {num_classes - 1}" if num_classes is not None else "numbers from 0"
        raise ScoresError(f"labels run from {labels.min()} to {labels.max()}; classes are {expected}")


def some_names(names: Iterable[str], limit: int = 3) -> str:
    """The first few names for a message: "first 'a', 'b', 'c'"."""
    return "first " + ", ".join(reprlib.repr(name) for name in islice(names, limit))


def _check_names(names: Sequence[str], count: int) -> None:
    """Refuse another number of names than `count`, and names that occur twice."""
    if len(names) != count:
        raise ScoresError(f"{len(names)} names for {count} clips")
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ScoresError(f"clip names that occur more than once: {len(repeated)} ({some_names(repeated)})")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a file is refused for into a ScoresError that begins with its name."""
    try:
        yield
    except OSError as error:
        raise ScoresError(f"{path}: cannot be read ({error.strerror or error})") from None
    except PickleRefusedError as error:
        raise ScoresError(f"{path}: no pickled score file: {error}; if in doubt, get it again") from None
    except ScoresError as error:
        raise ScoresError(f"{path}: {error}") from None


def _scores_from_npz(path: Path) -> Scores:
    arrays = _read_npz(path, required=("names", "logits"))
    logits = arrays["logits"]
    if logits.dtype.kind == "f":
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is refused
            logits = logits.astype(np.float32, copy=False)
    labels = _labels(arrays["labels"]) if "labels" in arrays else None
    return Scores(_names(arrays["names"]), labels, logits, **_origin(arrays), source=str(path))


def _read_npz(
    path: Path, required: Collection[str] = (), keys: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays of an npz, all or those of some keys; pickled objects in it are refused."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files if keys is None or key in keys}
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds on damaged bytes
        raise ScoresError(f"damaged, or no npz of plain arrays ({type(error).__name__}); write it again") from None
    missing = [key for key in required if key not in arrays]
    if missing:
        raise ScoresError(f"no {' and no '.join(missing)} among its arrays ({', '.join(sorted(arrays)) or 'none'})")
    return arrays


def _origin(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    values = {}
    for key in _ORIGIN_KINDS.keys() & arrays.keys():
        array = arrays[key]
        if array.ndim != 0 or array.dtype.kind not in _ORIGIN_KINDS[key]:
            raise ScoresError(f"{key} is {_described(array)}; a single value is expected")
        values[key] = array.item()
    if "csre" in values:
        values.setdefault("heads", "csre" if values.pop("csre") else "")
    return values


def _names(array: NDArray[Any]) -> list[str]:
    if array.ndim != 1 or array.dtype.kind not in "Uiu":
        raise ScoresError(f"the names are {_described(array)}; one row of text or of integers is expected")
    return [str(name) for name in array.tolist()]


def _labels(array: NDArray[Any]) -> NDArray[np.int64]:
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) == 0:
        raise ScoresError(f"the labels are {_described(array)}; one row of integers is expected")
    return array.astype(np.int64, copy=False)


def _described(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"
