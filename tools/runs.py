"""Finished runs as records: what record.py, tables.py, compare.py and sweep.py have in common.

Torch is imported only for encoders with options. A record is a dictionary of plain values, one JSON file in results/:

| key | content |
|---|---|
| kind | `run`, or `ensemble` |
| name, benchmark, encoder, heads, stream, seed, epochs | as in the configuration; `heads` is a list of sections |
| config, command | configuration file (A.yaml+B.yaml: B over A), and the command that repeats the run with it |
| settings | every setting not at its default, but those of heads that are off or that say how a run executes |
| last, best | `epoch` and `top1` (%) on the test clips; the best epoch is chosen on them, or on held-out ones |
| curve, validation_curve | top-1 (%) of every epoch on test clips and, if any, on held-out ones; null: not tested |
| classes | of each class: number of test clips, those correct in the last epoch, in the best |
| commit, machine, torch, wall_seconds, peak_memory_mb | of the training |
| data | fingerprints of the training and test clips |

An ensemble has `streams`, `selection`, `clips`, `weights` and `members` in place of what a single training has.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import ASIDE
from common.words import did_you_mean
from common.yaml_files import read_yaml
from engine.config import CONFIG_FILE, resolve, run_path
from engine.logs import read_records
from engine.schema import flatten, in_effect, leaves
from feeders.benchmarks import BENCHMARKS
from heads.registry import HEADS, head_names
from model.registry import option_defaults

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results"
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ")
Record = dict[str, Any]


class RecordError(UserError):
    """A folder that no record can be made of, or a file that is not one."""


def find_runs(work_dir: Path) -> Iterator[Path]:
    """The folders of finished runs under a working folder; those set aside are skipped."""
    for results in sorted(work_dir.glob("*/*/results.json")):
        if ASIDE not in results.parent.name:
            yield results.parent


def load_records(folder: Path = RESULTS) -> list[Record]:
    """All records of a folder; RecordError for a file that is none."""
    return [read_record(path) for path in sorted(folder.glob("*/*.json"))]


def read_record(path: Path) -> Record:
    """The record in a file; RecordError for a file that holds none, or one with settings that are unknown today."""
    record = read_json(path)
    if not isinstance(record, dict) or record.get("kind") not in ("run", "ensemble"):
        raise RecordError(f"{path}: not a record; those are made by `python tools/record.py RUN_FOLDER`")
    known = leaves()
    unknown = sorted(record.get("settings", {}).keys() - known.keys())
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise RecordError(f"{path}: unknown setting {unknown[0]}{hint}; correct it there, or record the run again")
    return record


def read_json(path: Path) -> Any:
    """The content of a JSON file, or a RecordError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); name the folder of a finished run") from None
    except ValueError as error:
        raise RecordError(f"{path}: not JSON ({error}); write it again") from None


def record_of(folder: Path, config: str | None = None, commit: str | None = None) -> Record:
    """The record of a finished run, without the fingerprints of its data.

    Args:
        folder: the run folder.
        config: its configuration file (relative to the repository); by default that of its command line.
        commit: of the training, for folders that do not say.

    Raises:
        RecordError: the run is not finished, its folder is damaged, or its settings or its configuration file are
            unknown today.
    """
    if not (folder / "results.json").exists():
        raise RecordError(f"{folder}: no results.json in it; name the folder of a finished training")
    with naming_damage(folder):
        return _record_of(folder, config, commit)


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Whatever a damaged file of a run folder leads to becomes a RecordError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RecordError(f"{folder}: a file in it is damaged ({reason}); train it again or leave it out") from None


def _record_of(folder: Path, config: str | None, commit: str | None) -> Record:
    results, environment = read_json(folder / "results.json"), read_json(folder / "environment.json")
    if "last" not in results:
        raise RecordError(f"{folder}: a test of stored weights, not a training; name the run folder itself")
    values = settings_of(folder)
    last, best = results["last"]["epoch"], results["best"]["epoch"]
    epochs, patience = values["optim.epochs"], values["optim.patience"]
    if last != epochs and not (patience and last - best >= patience):
        raise RecordError(f"{folder}: its results are of epoch {last} of {epochs}; let its command finish it first")
    records = read_records(folder / "metrics.jsonl")
    curves = {kind: _curve(records, kind, last) for kind in ("test", "validation")}
    for kind, curve in curves.items():
        if curve[-1] is None and (kind == "test" or values["data.validation"]):
            lost = f"the {kind} accuracy of epoch {last} is missing in metrics.jsonl"
            raise RecordError(f"{folder}: {lost}; put the whole file back, or train the run again")
    config = config or _config_file(environment["command"], values["data.stream"])
    return {
        "kind": "run",
        "name": values["name"],
        "benchmark": results["benchmark"],
        "encoder": values["model.name"],
        "heads": head_names(values),
        "stream": values["data.stream"],
        "seed": values["seed"],
        "epochs": epochs,
        "config": config,
        "command": command_of(config, values),
        "settings": _not_default(values),
        "last": {"epoch": last, "top1": round(results["last"]["top1"], 4)},
        "best": {"epoch": best, "top1": round(results["best"]["top1"], 4)},
        "curve": curves["test"],
        **({"validation_curve": curves["validation"]} if any(curves["validation"]) else {}),
        "classes": _classes(folder),
        "commit": commit or environment.get("commit"),
        "machine": {key: environment.get(key) for key in ("device", "cpu", "threads", "platform")},
        "torch": environment["torch"],
        "wall_seconds": wall_seconds(folder),
        "peak_memory_mb": max((entry.get("peak_memory_mb", 0.0) for entry in records), default=None),
    }


def renewed(record: Record) -> Record:
    """A record with the command that repeats its settings with the configuration files of today."""
    values = {key: leaf.default for key, leaf in leaves().items()} | record["settings"]
    return {**record, "command": command_of(record["config"], values), "settings": _not_default(values)}


def _not_default(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in computed(values).items() if value != leaves()[key].default}


def settings_of(folder: Path) -> dict[str, Any]:
    """Every setting of a run by dotted key; options that its version did not know have their defaults.

    Raises:
        RecordError: a setting that is unknown today.
    """
    known = leaves()
    with naming_damage(folder):
        stored = dict(_dotted(read_yaml(folder / CONFIG_FILE) or {}, known))
    unknown = sorted(stored.keys() - known.keys())
    if unknown:
        raise RecordError(f"{folder}: unknown setting {unknown[0]} today; record it with the version that trained it")
    return {key: leaf.default for key, leaf in known.items()} | stored


def computed(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that say what a run computes, options of the encoder only where they are not at their defaults."""
    values = in_effect(values)
    if values["model.options"]:
        defaults = option_defaults(values["model.name"])
        options = values["model.options"].items()
        values["model.options"] = {key: value for key, value in options if defaults.get(key) != value}
    return values


def settings_of_command(command: str) -> dict[str, Any]:
    """What a command `python main.py --config ...` computes by today's configuration files."""
    return settings_of_words(shlex.split(command)[2:])


def settings_of_words(words: Sequence[str]) -> dict[str, Any]:
    """The same for the words after `main.py`; ConfigError for words that it would refuse."""
    return computed(_resolved(tuple(words)))


def folder_of_words(words: Sequence[str]) -> Path:
    """The run folder of a training by these words after `main.py`."""
    values = _resolved(tuple(words))
    return run_path(values["work_dir"], values["data.benchmark"], values["name"])


def command_of(config: str, values: dict[str, Any]) -> str:
    """The command that computes the same as these settings do, from a configuration file of today."""
    files = [word for file in config.split("+") for word in ("--config", file)]
    resolved = _resolved(tuple(files))
    base = resolved | computed(resolved)
    words = []
    for key, value in computed(values).items():
        if value != base[key]:
            words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(["python", "main.py", *files, *words])


def standard_words(benchmark: str, encoder: str, heads: Sequence[str], stream: str) -> list[str] | None:
    """The words after `main.py` that start the published recipe; None where the project has none, as of a user's head.

    Heads that have no configuration file together are switched on over that of the last one that has, which changes
    most beside its head, or over the plain encoder.
    """
    if not set(heads) <= HEADS.keys():
        return None
    place = benchmark
    if benchmark in BENCHMARKS and not (REPOSITORY / "config" / benchmark).exists():
        place = BENCHMARKS[benchmark].dataset  # its benchmarks share the files, as the folds of SBU do
    for with_file in (list(heads), *([head] for head in reversed(heads)), []):
        for end in dict.fromkeys((stream, stream.removesuffix("_motion"), "joint")):
            file = f"config/{place}/{'_'.join([encoder, *with_file, end])}.yaml"
            if (REPOSITORY / file).exists():
                words = ["--config", file]
                words += [] if place == benchmark else ["--data.benchmark", benchmark]
                words += [] if end == stream else ["--data.stream", stream]
                for head in heads:
                    words += [] if head in with_file else [f"--{head}.enabled", "true"]
                return words
    return None


def wall_seconds(folder: Path) -> float | None:
    """The time that a run took by its log.txt, without the pauses before a resumption; None without a readable log.

    Every start of the program begins with a line that names the run folder.
    """
    log = folder / "log.txt"
    if not log.exists():
        return None
    total = timedelta()
    try:
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if STAMP.match(line)]
        for before, after in pairwise(lines):
            if ", run folder " not in after:
                total += datetime.fromisoformat(after[:19]) - datetime.fromisoformat(before[:19])
    except ValueError:  # of bytes that are no text, or of a date that there is not
        return None
    return total.total_seconds() if lines else None


@cache
def _resolved(words: tuple[str, ...]) -> dict[str, Any]:
    absolute = [str(REPOSITORY / word) if word.startswith("config/") else word for word in words]
    resolved = resolve(absolute)
    assert resolved is not None, "the words ask for no help"
    return flatten(resolved.config)


def _config_file(command: Sequence[str], stream: str) -> str:
    """The configuration files of a command line, relative to the repository, joined by "+"."""
    words = [word for given in command for word in given.split("=", 1)]
    files = [after for before, after in pairwise(words) if before == "--config"]
    found = []
    for file in files:
        relative = file[file.rfind("config/") :]
        # Streams had files of their own once; now a stream is a setting over the file of the joint stream.
        joint = re.sub(rf"_{stream}\.yaml$", "_joint.yaml", relative)
        known = next((name for name in (relative, joint) if (REPOSITORY / name).exists()), None)
        if known is None:
            raise RecordError(
                f"{file}: no such file today; name the configuration to repeat the run with: --config FILE"
            )
        found.append(known)
    if not found:
        raise RecordError("the run's command line names no configuration file; name one: --config")
    return "+".join(found)


def _curve(records: Sequence[Record], kind: str, epochs: int) -> list[float | None]:
    """Top-1 (%) of every epoch by the records of that kind."""
    top1 = {entry["epoch"]: round(entry["top1"], 4) for entry in records if entry["kind"] == kind}
    return [top1.get(epoch) for epoch in range(1, epochs + 1)]


def _classes(folder: Path) -> dict[str, list[int]]:
    """Test clips of every class, and how many of them were correct in the last and in the best epoch."""
    counts: dict[str, list[int]] = {}
    for selection in ("last", "best"):
        results = read_json(folder / "results.json")[selection]["per_class"]
        confusion = (folder / f"confusion_{selection}.csv").read_text(encoding="utf-8").splitlines()[1:]
        for index, (name, row) in enumerate(zip(results, confusion, strict=True)):
            cells = [int(cell) for cell in row.rsplit(",", len(results))[1:]]
            counts.setdefault(name, [sum(cells)]).append(cells[index])
    return counts


def _dotted(tree: dict[str, Any], known: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and prefix + key not in known:
            yield from _dotted(value, known, f"{prefix}{key}.")
        else:
            yield prefix + key, value
