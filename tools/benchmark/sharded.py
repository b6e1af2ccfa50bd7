"""A bank of millions of rows, sharded over ranks: memory of each rank, time of a step, and the loss.

Gloo processes on this machine stand for the ranks; they share its cores, so a step takes about as long however many
they are. Every number of ranks gets the same rows and the same clips, hence the same loss. One rank holds the whole
bank and compares it block by block. Without `--run` only the arithmetic is printed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor

from common.arguments import count
from csre import CSRE, ContrastOptions, contrast_across_ranks
from csre.loss import normalise_rows
from csre.module import BANK_DTYPES
from tools.benchmark.memory import peak_bytes

GIB = 2**30
BRANCHES = ("spatial", "temporal", "global")
FILLED = 2**16
"""Rows made at a time, from a seed of their own: the same ones in whatever shard they are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sizes; their defaults are the paper's counts on a training set of ten million clips."""
    parser.add_argument("--rows", type=count, default=10_000_000, help="training clips, hence rows of each bank")
    parser.add_argument("--dim", type=count, default=256)
    parser.add_argument("--branches", type=count, choices=[1, 2, 3], default=2, help="banks")
    parser.add_argument("--classes", type=count, default=120)
    parser.add_argument("--clips", type=count, default=64, help="clips of a global batch; the ranks must divide it")
    parser.add_argument("--ranks", type=count, nargs="+", default=[1, 4], help="numbers of ranks, one after another")
    parser.add_argument("--bank-dtype", choices=list(BANK_DTYPES), default="float16")
    parser.add_argument("--steps", type=count, default=3, help="of which the median is taken, after one to warm up")
    parser.add_argument("--run", action="store_true", help="measure, too; all ranks need their memory here")


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Print the arithmetic and, if asked for, what was measured; return both, the latter by number of ranks."""
    size = BANK_DTYPES[arguments.bank_dtype].itemsize
    rows, branches, clips = arguments.rows, arguments.branches, arguments.clips
    arithmetic = {
        "rows_bytes": rows * arguments.dim * size * branches,
        # Of an index its label (int64) and its row (int32), of a row whether it is written, of a class two int64.
        "rest_bytes": (rows * (8 + 4 + 1) + arguments.classes * 16) * branches,
        "counted_bytes": rows * 4,
        "similarity_bytes": clips * rows * 4,
        "received_bytes": clips * _received_bytes_per_clip(arguments.dim) * branches,
    }
    print(f"{branches} banks of {rows:,} x {arguments.dim} in {arguments.bank_dtype}, a batch of {clips} clips")
    whole = arithmetic["rows_bytes"]
    print(f"  rows, {rows:,} x {arguments.dim} x {size} bytes x {branches}: {whole / GIB:.2f} GiB; of these each of")
    for ranks in arguments.ranks:
        print(f"    {ranks} ranks keeps {whole / ranks / GIB:.2f} GiB")
    for what, name in {
        "labels, row numbers and flags, on every rank": "rest_bytes",
        "written rows counted up, on every rank during a step": "counted_bytes",
        "all similarities of a bank at once, which is not done": "similarity_bytes",
        "received by every rank in a step, in any number of them": "received_bytes",
    }.items():
        print(f"  {what}: {arithmetic[name] / GIB:.4f} GiB")
    if not arguments.run:
        return {"arithmetic": arithmetic}
    results = {str(ranks): _measure_ranks(arguments, ranks) for ranks in arguments.ranks}
    print("  measured per rank, the largest of all; the step is forward and backward of all banks:")
    print(f"  {'ranks':>5} {'rows':>10} {'the rest':>10} {'in a step':>10} {'process':>10} {'step':>9}  loss")
    for name, row in results.items():
        sizes = [f"{row[what] / GIB:6.2f} GiB" for what in ("rows_bytes", "rest_bytes", "step_bytes", "process_bytes")]
        print(f"  {name:>5} {' '.join(sizes)} {row['step_seconds']:7.2f} s  {row['loss']:.7f}")
    return {"arithmetic": arithmetic, "ranks": results}


def _received_bytes_per_clip(dim: int) -> int:
    """What a rank gets from all ranks for one clip and bank, in float32 and int64, with the paper's counts."""
    options = ContrastOptions()
    hard, drawn = options.positives.hard + options.negatives.hard, options.positives.random + options.negatives.random
    candidates = hard * (4 + 8) + drawn * (8 + 4)  # similarity and row; for drawn rows the row comes first
    slopes = (hard + drawn) * (8 + 4)
    return candidates + slopes + 2 * dim * 4  # the feature, and the gradient to it


def _measure_ranks(arguments: argparse.Namespace, ranks: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(_run_rank, (ranks, folder, arguments), nprocs=ranks)
        of_ranks = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(ranks)]
    largest = {name: max(row[name] for row in of_ranks) for name in of_ranks[0]}
    return largest | {"loss": sum(row["loss"] for row in of_ranks) / ranks}


def _run_rank(rank: int, ranks: int, folder: str, arguments: argparse.Namespace) -> None:
    """Fill this rank's banks, take the steps, and leave the measurements in ``folder``."""
    torch.set_num_threads(max(1, (arguments.threads or torch.get_num_threads()) // ranks))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    names = BRANCHES[: arguments.branches]
    labels = torch.arange(arguments.rows) % arguments.classes
    csre = CSRE(
        (8, 1, 1),
        labels,
        dim=arguments.dim,
        branches=names,
        bank_dtype=arguments.bank_dtype,
        shard=(rank, ranks) if ranks > 1 else None,
    )
    for bank in csre.banks.values():
        _fill(bank.get_buffer("rows"), arguments.rows * rank // ranks)
        bank.get_buffer("written").fill_(True)

    rng = torch.Generator().manual_seed(0)
    own = slice(rank * arguments.clips // ranks, (rank + 1) * arguments.clips // ranks)
    indices = torch.randint(arguments.rows, (arguments.clips,), generator=rng)[own]
    features = torch.randn(arguments.branches, arguments.clips, arguments.dim, generator=rng)[:, own].clone()
    features.requires_grad_()

    def step() -> float:
        queries = {name: normalise_rows(part) for name, part in zip(names, features, strict=True)}
        draws = torch.Generator().manual_seed(1)
        losses = contrast_across_ranks(csre, queries, labels[indices], indices, generator=draws)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        return loss.item()

    loss = step()
    seconds = []
    for _ in range(arguments.steps):
        dist.barrier()
        start = perf_counter()
        step()
        seconds.append(perf_counter() - start)
    rows = sum(bank.get_buffer("rows").nbytes for bank in csre.banks.values())
    measured = {
        "loss": loss,
        "step_seconds": median(seconds),
        "rows_bytes": rows,
        "rest_bytes": sum(buffer.nbytes for buffer in csre.buffers()) - rows,
        "process_bytes": _process_peak(),
        "step_bytes": peak_bytes(step, torch.device("cpu")),
    }
    torch.save(measured, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _fill(rows: Tensor, start: int) -> None:
    """Random unit rows into ``rows``, which begin with row ``start`` of the bank."""
    for first in range(start // FILLED * FILLED, start + len(rows), FILLED):
        made = normalise_rows(torch.randn(FILLED, rows.shape[1], generator=torch.Generator().manual_seed(first)))
        begin, end = max(first, start), min(first + FILLED, start + len(rows))
        rows[begin - start : end - start] = made[begin - first : end - first]


def _process_peak() -> int:
    """The most bytes of memory that this process ever held, torch and Python included; Linux only, 0 elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024
