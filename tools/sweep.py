"""Run a grid of configurations x settings x seeds, one ordinary run of main.py after the other.

    python tools/sweep.py --config config/nw-ucla/hcn_csre_joint.yaml --set csre.temperature=0.5,0.8,1.0 --seeds 0,1,2
    python tools/sweep.py GRID.yaml --jobs 2 --threads 1

GRID.yaml holds the same words, so that a sweep can be repeated:

    config: [config/nw-ucla/hcn_csre_joint.yaml, config/nw-ucla/hcn_joint.yaml]  # A.yaml+B.yaml: B over A
    set: {csre.temperature: [0.5, 0.8, 1.0]}    # every combination of the values
    seeds: [0, 1, 2]
    with: {optim.amp: bf16}                     # the same in every cell
    name: "{name}_t{csre.temperature}_s{seed}"  # {name}: that of the configuration file; a list is written a+b

Finished cells are skipped, unfinished ones resumed, failed ones named with their last line at the end. More
optim.epochs or another optim.patience continue finished runs; any other change of what is computed is refused.
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
from engine.config import COMMAND_LINE, differing_keys, resolve, run_path
from engine.errors import ConfigError
from engine.schema import RunConfig, flatten
from tools.runs import settings_of, wall_seconds

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
    """One run of a grid: its command line after main.py, its folder, its settings, and whether it is finished."""

    words: list[str]
    folder: Path
    config: RunConfig
    is_finished: bool = False

    @property
    def kind(self) -> tuple[str, str, bool]:
        """Benchmark, encoder and whether heads are trained: other cells of the same show how long it takes."""
        heads = any(value for key, value in flatten(self.config).items() if key.endswith(".enabled"))
        return self.config.data.benchmark, self.config.model.name, heads

    @property
    def epochs(self) -> int:
        """How many it trains."""
        return self.config.optim.epochs

    @property
    def log(self) -> Path:
        """What main.py printed, beside the run folder; the shell's `run_seed*` leaves it out."""
        return self.folder.with_name(f"sweep_{self.folder.name}.log")

    @property
    def epochs_done(self) -> int:
        """Epochs that a stopped run of it has behind it."""
        metrics = self.folder / "metrics.jsonl"
        return metrics.read_text().count('"kind": "train"') if metrics.exists() else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 all cells done, 2 refused, 1 some cells failed, 130 Ctrl-C."""
    again = "interrupted; the same command resumes every cell"
    return run_command("tools/sweep.py", lambda: _sweep(_parser().parse(argv)), again)


def read_grid(path: Path) -> dict[str, Any]:
    """The grid of a file, with a mapping (maybe an empty one) as `set` and as `with`.

    Raises:
        YamlError, SweepError: not readable, not a mapping, an unknown key, `set` or `with` of another form.
    """
    grid = read_yaml(path)
    if not isinstance(grid, dict):
        raise SweepError(f"{path}: must be a mapping with {', '.join(KEYS)}")
    for key in grid:
        if key not in KEYS:
            raise SweepError(
                f"{path}: unknown key {key!r}{did_you_mean(str(key), KEYS)}; supported keys: {', '.join(KEYS)}"
            )
    for key, example in {"set": "{csre.temperature: [0.5, 1.0]}", "with": "{optim.amp: bf16}"}.items():
        settings = grid[key] = {} if grid.get(key) is None else grid[key]
        if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
            raise SweepError(f"{path}: {key}: must be a mapping of settings, such as {example}, got {settings!r}")
    return grid


def cells_of(grid: dict[str, Any], place: str = COMMAND_LINE) -> list[Cell]:
    """The cells of a grid (form: see the top of this module), seeds innermost.

    Args:
        grid: the grid.
        place: where it stands, for the messages.

    Raises:
        SweepError: no configuration, a setting without values, two cells of one folder, what main.py would refuse.
    """
    axes = {key: _listed(values) for key, values in grid.get("set", {}).items()}
    if grid.get("seeds") is not None:
        axes["seed"] = _listed(grid["seeds"])
    for key, values in axes.items():
        if not values:
            raise SweepError(f"{place}: {key}: no values; give at least one, or leave it out")
    name = grid.get("name") or "_".join(["{name}", *(f"{key.rpartition('.')[2]}{{{key}}}" for key in axes)])
    cells: dict[Path, Cell] = {}
    for config in _listed(grid.get("config")):
        for combination in itertools.product(*axes.values()):
            settings = {**grid.get("with", {}), **dict(zip(axes, combination, strict=True))}
            words = [word for file in str(config).split("+") for word in ("--config", file)]
            for key, value in {**settings, "name": name}.items():
                words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
            try:
                resolved = resolve(words)
            except ConfigError as error:
                raise SweepError(f"{place}: {str(error).removeprefix(f'{COMMAND_LINE}: ')}") from None
            assert resolved is not None, "the words ask for no help"
            run = resolved.config
            folder = run_path(run.work_dir, run.data.benchmark, str(run.name))
            if folder in cells:
                raise SweepError(
                    f"{place}: name: two cells would share {folder}; put what differs into {name!r} in braces"
                )
            cells[folder] = Cell(words, folder, run)
    if not cells:
        raise SweepError(f"{place}: no configuration given; give config in a GRID.yaml, or --config FILE")
    return list(cells.values())


def is_trained(cell: Cell) -> bool:
    """Whether the folder of a cell holds its finished run; False for one that more epochs or another patience continue.

    Raises:
        SweepError: the finished run there was trained with other settings.
    """
    if not (cell.folder / "results.json").exists():
        return False
    stored, optim = settings_of(cell.folder), cell.config.optim
    longer = optim.epochs > stored["optim.epochs"]
    changed = differing_keys(stored, cell.config, ignore=["optim.patience", *(["optim.epochs"] if longer else [])])
    if cell.config.weights not in (None, stored["weights"]):
        changed.append(f"weights: {stored['weights']} -> {cell.config.weights}")
    if changed:
        raise SweepError(
            f"{cell.folder} was trained with other settings ({'; '.join(changed)}); "
            "undo the change, or train other runs beside it with --name"
        )
    return not longer and optim.patience == stored["optim.patience"]


def seconds_per_epoch(cells: Sequence[Cell]) -> dict[tuple[str, str, bool], float]:
    """What an epoch took so far, the mean over cells by benchmark, encoder and whether heads were trained."""
    seconds: dict[tuple[str, str, bool], list[float]] = {}
    for cell in cells:
        if (epochs := cell.epochs_done) and (total := wall_seconds(cell.folder)):
            seconds.setdefault(cell.kind, []).append(total / epochs)
    return {kind: sum(values) / len(values) for kind, values in seconds.items()}


def _sweep(options: argparse.Namespace) -> None:
    if options.gpus and options.jobs:
        raise SweepError(
            "--jobs: cannot be given with --gpus, which trains one run at a time on each GPU; "
            "leave --jobs out, or name a GPU twice (--gpus 0,0)"
        )
    cells = cells_of(*_grid(options))
    for cell in cells:
        cell.is_finished = is_trained(cell)
    open_cells = [cell for cell in cells if not cell.is_finished]
    gpus = options.gpus.split(",") if options.gpus else [None] * (options.jobs or 1)  # those that are free
    jobs = len(gpus)
    if options.dry_run:
        print("\n".join([_plan_line(cell, seconds_per_epoch(cells)) for cell in cells] + [_progress(cells, jobs)]))
        return
    if not open_cells:
        print(f"all {len(cells)} cells are finished already")
    running: list[tuple[Cell, str | None, subprocess.Popen[bytes]]] = []
    failed: list[Cell] = []
    refreshed = time.monotonic()
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        while open_cells or running:
            while open_cells and gpus:
                cell, gpu = open_cells.pop(0), gpus.pop(0)
                running.append((cell, gpu, _start(cell, gpu, options.threads)))
                print(f"started {cell.folder}; {_progress(cells, jobs)}", flush=True)
            time.sleep(POLL_SECONDS)
            for cell, gpu, process in [entry for entry in running if entry[2].poll() is not None]:
                running.remove((cell, gpu, process))
                gpus.append(gpu)
                cell.is_finished = process.returncode == 0
                failed += [] if cell.is_finished else [cell]
                outcome = "finished" if cell.is_finished else "FAILED"
                print(f"{outcome} {cell.folder}; {_progress(cells, jobs)}", flush=True)
            if sys.stdout.isatty() and time.monotonic() - refreshed > REFRESH_SECONDS:
                print(_progress(cells, jobs), end="\r", flush=True)
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


def _grid(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The grid of the file, with what the command line sets or adds, and where it stands."""
    grid = read_grid(options.grid) if options.grid else {"set": {}, "with": {}}
    for key, given in {"with": options.fixed, "set": options.set}.items():
        for pair in given:
            name, equals, values = pair.partition("=")
            if not (name and equals):
                raise SweepError(f"--{key} {pair}: write KEY=VALUE")
            grid[key][name] = parse_yaml(f"[{values}]" if key == "set" else values, f"--{key} {pair}")
    seeds = None if options.seeds is None else parse_yaml(f"[{options.seeds}]", "--seeds")
    given = {"config": options.config, "seeds": seeds, "name": options.name}
    given = {key: value for key, value in given.items() if value is not None}
    places = [str(options.grid)] if options.grid else []
    if given or options.fixed or options.set or not places:
        places.append(COMMAND_LINE)
    return {**grid, **given}, " and ".join(places)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


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
    add("--jobs", type=count, metavar="N", help="runs at a time (default: 1)")
    add("--gpus", metavar="A,B", help="one run at a time on each of these GPUs, by CUDA's numbers (0,0: two on GPU 0)")
    add("--threads", type=count, metavar="N", help="threads of each run (default: torch's)")
    add("--dry-run", action="store_true", help="list the cells with the time they are expected to take, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
