"""Checkpoints: one file holds all that a run needs to resume, and one key of it all that a test needs.

| key | content |
|---|---|
| format, version | what the file is |
| encoder | the weights that are tested: the encoder's, or their moving average where there is one |
| epoch | epochs trained |
| config | every setting by dotted key |
| benchmark | its classes, persons, window and what else the encoder depends on |
| data | fingerprints of the training and the test clips |
| graph | fingerprint of the skeleton |
| training | what only training needs: see `engine.state` |

A file is `epoch_0003.pt` after the third epoch, and `epoch_0003_step_000120.pt` within it.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from common.files import write_atomically
from engine.errors import ForeignFileError, RunError
from feeders.benchmarks import Benchmark

FORMAT, VERSION = "csre-run", 2
NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?\.pt")
DIGEST = 64
"""Letters of the digest at the end of a file."""
TRAINING_ONLY = ("repeat", "rotation")
"""Facts of a benchmark on which only training depends."""
KEPT_WITHIN_EPOCH = 2
"""Checkpoints kept of the epoch in progress: the newest, and one to fall back on."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically. Raises UserError when the disk refuses."""
    content = {"format": FORMAT, "version": VERSION, **content}

    def write(file: IO[bytes]) -> None:
        signed = _SignedFile(file)
        torch.save(content, signed)  # type: ignore[arg-type]  # all that torch needs of a file is `write`
        signed.sign()

    try:
        write_atomically(path, write)
    except RuntimeError:  # how torch's writer puts that the disk refused
        raise RunError(f"{path}: cannot be written; free some space or choose another place") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the host; only tensors and plain values are admitted, never code.

    Raises:
        ForeignFileError: a file that may hold weights, but is not a checkpoint of this project.
        RunError: a file that is missing or damaged, be it in one byte, or a checkpoint of another version.
    """
    try:
        signed = _signature_holds(path)
        if signed is False:
            raise RunError("it is damaged: its content does not match its digest")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"no checkpoint {path}; train first, or name one with --weights") from None
    except Exception as error:  # torch reports a damaged file by whatever its unpickler or zip reader met first
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        kind = RunError if isinstance(error, RunError) else ForeignFileError
        raise kind(f"{path}: not a readable checkpoint ({reason}); use another one, or --resume never") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ForeignFileError(f"{path}: not a checkpoint of a run; to start from published weights use --weights")
    if str(content.get("version")) != str(VERSION):  # in a foreign file it may be anything
        raise RunError(
            f"{path}: checkpoint version {content.get('version')}, this program reads {VERSION}; use the release that "
            "wrote it"
        )
    if signed is None:
        raise RunError(f"{path}: not a whole checkpoint (its digest is missing); use another one, or --resume never")
    return content


def changed_facts(content: Mapping[str, Any], benchmark: Benchmark, ignore: Collection[str] = ()) -> list[str]:
    """What differs between the benchmark of a checkpoint and this one, such as `the benchmark's window: 64 -> 32`."""
    now, before = benchmark.facts, content.get("benchmark", {})  # which checkpoints of earlier versions lack
    changed = []
    for key in sorted(before.keys() - set(ignore)):
        if before[key] != now.get(key):
            values = f": {before[key]} -> {now.get(key)}"
            changed.append(f"the benchmark's {key}{values if len(values) < 120 else ''}")
    return changed


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a run that it may resume from, each file once, newest first.

    That is `last`, unless the disk refused it when a newer one was written.
    """
    named = sorted((path for path in folder.glob("epoch_*.pt") if NAME.fullmatch(path.name)), key=_age, reverse=True)
    last, found = folder / "last.pt", list[Path]()
    overtaken = named and last.exists() and last.stat().st_mtime < named[0].stat().st_mtime
    for path in (*named[: 1 if overtaken else 0], last, *named, folder / "best.pt"):
        if path.exists() and not any(path.samefile(other) for other in found):
            found.append(path)
    return found


def name_also(path: Path, second: Path) -> None:
    """Give a finished file a second name, replacing what had it; a hard link where the file system has them."""
    temporary = second.with_name(f".{second.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        temporary.replace(second)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{second}: cannot be written ({error.strerror}); remove what is in its place") from None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest checkpoints of a run: `keep` of finished epochs, a few within the one after them."""
    paths = sorted((path for path in folder.glob("epoch_*.pt") if NAME.fullmatch(path.name)), key=_age)
    ends = [path for path in paths if _age(path)[1] == math.inf]
    within = [path for path in paths if _age(path)[1] < math.inf and (not ends or _age(path) > _age(ends[-1]))]
    for path in set(paths) - set(ends[-keep:]) - set(within[-KEPT_WITHIN_EPOCH:]):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def remove_unfinished(folder: Path) -> None:
    """Delete what a process that was killed while writing left behind."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def _age(path: Path) -> tuple[int, float]:
    """The place of a checkpoint in its run: epoch, and step within it."""
    match = NAME.fullmatch(path.name)
    assert match is not None, "callers filter by NAME"
    return int(match[1]), float(match[2]) if match[2] else math.inf


class _SignedFile:
    """A file that torch writes an archive to, with the digest of all its bytes as the archive's comment.

    The checksums within an archive cover its parts, not its directory, where a changed byte can make a reader pass
    over a part. The last two bytes, the length of the comment, are held back until that is known.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self._held = file, hashlib.blake2b(digest_size=DIGEST // 2), b""

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        keep = max(2 - len(view), 0)
        self._put(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :] + bytes(view[-2:])
        self._put(view[:-2])
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def sign(self) -> None:
        """Write the length of the comment and the comment."""
        assert self._held == b"\0\0", "torch writes archives without a comment"
        self._put(DIGEST.to_bytes(2, "little"))
        self._file.write(self._digest.hexdigest().encode())

    def _put(self, data: Any) -> None:
        self._digest.update(data)
        self._file.write(data)


def _signature_holds(path: Path) -> bool | None:
    """Whether a file matches the digest at its end; None for a file without one."""
    size = path.stat().st_size
    digest, left = hashlib.blake2b(digest_size=DIGEST // 2), size - DIGEST
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
            end = block
        comment = file.read()
    if size <= DIGEST or end[-2:] != DIGEST.to_bytes(2, "little"):
        return None
    return comment == digest.hexdigest().encode()
