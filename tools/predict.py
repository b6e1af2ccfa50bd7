"""Classify clips with a trained encoder: `python tools/predict.py --run RUN CLIP...`.

Several runs are fused: the weighted mean of their logits. Needs neither the data set nor the training.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path
# Threads that spin while they wait slow each other down many times; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from common.allocator import keep_freed_memory
from common.arguments import Parser, count
from common.errors import UserError
from common.files import user_path
from common.front_door import run_command
from engine.config import resolve
from engine.predictor import Predictor, likeliest, load_run
from engine.processes import device_of
from engine.schema import flatten
from feeders.errors import DataError
from feeders.readers.clip_file import clip_from_json, find_clip_files, read_clip
from fusion.fusing import fuse
from fusion.weights import EQUAL, PRESETS, preset_weights

STDIN = Path("-")


class PredictError(UserError):
    """A command line that cannot be carried out."""


class Answer(NamedTuple):
    """What was found for a clip: classes with their probabilities, or why there are none."""

    clip: str
    top: list[tuple[str, float]]
    milliseconds: float
    error: str = ""

    def as_text(self) -> str:
        """Several lines."""
        if self.error:
            return f"{self.clip}: {self.error}"
        lines = [f"{100 * probability:7.2f} %  {name}" for name, probability in self.top]
        return "\n".join([f"{self.clip}  ({self.milliseconds:.0f} ms)", *lines])

    def as_json(self) -> str:
        """One line."""
        if self.error:
            return json.dumps({"clip": self.clip, "error": self.error})
        top = [{"class": name, "probability": probability} for name, probability in self.top]
        return json.dumps({"clip": self.clip, "top": top, "milliseconds": round(self.milliseconds, 2)})


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused or with clips that could not be used."""
    keep_freed_memory()
    return run_command("tools/predict.py", lambda: predict(_parser().parse(argv)))


def predict(options: argparse.Namespace) -> None:
    """Load the runs, classify each clip, print what was found.

    Raises:
        PredictError: the command line contradicts itself; clips that could not be used, after all others.
    """
    predictors = _load(options)
    weights = _weights(options.fuse, predictors)
    failed = 0
    for answer in answers(predictors, weights, options.clips, options.top):
        failed += bool(answer.error)
        print(answer.as_json() if options.json else answer.as_text(), flush=True)
    if failed:
        raise PredictError(f"{failed} of the clips could not be used; the reasons are above")


def answers(
    predictors: Sequence[Predictor], weights: Sequence[float], places: Sequence[Path], top: int
) -> Iterator[Answer]:
    """One answer for each clip, in their order; a clip that cannot be used gets its reason. Time is without reading.

    Raises:
        DataError: a place that does not exist, or a folder without clips.
    """
    for name, clip in _clips(places):
        try:
            if isinstance(clip, DataError):
                raise clip
            started = time.perf_counter()
            logits = fuse([predictor.logits([clip]) for predictor in predictors], weights)[0]
            found = likeliest(logits / sum(weights), predictors[0].class_names, top)
            yield Answer(name, found, 1e3 * (time.perf_counter() - started))
        except DataError as error:
            yield Answer(name, [], 0, str(error).removeprefix(f"{name}: "))


def _clips(places: Sequence[Path]) -> Iterator[tuple[str, np.ndarray | DataError]]:
    for place in places:
        if place == STDIN:
            for number, line in enumerate(sys.stdin, start=1):
                if line.strip():
                    yield f"line {number}", _of_line(line)
            continue
        for path in find_clip_files([place]):
            try:
                yield str(path), read_clip(path)
            except DataError as error:
                yield str(path), error


def _of_line(line: str) -> np.ndarray | DataError:
    try:
        return clip_from_json(json.loads(line))
    except ValueError as error:
        return DataError(f"is not JSON ({error})")
    except DataError as error:
        return error


def _load(options: argparse.Namespace) -> list[Predictor]:
    if bool(options.run) == bool(options.weights):
        raise PredictError("name a run with --run RUN, or weights with --weights FILE (and --config FILE), not both")
    if options.run and options.config:
        raise PredictError("--config: a run has its own configuration; omit it, or name weights with --weights")
    if options.weights and options.epoch:
        raise PredictError("--epoch: chooses among the weights of a run; omit it, or name a run with --run")
    device = device_of(options.device)
    torch.backends.cudnn.allow_tf32 = False  # torch has it on for convolutions, tests by default do not
    if options.run:
        predictors = [load_run(run, options.epoch or "best", device=device) for run in options.run]
    else:
        resolved = resolve(["--config", str(options.config)]) if options.config else None
        settings = flatten(resolved.config) if resolved else None
        predictors = [load_run(options.weights, settings=settings, device=device)]
    for other in predictors[1:]:
        if other.class_names != predictors[0].class_names:
            raise PredictError(f"{other.source}: other classes than {predictors[0].source}; fuse runs of one benchmark")
    return predictors


def _weights(words: Sequence[str], predictors: Sequence[Predictor]) -> list[float]:
    """Numbers, or those of a preset for the streams and the benchmark of the runs."""
    try:
        weights = [float(word) for word in words]
    except ValueError:
        streams = [predictor.settings["data.stream"] for predictor in predictors]
        weights = preset_weights(" ".join(words), streams, predictors[0].benchmark.name)
    fuse([np.zeros((1, 1), np.float32)] * len(predictors), weights)  # refuses what cannot be weights
    return weights


def _parser() -> Parser:
    parser = Parser(prog="tools/predict.py", description=__doc__)
    add = parser.add_argument
    add(
        "clips",
        nargs="+",
        type=user_path,
        metavar="CLIP",
        help=".skeleton, .json, .npy, a folder, or - for lines of JSON",
    )
    add("--run", action="append", default=[], type=user_path, help="run folder; several are fused")
    add("--weights", type=user_path, metavar="FILE", help="weights in place of a run")
    add("--config", type=user_path, metavar="FILE", help="configuration of weights that do not carry theirs")
    add("--epoch", choices=("best", "last"), help="which weights of a run (default: best)")
    presets = ", ".join(PRESETS)
    add("--fuse", nargs="+", default=[EQUAL], metavar="W", help=f"a number per run, or a preset: {presets}")
    add("--top", type=count, default=5, metavar="K", help="classes shown (default: 5)")
    add("--json", action="store_true", help="one line of JSON per clip")
    add("--device", choices=("auto", "cpu", "cuda"), default="cpu", help="auto: the GPU if there is one (default: cpu)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
