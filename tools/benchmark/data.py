"""NTU RGB+D on its way from raw files to training batches, on generated clips of that size.

Preparation: clips/s with one process and with several, in turns with a plain line-by-line parse in Python of the same
files, which reads x, y, z alone or every number; the most memory of one process, for a small tree and for one ten
times as large; the store against the padded arrays (N, 300, 150) float32. Start: from the start of a process to the
first training batch of CTR-GCN + CSRE, whose encoder is built by then. Feeder: clips/s of training batches with all
augmentation, for the stream that takes least and the one that takes most. All files were written just before, so they
come from the system's cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from common.arguments import count, processors
from feeders import Feeder, PackedStore, get_benchmark, place_store
from feeders.benchmarks import REPOSITORY
from feeders.choices import Stream, Variant
from feeders.ntu.names import PUBLISHED_FRAMES, get_dataset
from feeders.ntu.prepare import prepare
from feeders.store.hdf5 import StoreWriter
from tools.benchmark.timing import median_seconds
from tools.ntu_clips import generate_names, generate_tree

BENCHMARK = "ntu60-xsub"
DATASET = get_dataset("ntu60")
COORDINATES, ALL_NUMBERS = 3, 12
"""Numbers of a joint that the plain parse reads: x, y, z, or its whole line."""
PADDED_BYTES = PUBLISHED_FRAMES * 150 * 4
"""Of one clip in the published arrays."""
STREAMS: tuple[tuple[Stream, Variant], ...] = (("joint", "plain"), ("bone_motion", "centred"))
"""The one that takes least, and the one that takes most."""

PEAK_OF_PREPARATION = """
import re, sys
from pathlib import Path
from feeders.ntu.names import get_dataset
from feeders.ntu.prepare import prepare
prepare([Path(sys.argv[2])], get_dataset(sys.argv[1]), Path(sys.argv[3]), 1)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
"""Prints kilobytes. Not ru_maxrss, which a new process takes over from the one that starts it."""
FIRST_BATCH = """
import os, sys
from engine.config import resolve
from engine.experiment import build
config = resolve(sys.argv[1:]).config
next(build(config).train_clips.epoch(0, config.optim.batch_size))
os._exit(0)
"""
"""What a training does until it has its first batch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sizes."""
    add = parser.add_argument
    add(
        "--raw_clips",
        type=count,
        default=200,
        help="raw files to prepare; default: %(default)s",
    )
    add("--jobs", type=count, default=processors(), help="processes; default: one per processor")
    add("--store_clips", type=count, default=40_000, help="clips of the store that trains; default: %(default)s")
    add("--batch", type=count, default=64, help="clips of a batch; default: %(default)s")
    add("--batches", type=count, default=100, help="batches per turn of the feeder; default: %(default)s")
    add("--rounds", type=count, default=3, help="turns; medians are reported; default: %(default)s")
    add(
        "--folder",
        type=Path,
        help="where the files are made, and removed again; default: the system's temporary folder",
    )


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Print every measurement; return the numbers."""
    with TemporaryDirectory(prefix="benchmark_data_", dir=arguments.folder) as folder:
        place = Path(folder)
        results = _preparation(place, arguments.raw_clips, arguments.jobs, arguments.rounds)
        results |= _memory(place, arguments.raw_clips)
        large = place / "large.h5"
        repeat_clips(PackedStore.load(place / "small.h5"), large, arguments.store_clips)
        results |= _start(large, arguments.store_clips, arguments.rounds, device)
        results |= _feeder(large, arguments, device)
    return results


def _preparation(place: Path, clips: int, jobs: int, rounds: int) -> dict[str, float]:
    raw, store = place / "raw", place / "small.h5"
    generate_tree(raw, DATASET, clips)
    files = sorted(raw.rglob("*.skeleton"))

    def plainly(numbers: int) -> Callable[[], object]:
        return lambda: [parse_lines(file, numbers) for file in files]

    def prepared(processes: int) -> Callable[[], object]:
        return lambda: prepare([raw], DATASET, store, processes)

    steps = {
        "prepared, one process": prepared(1),
        f"prepared, {jobs} processes": prepared(jobs),
        "plain parse, x, y, z only": plainly(COORDINATES),
        "plain parse, every number": plainly(ALL_NUMBERS),
    }
    seconds = median_seconds(steps, rounds)
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"{clips:,} raw clips, {megabytes:.0f} MB:")
    for what, time in seconds.items():
        print(f"  {what:36}{clips / time:10,.1f} clips/s")
    one, many, plain, whole = seconds.values()
    ratio = store.stat().st_size / (clips * PADDED_BYTES)
    print(f"  one process: {plain / one:.2f} times the parse of x, y, z only, {whole / one:.2f} times the other")
    print(f"  {jobs} processes: {one / many:.2f} times one")
    print(f"  store: {store.stat().st_size / clips / 1e3:.1f} kB a clip, {ratio:.1%} of the padded arrays")
    return {
        "prepare_clips_per_second": clips / one,
        "prepare_jobs": jobs,
        "prepare_jobs_clips_per_second": clips / many,
        "plain_clips_per_second": clips / plain,
        "plain_all_numbers_clips_per_second": clips / whole,
        "prepare_over_plain": plain / one,
        "store_over_padded": ratio,
    }


def parse_lines(path: Path, numbers: int) -> dict[str, list[list[list[float]]]]:
    """The first `numbers` of every joint's line, by body, frame and joint; nothing is checked."""
    bodies: dict[str, list[list[list[float]]]] = {}
    with path.open(encoding="ascii") as file:
        for _ in range(int(file.readline())):
            for _ in range(int(file.readline())):
                body = file.readline().split()[0]
                joints = [
                    [float(word) for word in file.readline().split()[:numbers]] for _ in range(int(file.readline()))
                ]
                bodies.setdefault(body, []).append(joints)
    return bodies


def _memory(place: Path, clips: int) -> dict[str, float]:
    """Peak of a process that prepares the tree that is there, and of one for a tree ten times as large."""
    files, large = sorted((place / "raw").rglob("*.skeleton")), place / "raw_x10"
    large.mkdir()
    for file, name in zip(cycle(files), islice(generate_names(DATASET, seed=1), 10 * clips), strict=False):
        os.link(file, large / f"{name}.skeleton")
    peaks = []
    for raw in (place / "raw", large):
        words = [DATASET.name, str(raw), str(place / "again.h5")]
        done = subprocess.run(
            [sys.executable, "-c", PEAK_OF_PREPARATION, *words], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE
        )
        peaks.append(int(done.stdout) / 1024)
    print(f"  memory of one process: {peaks[0]:.0f} MB for {clips:,} clips, {peaks[1]:.0f} MB for {10 * clips:,}")
    return {"prepare_peak_mb": peaks[0], "prepare_peak_mb_ten_times": peaks[1]}


def repeat_clips(store: PackedStore, path: Path, clips: int) -> None:
    """A store of so many clips: those of another one, again and again, under names of their own."""
    with StoreWriter(path, skeleton="ntu", class_names=DATASET.class_names) as writer:
        for number, name in enumerate(islice(generate_names(DATASET), clips)):
            numbers = name._asdict()
            writer.append(str(name), numbers.pop("action") - 1, store.clip(number % len(store)).numpy(), numbers)


def _start(store: Path, clips: int, rounds: int, device: torch.device) -> dict[str, float]:
    config = REPOSITORY / "config" / BENCHMARK / "ctrgcn_csre_joint.yaml"
    words = ["--config", str(config), "--data.path", str(store), "--device", device.type]
    seconds, used = [], []
    for _ in range(rounds):
        began, before = perf_counter(), os.times()
        subprocess.run([sys.executable, "-c", FIRST_BATCH, *words], cwd=REPOSITORY, check=True)
        after = os.times()
        seconds.append(perf_counter() - began)
        used.append(after.children_user + after.children_system - before.children_user - before.children_system)
    print(
        f"start to first batch, store of {clips:,} clips: {median(seconds):.2f} s "
        f"({median(used):.2f} s of processor time)"
    )
    return {"start_seconds": median(seconds), "start_processor_seconds": median(used)}


def _feeder(path: Path, arguments: argparse.Namespace, device: torch.device) -> dict[str, float]:
    benchmark, size = get_benchmark(BENCHMARK), arguments.batch
    store = place_store(PackedStore.load(path), "auto", device)
    feeders = {
        f"{stream}, {variant}": Feeder(store, benchmark, "train", stream=stream, variant=variant)
        for stream, variant in STREAMS
    }
    lightest, heaviest = feeders
    order = feeders[heaviest].epoch_indices(0)[: size * arguments.batches]
    batches = order.split(size)
    clips = len(order)

    def pass_of(feeder: Feeder) -> Callable[[], None]:
        def run() -> None:
            for indices in batches:
                feeder.feed(indices, epoch=0)

        return run

    paces = {
        name: clips / seconds
        for name, seconds in median_seconds(
            {name: pass_of(feeder) for name, feeder in feeders.items()}, arguments.rounds
        ).items()
    }
    print(f"training feeder, {clips:,} of {len(feeders[heaviest]):,} clips in batches of {size}, all augmentation:")
    for name, pace in paces.items():
        print(f"  {name:36}{pace:10,.0f} clips/s {pace / size:10,.1f} batches/s")
    return {
        "feeder_clips_per_second": paces[heaviest],
        "feeder_joint_clips_per_second": paces[lightest],
        "feeder_batches_per_second": paces[heaviest] / size,
    }
