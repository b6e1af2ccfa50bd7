"""Whole training steps with and without a training head, as `main.py` takes them, at the published batch.

Both runs are built from the encoder's own recipe and take the steps of `engine.train`: the next batch of the feeder,
forward, losses, backward, update, and what the host makes of the step before. Lines of the step log and checkpoints
are left out. The head is CSRE unless `--head` names another; banks are filled beforehand, as after the first epoch.
The clips are generated, with the frames and persons of real ones: a few, visited as often as fills an epoch. Memory is
what a step holds at its peak beyond what stands already (weights, gradients, optimiser state, banks, clips). Beside
ratios and minutes per epoch of NTU RGB+D 120 X-Sub stand the paper's (Table 8). On a GPU, `idle` is the share of a
step's time, under torch's profiler, in which no kernel runs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.arguments import count, duration
from csre import BankContrast
from csre.loss import normalise_rows
from engine.config import resolve
from engine.experiment import Experiment, build
from engine.logs import SilentLog
from engine.train import PendingStep, forward_backward, resolve_step, update
from feeders import PackedStore, get_benchmark, place_store
from feeders.ahead import batches_ahead
from feeders.benchmarks import REPOSITORY
from feeders.ntu.actors import choose_actors
from feeders.ntu.raw import parse_skeleton
from graph import get_skeleton
from heads import HeadError, Moment
from heads.registry import HEADS
from model import list_encoders
from tools.benchmark.memory import peak_bytes
from tools.benchmark.timing import idle_share, median_seconds
from tools.ntu_clips import generate_clip
from tools.paper_tables import PAPER_COST
from tools.runs import standard_words

BENCHMARKS = {"ntu": "ntu120-xsub", "nw-ucla": "nw-ucla"}
CLIPS = 255
"""Generated training clips at most; an epoch visits each equally often."""
EPOCH = 31
"""The first epoch of the steps: all losses of all heads act from here on."""
LEARNING_RATE = 1e-4
"""Small, so that no number of steps on generated clips makes weights diverge."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which encoders, the clips that they get, and how they compute."""
    add, names = parser.add_argument, list_encoders()
    add("--encoders", nargs="+", choices=names, default=names, metavar="NAME", help="default: all")
    add("--benchmark", choices=list(BENCHMARKS), default="nw-ucla", help="whose recipe; default: %(default)s")
    add("--head", choices=list(HEADS), default="csre", help="default: %(default)s")
    add("--batch", type=count, help="clips of a batch; default: the recipe's")
    add("--rows", type=count, help="clips of an epoch, hence rows of a bank; default: about those of the real data")
    add("--amp", action="store_true", help="bfloat16 autocast, as optim.amp bf16; default: float32")
    add("--matmul", choices=["highest", "high"], default="highest", help="as optim.matmul; default: %(default)s")
    add("--compile", action="store_true", help="torch.compile the encoder, as compile")
    add(
        "--processor-time",
        action="store_true",
        help="processor time of all threads instead of wall-clock time: steadier where other programs share the CPU",
    )
    add("--rounds", type=count, default=5, help="turns that each step has; medians are reported")
    add("--seconds", type=duration, default=0.3, help="at least so long per turn; default: %(default)s")


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Print the table; return its numbers, those of each encoder under its name."""
    numbers = ["bfloat16" if arguments.amp else "float32", *["high"] * (arguments.matmul == "high")]
    numbers += ["compiled"] * arguments.compile
    print(f"{BENCHMARKS[arguments.benchmark]}, {', '.join(numbers)}; without -> with {HEADS[arguments.head].title}")
    results: dict[str, dict[str, Any]] = {}
    for name in arguments.encoders:
        try:
            row = _measure_encoder(name, arguments, device)
        except HeadError as error:
            print(f"{name:12} {error}")
            continue
        cells = _cells(row)
        if not results:
            print(f"{'encoder':12}" + "".join(f"{title:>{width}}" for title, (width, _) in cells.items()))
        print(f"{name:12}" + "".join(f"{text:>{width}}" for width, text in cells.values()), flush=True)
        results[name] = row
    chosen = {key: getattr(arguments, key) for key in ("benchmark", "head", "amp", "matmul", "compile")}
    return {**chosen, "encoders": results}


def _measure_encoder(name: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The numbers of an encoder, of those in pairs the first without the head; minutes per epoch for NTU alone."""
    clock = time.process_time if arguments.processor_time else time.perf_counter
    runs = {head: build_run(name, head, arguments) for head in ("", arguments.head)}
    steps = {head: partial(next, training_steps(run)) for head, run in runs.items()}
    plain, with_head = median_seconds(steps, arguments.rounds, arguments.seconds, clock).values()
    batch, paper = runs[""].config.optim.batch_size, [PAPER_COST.get((name, head)) for head in runs]
    row: dict[str, Any] = {
        "batch": batch,
        "rows": len(runs[""].train_clips),
        "ms": [1e3 * plain, 1e3 * with_head],
        "ratio": with_head / plain,
        "paper_ratio": paper[1][1] / paper[0][1] if paper[0] and paper[1] else None,
        "clips_per_second": [batch / plain, batch / with_head],
        "peak_bytes": [peak_bytes(step, device) for step in steps.values()],
    }
    if arguments.benchmark == "ntu":
        clips = get_benchmark(BENCHMARKS["ntu"]).expected_clips["train"]
        row["minutes"] = [clips / pace / 60 for pace in row["clips_per_second"]]
        row["paper_minutes"] = [cost[1] for cost in paper if cost]
    if device.type == "cuda":
        row["idle"] = [idle_share(step) for step in steps.values()]
    return row


def _cells(row: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """Width and text of each cell, by the title of its column."""

    def pair(key: str, form: str, unit: float = 1.0) -> str:
        return " -> ".join(f"{value / unit:{form}}" for value in row[key]) or "-"

    cells = {
        "batch": (6, f"{row['batch']}"),
        "rows": (8, f"{row['rows']:,}"),
        "ms": (20, pair("ms", ".1f")),
        "ratio": (8, f"{row['ratio']:.3f}"),
        "paper": (7, f"{row['paper_ratio']:.2f}" if row["paper_ratio"] else "-"),
        "clips/s": (20, pair("clips_per_second", ".1f")),
        "MiB": (16, pair("peak_bytes", ".0f", 2**20)),
    }
    if "minutes" in row:
        cells |= {"min/epoch": (20, pair("minutes", ".1f")), "the paper's": (14, pair("paper_minutes", ".1f"))}
    if "idle" in row:
        cells["idle"] = (14, pair("idle", ".0%"))
    return cells


def build_run(encoder: str, head: str, arguments: argparse.Namespace) -> Experiment:
    """A run of the encoder's recipe with that head ("": none) on generated clips, its banks full."""
    device = torch.device(arguments.device)
    benchmark = get_benchmark(BENCHMARKS[arguments.benchmark])
    words = standard_words(benchmark.name, encoder, [head] if head else [], "joint")
    assert words is not None, "every encoder has a recipe"
    resolved = resolve([words[0], str(REPOSITORY / words[1]), *words[2:]])
    assert resolved is not None, "the words ask for no help"
    config = resolved.config
    config.device, config.compile = arguments.device, arguments.compile
    config.optim.amp, config.optim.matmul = "bf16" if arguments.amp else "off", arguments.matmul
    config.optim.batch_size, config.optim.lr = arguments.batch or config.optim.batch_size, LEARNING_RATE
    rows = arguments.rows or benchmark.expected_clips["train"] * (config.data.repeat or benchmark.repeat)
    config.data.repeat = math.ceil(rows / CLIPS)
    config.log.every_steps = 2**62
    store = generated_store(benchmark.name, round(rows / config.data.repeat))
    run = build(config, store=place_store(store, config.data.placement, device))
    for of_run in run.heads.values():
        for module in of_run.modules():
            if isinstance(module, BankContrast):
                fill(module, run.train_clips.labels.to(device))
    return run


def training_steps(run: Experiment) -> Iterator[None]:
    """A training without end, as `engine.train.train_epoch` has it: whenever it is asked to go on, it takes a step."""
    log, size = SilentLog(), run.config.optim.batch_size
    steps = run.train_clips.num_batches(size)
    newest: PendingStep | None = None
    run.encoder.train()
    for epoch in itertools.count(EPOCH):
        for number, batch in enumerate(batches_ahead(run.train_clips.epoch(epoch, size), run.device), 1):
            step = forward_backward(run, batch, Moment(epoch, number, steps))
            if newest is not None:
                resolve_step(run, log, newest)
            newest = update(run, step)
            yield


@cache
def generated_store(benchmark: str, clips: int) -> PackedStore:
    """So many training clips and one for testing, the classes of the benchmark in turn.

    NTU RGB+D: about 80 frames on average, a fifth of them with two persons. NW-UCLA: every second frame, about 40, of
    the first person's first twenty joints, which are those of its sensor.
    """
    about = get_benchmark(benchmark)
    labels = [number % about.num_classes for number in range(clips + 1)]
    actors = [choose_actors(parse_skeleton(generate_clip(label + 1, 0, i))) for i, label in enumerate(labels)]
    positions = [clip.positions for clip in actors]
    if about.num_persons == 1:
        joints = get_skeleton(about.skeleton).num_joints
        positions = [clip[::2, :1, :joints].astype(np.float64) for clip in positions]
    return PackedStore.from_clips(
        positions,
        labels,
        names=[f"clip {number}" for number in range(clips + 1)],
        class_names=about.class_names,
        skeleton=about.skeleton,
        metadata={"side": [0] * clips + [1], "alone": [clip.alone for clip in actors]},
    )


def fill(contrast: BankContrast, labels: Tensor) -> None:
    """Write a random unit row for every training index, of these classes (L,), to every bank on the same device."""
    for indices in torch.arange(len(labels), device=labels.device).split(4096):
        rows = {}
        for name, bank in contrast.banks.items():
            row = bank.get_buffer("rows")[0]
            rows[name] = normalise_rows(torch.randn(len(indices), len(row), device=row.device))
        contrast.write(rows, labels[indices], indices)
