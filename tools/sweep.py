"""Run a grid of configurations x settings x seeds, one ordinary run of main.py after the other.

    python tools/sweep.py --config config/nw-ucla/hcn_csre_joint.yaml --set csre.temperature=0.5,0.8,1.0 --seeds 0,1,2
    python tools/sweep.py GRID.yaml --jobs 2 --threads 1

GRID.yaml holds the same words, so that a sweep can be repeated:

    config: [config/nw-ucla/hcn_csre_joint.yaml, config/nw-ucla/hcn_joint.yaml]  # A.yaml+B.yaml: B over A
    set: {csre.temperature: [0.5, 0.8, 1.0]}    # every combination of the values
    seeds: [0, 1, 2]
    with: {optim.amp: bf16}                     # the same in every cell
    name: "{name}_t{csre.temperature}_s{seed}"  # {name}: that of the configuration file

Finished cells are skipped, unfinished ones resumed, failed ones named with their last line at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from common.arguments import Parser, count
from common.errors import UserError
from common.files import user_path
from common.front_door import run_command
from common.words import did_you_mean
from common.yaml_files import parse_yaml, read_yaml
from engine.config import resolve, run_path
from engine.schema import flatten
from tools.runs import wall_seconds

MAIN = Path(__file__).resolve().parents[1] / "main.py"
KEYS = ("config", "set", "seeds", "with", "name")
POLL_SECONDS, REFRESH_SECONDS = 0.2, 10


class SweepError(UserError):
    """A grid that cannot be run."""


class FailedCellsError(UserError):
    """Cells that failed, each with its last line; the others are done."""

    exit_code = 1


@dataclass
class Cell:
    """One run of a grid: its command line after main.py, its folder, and the two things that its time depends on.

    kind: benchmark and encoder, whose finished cells show how long others take; epochs: how many it trains.
    """

    words: list[str]
    folder: Path
    kind: tuple[str, str, bool]
    epochs: int

    @property
    def log(self) -> Path:
        """What main.py printed, beside the run folder."""
        return self.folder.with_name(f"{self.folder.name}.sweep.log")

    @property
    def is_finished(self) -> bool:
        """Whether its report is written; main.py writes results.json last."""
        return (self.folder / "results.json").exists()

    @property
    def epochs_done(self) -> int:
        """Epochs that a stopped run of it has behind it."""
        metrics = self.folder / "metrics.jsonl"
        return metrics.read_text().count('"kind": "train"') if metrics.exists() else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 all cells done, 2 refused, 1 some cells failed, 130 Ctrl-C."""
    again = "interrupted; the same command resumes every cell"
    return run_command("tools/sweep.py", lambda: _sweep(_parser().parse(argv)), again)


def cells_of(grid: dict[str, Any]) -> list[Cell]:
    """The cells of a grid (form: see the top of this module), seeds innermost.

    Raises:
        SweepError: an unknown key, no configuration, two cells of one folder.
        ConfigError: settings that main.py would refuse.
    """
    unknown = [key for key in grid if key not in KEYS]
    if unknown:
        raise SweepError(
            f"grid: unknown key {unknown[0]!r}{did_you_mean(unknown[0], KEYS)}; known are {', '.join(KEYS)}"
        )
    axes = {key: _listed(values) for key, values in (grid.get("set") or {}).items()}
    if grid.get("seeds") is not None:
        axes["seed"] = _listed(grid["seeds"])
    name = grid.get("name") or "_".join(["{name}", *(f"{key.rpartition('.')[2]}{{{key}}}" for key in axes)])
    cells: dict[Path, Cell] = {}
    for config in _listed(grid.get("config") or []):
        for values in itertools.product(*axes.values()):
            settings = {**(grid.get("with") or {}), **dict(zip(axes, values, strict=True))}
            words = [word for file in str(config).split("+") for word in ("--config", file)]
            for key, value in {**settings, "name": name}.items():
                words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
            resolved = resolve(words)
            assert resolved is not None, "the words ask for no help"
            run = resolved.config
            folder = run_path(run.work_dir, run.data.benchmark, str(run.name))
            if folder in cells:
                raise SweepError(f"--name {name!r}: two cells would share {folder}; put what differs into it in braces")
            heads = any(value for key, value in flatten(run).items() if key.endswith(".enabled"))
            cells[folder] = Cell(words, folder, (run.data.benchmark, run.model.name, heads), run.optim.epochs)
    if not cells:
        raise SweepError("no configuration given; name a GRID.yaml, or --config FILE with --set or --seeds")
    return list(cells.values())


def seconds_per_epoch(cells: Sequence[Cell]) -> dict[tuple[str, str, bool], float]:
    """What an epoch took so far, the mean over cells by benchmark, encoder and whether heads were trained."""
    seconds: dict[tuple[str, str, bool], list[float]] = {}
    for cell in cells:
        if (epochs := cell.epochs_done) and (total := wall_seconds(cell.folder)):
            seconds.setdefault(cell.kind, []).append(total / epochs)
    return {kind: sum(values) / len(values) for kind, values in seconds.items()}


def _sweep(options: argparse.Namespace) -> None:
    cells = cells_of(_grid(options))
    if options.gpus:
        options.jobs = len(options.gpus.split(","))
    open_cells = [cell for cell in cells if not cell.is_finished]
    if options.dry_run:
        print(
            "\n".join([_plan_line(cell, seconds_per_epoch(cells)) for cell in cells] + [_progress(cells, options.jobs)])
        )
        return
    gpus = options.gpus.split(",") if options.gpus else [None] * options.jobs  # those that are free
    running: list[tuple[Cell, str | None, subprocess.Popen[bytes]]] = []
    failed: list[Cell] = []
    refreshed = time.monotonic()
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        while open_cells or running:
            while open_cells and gpus:
                cell, gpu = open_cells.pop(0), gpus.pop(0)
                running.append((cell, gpu, _start(cell, gpu, options.threads)))
                print(f"started {cell.folder}; {_progress(cells, options.jobs)}", flush=True)
            time.sleep(POLL_SECONDS)
            for cell, gpu, process in [entry for entry in running if entry[2].poll() is not None]:
                running.remove((cell, gpu, process))
                gpus.append(gpu)
                failed += [] if cell.is_finished else [cell]
                outcome = "finished" if cell.is_finished else "FAILED"
                print(f"{outcome} {cell.folder}; {_progress(cells, options.jobs)}", flush=True)
            if sys.stdout.isatty() and time.monotonic() - refreshed > REFRESH_SECONDS:
                print(_progress(cells, options.jobs), end="\r", flush=True)
                refreshed = time.monotonic()
    finally:
        signal.signal(signal.SIGTERM, before)
        for _, _, process in running:  # stopped by Ctrl-C or SIGTERM: each run finishes its step and saves it
            process.terminate()
        for _, _, process in running:
            process.wait()
    if failed:
        lines = [f"{cell.folder}: {_last_line(cell)}" for cell in failed]
        raise FailedCellsError("\n  ".join([f"{len(failed)} of {len(cells)} cells failed", *lines]))


def _start(cell: Cell, gpu: str | None, threads: int | None) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    environment |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    with cell.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, MAIN, *cell.words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this program, which passes it on once
        )


def _last_line(cell: Cell) -> str:
    return re.split(r"[\r\n]+", cell.log.read_text(errors="replace").strip())[-1]


def _plan_line(cell: Cell, per_epoch: dict[tuple[str, str, bool], float]) -> str:
    state = "finished" if cell.is_finished else f"{cell.epochs_done} of {cell.epochs} epochs done"
    left = _hours(_seconds_left(cell, per_epoch))
    return f"{cell.folder}: {state}, {left} left: python main.py {shlex.join(cell.words)}"


def _seconds_left(cell: Cell, per_epoch: dict[tuple[str, str, bool], float]) -> float | None:
    if cell.is_finished:
        return 0.0
    return per_epoch[cell.kind] * (cell.epochs - cell.epochs_done) if cell.kind in per_epoch else None


def _progress(cells: Sequence[Cell], jobs: int) -> str:
    per_epoch = seconds_per_epoch(cells)
    left = [_seconds_left(cell, per_epoch) for cell in cells]
    finished = sum(cell.is_finished for cell in cells)
    total = None if None in left else sum(seconds for seconds in left if seconds) / jobs
    return f"{finished} of {len(cells)} cells finished, {_hours(total)} left"


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return "unknown time"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _grid(options: argparse.Namespace) -> dict[str, Any]:
    """The grid of the file, with what the command line sets or adds."""
    grid = read_yaml(options.grid) if options.grid else {}
    if not isinstance(grid, dict):
        raise SweepError(f"{options.grid}: must be a mapping with {', '.join(KEYS)}")
    for key, given in {"with": options.fixed, "set": options.set}.items():
        for pair in given:
            name, equals, values = pair.partition("=")
            if not equals:
                raise SweepError(f"--{key} {pair}: write KEY=VALUE")
            parsed = parse_yaml(f"[{values}]" if key == "set" else values, f"--{key} {pair}")
            grid.setdefault(key, {})[name] = parsed
    given = {"config": options.config, "seeds": options.seeds and parse_yaml(f"[{options.seeds}]", "--seeds")}
    return {**grid, **{key: value for key, value in {**given, "name": options.name}.items() if value}}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parser() -> Parser:
    parser = Parser(prog="tools/sweep.py", description=__doc__)
    add = parser.add_argument
    add("grid", nargs="?", type=user_path, metavar="GRID.yaml", help="the grid as a file; the options below add to it")
    add(
        "--config", action="append", metavar="FILE", help="configuration (A.yaml+B.yaml lays B over A); may be repeated"
    )
    add("--set", action="append", default=[], metavar="KEY=A,B", help="a setting and its values; may be repeated")
    add("--with", dest="fixed", action="append", default=[], metavar="KEY=VALUE", help="a setting of every cell")
    add("--seeds", metavar="A,B", help="seeds of every cell")
    add("--name", help="name of each run, with settings in braces (default: {name} and what differs)")
    add("--jobs", type=count, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    add("--gpus", metavar="A,B", help="one run at a time on each of these GPUs, by CUDA's numbers")
    add("--threads", type=count, metavar="N", help="threads of each run (default: torch's)")
    add("--dry-run", action="store_true", help="list the cells with the time they are expected to take, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
