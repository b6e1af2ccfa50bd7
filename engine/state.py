"""The state of a run as one checkpoint, and back: a resumed run computes what it would have computed.

What `training` holds of a checkpoint:

| key | content |
|---|---|
| encoder, average | weights, their moving average |
| (a head's section) | per training head what it learned and its state |
| optimizer, scaler | as torch's own state dicts |
| counters | how far the run is, see `engine.experiment.Counters` |
| ranks | per rank: `random`, states of torch's generators, and `sums` of the logged quantities of the epoch so far |
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from engine.checkpoint import changed_facts, checkpoints_of, load_checkpoint, name_also, prune, save_checkpoint
from engine.config import differing_keys
from engine.errors import NonFiniteLossError, RunError
from engine.experiment import Counters, Experiment
from engine.logs import Log
from engine.schema import flatten
from feeders.benchmarks import benchmark_name, get_benchmark
from graph import get_skeleton
from graph.skeleton import Skeleton


def save(run: Experiment, log: Log) -> bool:
    """Write the checkpoint of this moment; it becomes `last`. False when the disk refuses.

    All ranks call it, the first one writes. If the disk refuses, that is logged and the run continues: the older
    checkpoints stay as they are.

    Raises:
        NonFiniteLossError: something to be saved is NaN or infinite; nothing is written.
    """
    content = _content(run)
    written = True
    if run.ranks.first:
        folder, counters = run.folder.path / "checkpoints", run.counters
        path = run.folder.checkpoint(counters.trained + (counters.step > 0), counters.step)
        try:
            save_checkpoint(path, content)
        except UserError as error:
            written = False
            log.say(f"WARNING: {error}. The run continues; its newest checkpoint is an older one")
        written = written and _name_also(path, run.folder.last, log)
        prune(folder, run.config.log.keep_checkpoints)
    return run.ranks.gather(written)[0]


def name_best(run: Experiment, log: Log) -> bool:
    """Let the checkpoint that was written last be `best`, too. False when the disk refuses."""
    return run.ranks.gather(not run.ranks.first or _name_also(run.folder.last, run.folder.best, log))[0]


def name_last(run: Experiment, path: Path, log: Log) -> None:
    """Let the checkpoint of this run that it resumed from be `last` again, where that one is damaged or older."""
    last = run.folder.last
    of_this_run = path.resolve().parent == last.resolve().parent
    if run.ranks.first and of_this_run and not (last.exists() and path.samefile(last)):
        _name_also(path, last, log)


def _name_also(path: Path, name: Path, log: Log) -> bool:
    try:
        name_also(path, name)
    except RunError as error:
        log.say(f"WARNING: {error}. The run continues; {path} holds this checkpoint")
        return False
    return True


def newest_intact(folder: Path) -> tuple[Path, list[str]] | None:
    """The newest checkpoint that can be read, and a line about every damaged one before it; None without any.

    Raises:
        RunError: there are checkpoints, but all are damaged.
    """
    complaints: list[str] = []
    paths = checkpoints_of(folder)
    for path in paths:
        try:
            load_checkpoint(path)
        except RunError as error:
            complaints.append(str(error))
            continue
        return path, [f"WARNING: {complaint}; resuming from {path} instead" for complaint in complaints]
    if paths:
        raise RunError(
            f"{folder}: all checkpoints are damaged ({'; '.join(complaints)}); put an intact one there, or begin anew "
            "with --resume never"
        )
    return None


def resume(run: Experiment, path: Path) -> None:
    """Resume from a checkpoint of the same run.

    Raises:
        RunError: it was written with other settings or other clips; the message lists what differs.
    """
    content = load_checkpoint(path)
    may_change = ["optim.epochs", "optim.patience", "data.benchmark"]  # as a path; `changed_data` looks inside
    changed = differing_keys(content["config"], run.config, ignore=may_change)
    if run.config.weights not in (None, content["config"]["weights"]):
        changed.append(f"weights: {content['config']['weights']} -> {run.config.weights}")
    changed += changed_data(run, content)
    if changed:
        raise RunError(
            f"{path} was trained with other settings ({'; '.join(changed)}); "
            "undo the change, or start another run with --name, --work_dir or --resume never"
        )
    run.config.weights = content["config"]["weights"]  # where the run began stays on record
    training = content["training"]
    try:
        run.encoder.load_state_dict(training["encoder"])
        for name, head in run.heads.items():
            head.load_state_dict(training[name])
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RunError(
            f"{path}: does not fit the encoder or head as they now are ({reason}); undo the change of their code, or "
            "start another run with --name"
        ) from None
    for group in training["optimizer"]["param_groups"]:
        group["fused"] = True  # what checkpoints of earlier versions do not say
    run.optimizer.load_state_dict(training["optimizer"])
    if training["scaler"]:  # empty where the run was in another precision, as `optim.amp: auto` is on the CPU
        run.scaler.load_state_dict(training["scaler"])
    if run.average is not None:
        run.average.load_state_dict(training["average"])
    run.counters = counters = Counters(**training["counters"])
    if path.parent.resolve() != run.folder.last.parent.resolve():  # another folder's: this one gets scores of its own
        counters.best_epoch, counters.best_top1 = 0, -1.0
        counters.tested = min(counters.tested, counters.trained - 1) if counters.step == 0 else counters.tested
    of_ranks = training["ranks"]
    if len(of_ranks) == run.ranks.size:
        own = of_ranks[run.ranks.rank]["sums"]
        _restore_random(of_ranks[run.ranks.rank]["random"])
    else:  # another number of ranks: only what layers like dropout draw depends on it
        own = {name: torch.stack([rank["sums"][name] for rank in of_ranks]).mean() for name in of_ranks[0]["sums"]}
        seed_rank(run.config.seed, run.ranks.rank, counters.trained, counters.step)
    run.sums = {name: value.to(run.device) for name, value in own.items()}
    if counters.trained + (counters.step > 0) > run.config.optim.epochs:
        within = f" and {counters.step} steps" if counters.step else ""
        raise RunError(
            f"{path} has {counters.trained} epochs{within}, more than optim.epochs ({run.config.optim.epochs}); "
            "raise it, or start another run with --name"
        )


def changed_data(run: Experiment, content: Mapping[str, Any], ignore: Collection[str] = ()) -> list[str]:
    """What differs between the benchmark, the clips and the graph of a checkpoint and those of this run.

    ignore: facts of the benchmark that may differ.
    """
    benchmark = get_benchmark(run.config.data.benchmark)
    names = [benchmark_name(config["data.benchmark"]) for config in (content["config"], flatten(run.config))]
    changed = [] if names[0] == names[1] else [f"data.benchmark: {names[0]} -> {names[1]}"]
    changed += changed_facts(content, benchmark, ignore)
    splits = {"train": run.training_split, "test": run.test_clips}
    if any(clips is not None and content["data"][split] != clips.fingerprint for split, clips in splits.items()):
        changed.append("the clips themselves")
    if content["graph"] != fingerprint_of(get_skeleton(benchmark.skeleton)):
        changed.append("the graph of the skeleton")
    return changed


def fingerprint_of(skeleton: Skeleton) -> str:
    """Digest of a skeleton's definition."""
    return hashlib.sha256(repr(skeleton).encode()).hexdigest()[:16]


def seed_rank(*key: int) -> None:
    """Start torch's generators anew from some integers."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def _content(run: Experiment) -> dict[str, Any]:
    """The checkpoint; on other ranks than the first one it lacks what only a gathering of all ranks can give."""
    if run.ranks.size > 1:
        run.ranks.share_buffers(run.forward)
        if run.average is not None:
            run.ranks.share_buffers(run.average)
    on_host = {name: value.cpu() for name, value in run.sums.items()}
    content = {
        "encoder": run.tested_encoder.state_dict(),
        "epoch": run.counters.trained,
        "config": flatten(run.config),
        "benchmark": get_benchmark(run.config.data.benchmark).facts,
        "data": {"train": run.train_clips.fingerprint, "test": run.test_clips.fingerprint},
        "graph": fingerprint_of(run.encoder.skeleton),
        "training": {
            "encoder": run.encoder.state_dict(),
            "average": run.average.state_dict() if run.average is not None else None,
            **{name: head.gathered_state_dict() for name, head in run.heads.items()},
            "optimizer": run.optimizer.state_dict(),
            "scaler": run.scaler.state_dict(),
            "counters": dict(vars(run.counters)),
            "ranks": run.ranks.gather({"random": _random_state(), "sums": on_host}),
        },
    }
    for name, tensor in _tensors(content["training"], ""):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteLossError(
                f"{name.strip('.')} is not finite after epoch {run.counters.trained}, step {run.counters.step}; "
                "nothing was saved of it, the older checkpoints stay. Lower optim.lr or set optim.clip_norm, with "
                "another --name"
            )
    return content


def _tensors(part: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, Tensor):
        yield name, part
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from _tensors(value, f"{name}.{key}")
    elif isinstance(part, list | tuple):
        for number, value in enumerate(part):
            yield from _tensors(value, f"{name}.{number}")


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
