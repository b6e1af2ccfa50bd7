"""The training loop: read it from top to bottom."""

from __future__ import annotations

import resource
import time

import torch

from engine.attempt import Attempt, attempt, leave_out, spoiled, update
from engine.errors import RunError
from engine.experiment import Experiment
from engine.logs import Log
from engine.progress import progress
from engine.state import save
from engine.stopping import StopRequest
from engine.testing import test_epoch


def train(run: Experiment, log: Log) -> None:
    """Train and test epoch by epoch until `optim.epochs`; a run that was interrupted goes on where it was.

    A trained epoch is saved before its test, so that nothing that happens during the test can lose it.

    Raises:
        StoppedError: a signal asked for it; everything done is saved.
        NonFiniteLossError: numbers went wrong, before they reached a checkpoint.
        RunError: the disk refused the last checkpoint.
    """
    counters, saved = run.counters, True
    with StopRequest() as stop:
        while counters.tested < run.config.optim.epochs:
            if counters.trained == counters.tested:
                train_epoch(run, log, stop)
                save(run, log)
            improved = test_epoch(run, log, stop)
            counters.tested = counters.trained
            saved = save(run, log, best=improved)
    if not saved:
        raise RunError(
            f"{run.folder.path}: the run is complete, but its last checkpoint could not be written; free some space "
            "and run the same command again"
        )


def train_epoch(run: Experiment, log: Log, stop: StopRequest) -> None:
    """The steps of one epoch that are still to do.

    Raises:
        StoppedError: a signal asked for it; the steps done are saved.
        NonFiniteLossError: before the update that would have spoiled the weights.
    """
    config, counters, epoch = run.config, run.counters, run.counters.trained + 1
    steps, first = run.train_clips.num_batches(config.optim.batch_size), run.counters.step + 1
    run.encoder.train()
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    started = saved_at = time.monotonic()

    batches = run.train_clips.epoch(epoch, config.optim.batch_size, first - 1, run.ranks.rank, run.ranks.size)
    for step, batch in enumerate(progress(batches, f"epoch {epoch}/{config.optim.epochs}", steps, first - 1), first):
        batch = batch.to(run.device)
        tried = attempt(run, batch, epoch, step)
        wrong, stopping, due = run.ranks.any(
            spoiled(run, tried), stop.asked is not None, _checkpoint_due(run, step, time.monotonic() - saved_at)
        )
        if wrong:
            leave_out(run, log, tried, batch, epoch, step)
        else:
            update(run, tried, epoch, step)
            _remember(run, log, tried, epoch, step, steps)
        counters.step = step
        if (stopping or due) and step < steps:
            written = save(run, log)
            saved_at = time.monotonic()
            if stopping:
                where = f"in epoch {epoch} after step {step} of {steps}"
                raise stop.error(where if written else f"{where}, which could not be saved")

    _sum_up(run, log, epoch, steps, (steps - first + 1) / (time.monotonic() - started))
    run.schedule.step()
    counters.trained, counters.step, counters.skipped, run.sums = epoch, 0, 0, {}


def _checkpoint_due(run: Experiment, step: int, seconds: float) -> bool:
    """Whether a checkpoint within the epoch should follow this step, the newest one being so many seconds old."""
    every, minutes = run.config.log.checkpoint_steps, run.config.log.checkpoint_minutes
    return (every is not None and step % every == 0) or (minutes is not None and seconds >= 60 * minutes)


@torch.no_grad()
def _remember(run: Experiment, log: Log, tried: Attempt, epoch: int, step: int, steps: int) -> None:
    """Add the quantities of a step to the sums of its epoch, and log them if it is their turn."""
    losses = tried.losses
    now = {name: value.detach() for name, value in losses.terms.items()} | {"loss": losses.total.detach()}
    now["top1"] = 100 * (losses.logits.argmax(dim=1) == tried.labels).float().mean()
    if run.csre is not None:
        now |= {f"active_{branch}": share for branch, share in run.csre.active_share.items()}
    for name, value in now.items():
        run.sums[name] = run.sums[name] + value if name in run.sums else value.clone()
    if step % run.config.log.every_steps == 0:
        means = run.ranks.mean(list(now.values()))
        numbers = {name: float(value) for name, value in zip(now, means, strict=True)}
        log.record("step", (epoch - 1) * steps + step, {"epoch": epoch, "step": step, **numbers})


def _sum_up(run: Experiment, log: Log, epoch: int, steps: int, pace: float) -> None:
    """Log the means of an epoch; `pace` in steps per second."""
    config, counted = run.config, max(steps - run.counters.skipped, 1)
    sums = run.ranks.mean(list(run.sums.values()))
    means = {name: float(value) / counted for name, value in zip(run.sums, sums, strict=True)}
    learning_rate, clips_per_second = run.schedule.get_last_lr()[0], pace * config.optim.batch_size
    log.record(
        "train",
        epoch,
        {
            "epoch": epoch,
            **means,
            "lr": learning_rate,
            "skipped_steps": run.counters.skipped,
            "clips_per_second": clips_per_second,
            "peak_memory_mb": _peak_memory_mb(run.device),
        },
    )
    terms = [name for name in means if name not in ("loss", "top1") and not name.startswith("active_")]
    if not means:
        log.say(f"WARNING: no step of epoch {epoch} counted, all were left out")
        return
    log.say(
        f"epoch {epoch}/{config.optim.epochs}: loss {means['loss']:.3f} "
        f"({' + '.join(f'{name} {means[name]:.3f}' for name in terms)}), "
        f"train top-1 {means['top1']:.2f} %, lr {learning_rate:g}, {clips_per_second:.0f} clips/s"
        + "".join(f", {name.replace('_', ' ')} {share:.0%}" for name, share in means.items() if "active_" in name)
    )
    for branch in run.csre.active_share if run.csre is not None else ():
        if means[f"active_{branch}"] == 0:
            log.say(
                f"WARNING: the {branch} contrast was active for no clip in epoch {epoch}: no clip had enough written "
                "positives and negatives; lower csre.positives and csre.negatives, set csre.too_few to use, or raise "
                "data.repeat"
            )


def _peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: of the device's tensors, or of the process where the device is the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
