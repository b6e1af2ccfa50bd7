"""Checkpoints: one file holds all that a run needs to go on, and one key of it all that a test needs.

| key | content |
|---|---|
| format, version | what the file is |
| encoder | the weights that are tested: the encoder's, or their moving average where there is one |
| epoch | epochs trained |
| config | every setting by dotted key |
| data | fingerprint of the clips |
| training | what only training needs: see `engine.state` |
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from engine.errors import RunError
from engine.files import write_atomically

FORMAT, VERSION = "csre-run", 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically. Raises RunError when the disk refuses."""
    content = {"format": FORMAT, "version": VERSION, **content}
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the host; only tensors and plain values are admitted, never code.

    Raises:
        RunError: a file that is missing, damaged, or not a checkpoint of this project.
    """
    try:
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
    """Delete all but the newest epoch checkpoints of a run."""
    for path in sorted(folder.glob("epoch_*.pt"))[:-keep]:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
