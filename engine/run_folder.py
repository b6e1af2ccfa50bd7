"""The folder of a run: `<work_dir>/<benchmark>/<name>/`. A run there is resumed, never deleted or overwritten.

config.yaml          every setting, with the origin of each as a comment
environment.json     versions, device, processor, command line, commit of this project
log.txt              the lines of the terminal
metrics.jsonl        one JSON object a line: steps, training epochs, tests
tensorboard/         the same for TensorBoard
checkpoints/         last.pt, best.pt, the newest epoch_XXXX.pt and those of the epoch in progress
scores_last.npz      logits of the test clips after the last epoch; scores_best.npz after the best
confusion_*.csv, tsne.npz, figures/*.png and *.pdf
report.html          all of this to look at, in one file
results.json         accuracies, per class too, of both epochs; written last, and removed when a finished run goes on
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from common.errors import reason_of
from common.files import ASIDE, write_atomically
from engine.config import Resolved
from engine.errors import RunError


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder, and what is written there once."""

    path: Path

    @property
    def last(self) -> Path:
        """The checkpoint of the newest epoch."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch by its accuracy on the test clips, or on those held out of training."""
        return self.path / "checkpoints" / "best.pt"

    def checkpoint(self, epoch: int, step: int = 0) -> Path:
        """The checkpoint after an epoch (counted from 1), or after a step within it."""
        within = f"_step_{step:06d}" if step else ""
        return self.path / "checkpoints" / f"epoch_{epoch:04d}{within}.pt"

    def scores(self, selection: str) -> Path:
        """The score file of the `last` or `best` epoch, or of a `test`."""
        return self.path / f"scores_{selection}.npz"

    @property
    def metrics(self) -> Path:
        """The JSON lines of the run."""
        return self.path / "metrics.jsonl"

    @property
    def of_tests(self) -> RunFolder:
        """Where `--phase test` writes, so that it never touches what the training wrote."""
        return RunFolder(self.path / "test")

    def create(self) -> None:
        """Make the folder and those in it. Raises RunError when the disk refuses."""
        try:
            for name in ("checkpoints", "figures"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(error) from None

    def set_aside(self) -> Path:
        """Rename the folder, so that a fresh run can take its place, and return where it now is.

        Raises:
            RunError: the disk refuses.
        """
        number = 1
        while (target := self.path.with_name(f"{self.path.name}{ASIDE}{number}")).exists():
            number += 1
        try:
            return self.path.rename(target)
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> RunError:
        return RunError(f"{self.path}: cannot be made or moved ({error.strerror}); choose another --work_dir or --name")

    def describe(self, resolved: Resolved, device: torch.device) -> None:
        """Write the resolved configuration and the environment."""
        self.write_text("config.yaml", resolved.as_yaml())
        environment = {
            "command": sys.argv,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "cpu": _cpu_model(),
            "threads": torch.get_num_threads(),
            "commit": _commit(),
        }
        self.write_json("environment.json", environment)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file atomically."""
        write_atomically(self.path / name, lambda file: file.write(text.encode()))

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")


class FolderLock:
    """Holds `<folder>/.lock`, which the system drops by itself when its holder ends, however it ends.

    Raises:
        RunError: a live process holds it, or the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / ".lock")
        holder = folder / ".lock_holder"
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            name = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise RunError(
                f"{folder} is in use by {name}; wait for it, stop it, or start another run with --name"
            ) from None
        except NotImplementedError:  # a file system without locks: better an unguarded run than none
            return
        except OSError as error:
            raise RunError(f"{folder}: cannot be locked ({reason_of(error)}); choose another --work_dir") from None
        with suppress(OSError):  # a full disk: the lock holds without the name of its holder
            holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")

    def release(self) -> None:
        """Let others have the folder."""
        self._lock.release()


def _cpu_model() -> str:
    """The processor's name as Linux knows it, elsewhere what Python knows."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _commit() -> str | None:
    """The commit of this checkout, with "+changes" where files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit
