"""The training loop: read it from top to bottom."""

from __future__ import annotations

import resource
import time
from collections import defaultdict

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.errors import NonFiniteLossError
from engine.experiment import Experiment
from engine.logs import RunLog
from engine.optim import autocast
from engine.progress import progress
from engine.testing import test_epoch
from feeders.feeder import ClipBatch


def train(run: Experiment, log: RunLog) -> None:
    """Train and test epoch by epoch until `optim.epochs`; a run that was interrupted goes on where it was.

    A trained epoch is saved before its test, so that nothing that happens during the test can lose it.
    """
    counters = run.counters
    while counters.tested < run.config.optim.epochs:
        if counters.trained == counters.tested:
            train_epoch(run, log)
            counters.trained += 1
            run.save()
        improved = test_epoch(run, log)
        counters.tested = counters.trained
        run.save(best=improved)


def train_epoch(run: Experiment, log: RunLog) -> None:
    """One pass over the training clips.

    Raises:
        NonFiniteLossError: before the update that would have spoiled the weights.
    """
    config, device, epoch = run.config, run.device, run.counters.trained + 1
    steps = run.train_clips.num_batches(config.optim.batch_size)
    learning_rate = run.schedule.get_last_lr()[0]
    batches = run.train_clips.epoch(epoch, config.optim.batch_size)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))
    run.encoder.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()

    for step, batch in enumerate(progress(batches, f"epoch {epoch}/{config.optim.epochs}", steps), start=1):
        x, labels, indices, joints = batch.to(device)
        with autocast(device, config.optim):
            features = run.encoder.features(x, joints=joints)
            logits = run.encoder.classify(features)
            contrast = run.csre(features, labels, indices) if run.csre is not None else {}
        smoothing = run.encoder.label_smoothing
        per_clip = cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
        losses = {"cross_entropy": per_clip.mean(), **run.encoder.own_losses(labels), **contrast}
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):  # waits for the device, once a step: the price of never spoiling the weights
            raise _non_finite(run, epoch, step, batch, per_clip, losses)

        run.optimizer.zero_grad(set_to_none=True)
        run.scaler.scale(loss).backward()
        if config.optim.clip_norm is not None:
            run.scaler.unscale_(run.optimizer)
            torch.nn.utils.clip_grad_norm_(run.optimizer.param_groups[0]["params"], config.optim.clip_norm)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        if run.average is not None:
            run.average.update_parameters(run.encoder)

        with torch.no_grad():
            now = {name: value.detach() for name, value in losses.items()} | {"loss": loss.detach()}
            now["top1"] = 100 * (logits.argmax(dim=1) == labels).float().mean()
            if run.csre is not None:
                now |= {f"active_{branch}": share for branch, share in run.csre.active_share.items()}
            for name, value in now.items():
                sums[name] += value
        if step % config.log.every_steps == 0:
            numbers = {name: float(value) for name, value in now.items()}
            log.record("step", (epoch - 1) * steps + step, {"epoch": epoch, "step": step, **numbers})

    run.schedule.step()
    seconds = time.perf_counter() - started
    means = {name: float(value) / steps for name, value in sums.items()}
    pace = {"lr": learning_rate, "clips_per_second": steps * config.optim.batch_size / seconds}
    log.record("train", epoch, {"epoch": epoch, **means, **pace, "peak_memory_mb": _peak_memory_mb(device)})
    parts = " + ".join(f"{name} {means[name]:.3f}" for name in losses)
    log.say(
        f"epoch {epoch}/{config.optim.epochs}: loss {means['loss']:.3f} ({parts}), train top-1 {means['top1']:.2f} %, "
        f"lr {learning_rate:g}, {pace['clips_per_second']:.0f} clips/s"
        + "".join(f", {name.replace('_', ' ')} {share:.0%}" for name, share in means.items() if "active_" in name)
    )
    for branch in run.csre.active_share if run.csre is not None else ():
        if means[f"active_{branch}"] == 0:
            log.say(
                f"WARNING: the {branch} contrast was active for no clip in epoch {epoch}: no clip had enough written "
                "positives and negatives; lower csre.positives and csre.negatives, set csre.too_few to use, or raise "
                "data.repeat"
            )


def _non_finite(
    run: Experiment, epoch: int, step: int, batch: ClipBatch, per_clip: Tensor, losses: dict[str, Tensor]
) -> NonFiniteLossError:
    """Blame the clips whose input is not finite, else those whose loss is not, else the whole batch."""
    bad_input = ~torch.isfinite(batch.x).flatten(1).all(dim=1)
    bad = (bad_input if bad_input.any() else ~torch.isfinite(per_clip)).to(batch.indices.device)
    guilty = batch.indices[bad] if bad.any() else batch.indices
    names = [run.train_clips.name_of(int(index)) for index in guilty]
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    terms = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in losses.items())
    return NonFiniteLossError(
        f"the loss is not finite in epoch {epoch}, step {step} ({terms}); clips: {listed}. No update was made; "
        f"check these clips, or lower optim.lr (now {run.schedule.get_last_lr()[0]:g}) or "
        "set optim.clip_norm"
    )


def _peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: of the device's tensors, or of the process where the device is the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
