"""Checkpoints: one file holds all that a run needs to go on, and one key of it all that a test needs.

| key | content |
|---|---|
| format, version | what the file is |
| encoder | the weights that are tested: the encoder's, or their moving average where there is one |
| epoch | epochs trained |
| config | every setting by dotted key |
| data | fingerprints of the training and the test clips |
| graph | fingerprint of the skeleton |
| training | what only training needs: see `engine.state` |

A file is `epoch_0003.pt` after the third epoch, and `epoch_0003_step_000120.pt` within it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from engine.errors import RunError
from engine.files import write_atomically

FORMAT, VERSION = "csre-run", 2
NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?\.pt")
KEPT_WITHIN_EPOCH = 2
"""Checkpoints kept of the epoch in progress: the newest, and one to fall back on."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically. Raises RunError when the disk refuses."""
    content = {"format": FORMAT, "version": VERSION, **content}
    try:
        write_atomically(path, lambda file: torch.save(content, file))
    except RuntimeError as error:  # torch's writer reports a refusing disk in its own way
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path}: cannot be written ({error}); free some space or choose another place") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the host; only tensors and plain values are admitted, never code.

    Raises:
        RunError: a file that is missing, damaged (be it in one byte), or not a checkpoint of this project.
    """
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"there is no checkpoint {path}; train first, or name one with --weights") from None
    except Exception as error:  # torch reports a damaged file by whatever its unpickler or zip reader met first
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise RunError(f"{path}: not a readable checkpoint ({reason}); use another one, or --resume never") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(f"{path}: not a checkpoint of a run; to start from published weights use --weights")
    if content["version"] != VERSION:
        raise RunError(
            f"{path}: checkpoint version {content['version']}, this program reads {VERSION}; use the matching release"
        )
    return content


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a run that it may go on from, each file once: `last`, then from new to old, then `best`."""
    named = sorted((path for path in folder.glob("epoch_*.pt") if NAME.fullmatch(path.name)), key=_age)
    found: list[Path] = []
    for path in (folder / "last.pt", *reversed(named), folder / "best.pt"):
        if path.exists() and not any(path.samefile(other) for other in found):
            found.append(path)
    return found


def name_also(path: Path, second: Path) -> None:
    """Give a finished file a second name, replacing what had it; a hard link where the file system has them."""
    temporary = second.with_name(f".{second.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(second)


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


def _check_sums(path: Path) -> None:
    """Every part of the archive has its checksum; torch itself does not compare all of them."""
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise RunError(f"its part {bad} does not match its checksum")
