"""Several runs on the same clips tested in one pass over them, as `python ensemble.py --evaluate RUN...` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from engine.config import Resolved, resolve
from engine.errors import RunError
from engine.evaluate import Tester, predict_together, stored_weights, write_scores
from engine.experiment import Experiment, build
from engine.run_folder import FolderLock
from engine.schema import flatten
from model import load_weights_file

IN_COMMON = (
    "device",
    "deterministic",
    "optim.matmul",
    "optim.test_batch_size",
    *(
        f"data.{name}"
        for name in ("benchmark", "path", "window", "second_person", "origin", "on_bad_clip", "placement")
    ),
)
"""What decides which clips are tested, how they are cropped (all but the stream and its variant), and what holds for a
whole process."""


def evaluate_together(folders: Sequence[Path], selection: str) -> list[Path]:
    """Test the `last` or `best` weights of runs, given by their folders, and write their score files.

    Returns:
        The score files, each `test/scores_<selection>.npz` in the folder of its run, as `main.py --phase test` writes
        it.

    Raises:
        RunError: what is named is no run, or the runs are tested on other clips.
        NonFiniteLossError: logits are NaN or infinite.
    """
    settings = [_settings_of(folder) for folder in folders]
    first, *others = ({key: flatten(resolved.config)[key] for key in IN_COMMON} for resolved in settings)
    for folder, other in zip(folders[1:], others, strict=True):
        differing = [f"{key}: {first[key]}, {other[key]}" for key in IN_COMMON if first[key] != other[key]]
        if differing:
            raise RunError(
                f"{folders[0]} and {folder} are not tested on the same clips in the same way ({'; '.join(differing)}); "
                "test each with main.py --phase test"
            )
    runs: list[Experiment] = []
    for resolved in settings:
        runs.append(build(resolved.config, store=runs[0].test_clips.store if runs else None))
    weights = [next(found for found in stored_weights(run) if found.selection == selection) for run in runs]
    for run, stored in zip(runs, weights, strict=True):
        load_weights_file(run.encoder, stored.path)
    testers = [Tester(run.encoder, run.test_clips, run.config.optim) for run in runs]
    with ExitStack() as locks:
        for run, resolved in zip(runs, settings, strict=True):
            run.folder.of_tests.create()
            locks.callback(FolderLock(run.folder.of_tests.path).release)
            run.folder.of_tests.describe(resolved, run.device)
        logits = predict_together(testers, runs[0].device)
        for run, stored, found in zip(runs, weights, logits, strict=True):
            write_scores(run, run.folder.of_tests, found, stored.epoch, selection, stored.trained_with)
    return [run.folder.of_tests.scores(selection) for run in runs]


def _settings_of(folder: Path) -> Resolved:
    """What `main.py --config FOLDER --phase test` would test the run with."""
    if not (folder / "config.yaml").is_file():
        raise RunError(f"{folder}: is no run folder, which holds a config.yaml; --evaluate tests runs, not score files")
    place = ["--work_dir", str(folder.absolute().parents[1]), "--name", folder.absolute().name, "--weights", "null"]
    resolved = resolve(["--config", str(folder), *place, "--phase", "test"])
    assert resolved is not None, "the words do not ask for help"
    return resolved
