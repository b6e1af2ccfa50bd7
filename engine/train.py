"""The training loop: read it from top to bottom.

An epoch is forward, losses, backward, check, update, log for every batch; then a checkpoint, a test, one line.

The host gives a GPU its work and never waits for the step that it has just given. Whether a step's numbers are finite,
the device finds out and obeys by itself: it makes the update, or makes none. The host reads that one step later, while
the next one is computed, and then logs the step, stops the run or says that the step was skipped.

Letters: N clips of this rank, K classes.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from engine.errors import NonFiniteLossError, RunError
from engine.evaluate import Tested, keep_scores, test_due, test_epoch
from engine.experiment import Experiment, frozen_parts
from engine.logs import GRADIENT, Log, duration, progress
from engine.optim import autocast, learning_rate, set_learning_rate
from engine.processes import StopRequest, naming_what_is_too_large
from engine.state import name_best, save
from feeders.ahead import batches_ahead
from feeders.feeder import ClipBatch
from heads.head import Moment, Ranks
from model.draws import Draws

LINE = 120
"""Characters of an epoch's line at most."""
AGREEMENT = 4
"""Steps on GPUs after which several ranks exchange whether one was asked to stop, or a checkpoint has become due."""


def train(run: Experiment, log: Log) -> None:
    """Train and test epoch by epoch until `optim.epochs` or out of `optim.patience`, from wherever the run is.

    A trained epoch is saved before its test, so that nothing that happens during the test can lose it.

    Raises:
        StoppedError: a signal asked for it; everything done is saved.
        NonFiniteLossError: numbers went wrong, before they reached a checkpoint.
        RunError: the disk refused the last checkpoint, or a batch does not fit into the device's memory.
    """
    counters, config = run.counters, run.config
    saved = run.is_complete
    with StopRequest() as stop:
        while not run.is_complete:
            means, tested, written = None, None, False
            if counters.trained == counters.tested:
                clips, remedy = config.optim.batch_size // run.ranks.size, "lower it, or use --optim.amp bf16"
                with naming_what_is_too_large("optim.batch_size", clips, remedy, run.device, run.ranks):
                    means = train_epoch(run, log, stop)
                written = save(run, log)
                if run.ranks.any(stop.asked is not None)[0]:
                    raise stop.error(f"after epoch {counters.trained}", written)
            epoch = counters.trained
            if test_due(config, epoch):
                tested = test_epoch(run, log, stop)
                # Score file and record of the best epoch follow its weights, which a disk may refuse.
                better = tested.deciding > counters.best_top1
                if better and (written or save(run, log)) and name_best(run, log):
                    counters.best_epoch, counters.best_top1 = epoch, tested.deciding
                    keep_scores(run, log, tested, "best")
            counters.tested = epoch
            log.say(epoch_line(run, means, tested))
            if run.is_complete:
                saved = save(run, log)
                if epoch < config.optim.epochs:
                    since = f"no epoch since {counters.best_epoch} was better on the held-out clips"
                    log.say(f"training ends after epoch {epoch}: {since} (optim.patience)")
    if saved and not counters.best_epoch and name_best(run, log):
        counters.best_epoch = counters.tested  # the disk refused every epoch before: of those it kept, this is the best
    if not saved:
        raise RunError(
            f"{run.folder.path}: the run is complete, but its last checkpoint could not be written; free some space "
            "and run the same command again"
        )


def train_epoch(run: Experiment, log: Log, stop: StopRequest) -> dict[str, float]:
    """The steps of one epoch that are still to do; returns the means of what they computed.

    Raises:
        StoppedError: a signal asked for it; the steps done are saved.
        NonFiniteLossError: before the update that would have made weights NaN or infinite.
    """
    config, counters, epoch = run.config, run.counters, run.counters.trained + 1
    steps, first = run.train_clips.num_batches(config.optim.batch_size), run.counters.step + 1
    run.encoder.train()
    for part in frozen_parts(run.encoder, config.optim.freeze):
        part.eval()
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    started = saved_at = time.monotonic()

    batches = run.train_clips.epoch(epoch, config.optim.batch_size, first - 1, run.ranks.rank, run.ranks.size)
    name = f"epoch {epoch}/{config.optim.epochs}"
    bar = progress(batches_ahead(batches, run.device), name, steps, first - 1, shown=run.ranks.first)
    newest: PendingStep | None = None
    # Where steps are slow enough for every rank to ask each time, an exchange costs next to nothing.
    agreement = AGREEMENT if run.device.type == "cuda" and run.ranks.size > 1 else 1
    for number, batch in enumerate(bar, first):
        step = forward_backward(run, batch, Moment(epoch, number, steps))
        run.loss_names = list(step.losses)
        if newest is not None:
            resolve_step(run, log, newest)
            if not bar.disable:
                pace = (number - first) / (time.monotonic() - started)
                left = duration(((config.optim.epochs - epoch + 1) * steps - number) / pace)
                loss, clips_per_second = newest.flags.read()[2], pace * config.optim.batch_size
                bar.set_postfix_str(f"loss {loss:.3f}, {clips_per_second:.0f} clips/s, run ends in {left}", False)
        newest = update(run, step)
        counters.step = number
        stopping, due = False, _checkpoint_due(run, number)
        if number % agreement == 0:
            stopping, late = run.ranks.any(stop.asked is not None, _checkpoint_late(run, time.monotonic() - saved_at))
            due = due or late
        if (stopping or due) and number < steps:
            resolve_step(run, log, newest)
            newest = None
            written = save(run, log)
            saved_at = time.monotonic()
            if stopping:
                raise stop.error(f"in epoch {epoch} after step {number} of {steps}", written)
    if newest is not None:
        resolve_step(run, log, newest)

    means = _means_of_epoch(run, log, epoch, steps, (steps - first + 1) / (time.monotonic() - started))
    counters.trained, counters.step, counters.skipped, run.sums = epoch, 0, 0, {}
    return means


class Step(NamedTuple):
    """What a step computed.

    losses: scalars by name, whose sum `loss` is trained. per_clip: cross entropies (N,). logits (N, K).
    norm: of all gradients. at_features: squared norms of the losses' gradients at the last map, where the step is
    logged. undo: state that the step has changed already, as it was before; None unless `optim.on_non_finite` is skip.
    """

    moment: Moment
    batch: ClipBatch
    losses: dict[str, Tensor]
    loss: Tensor
    per_clip: Tensor
    logits: Tensor
    norm: Tensor
    at_features: dict[str, Tensor]
    undo: tuple[list[Tensor], list[Any]] | None


def forward_backward(run: Experiment, batch: ClipBatch, moment: Moment) -> Step:
    """Losses and gradients of this rank's clips; the mean over the ranks of either is that of the whole step.

    Nothing but statistics of batch normalisation and the state of heads has changed when it returns.
    """
    undo = _undo_of(run) if run.config.optim.on_non_finite == "skip" else None
    key = (run.config.seed, moment.epoch, moment.step)
    run.encoder.begin_step(moment.epoch, run.config.optim.epochs, Draws(key, run.device, run.ranks.rank))
    with autocast(run.device, run.config.optim):
        logits, projected, features = run.forward(batch.x, batch.joints)
        per_clip = cross_entropy(
            logits.float(), batch.labels, reduction="none", label_smoothing=run.encoder.label_smoothing
        )
        losses = {"cross_entropy": per_clip.mean(), **run.encoder.own_losses(batch.labels)}
    generator = _generator(run.device, *key)
    detached_logits, ranks = logits.detach().float(), Ranks.of(None)
    for name, head in run.heads.items():
        of_head = head.losses(projected[name], detached_logits, batch.labels, batch.indices, moment, ranks, generator)
        for taken in losses.keys() & of_head.keys():
            raise RunError(f"{name}: its loss {taken!r} has the name of another one; give it a name of its own")
        losses |= of_head
    loss = torch.stack(list(losses.values())).sum()
    at_features = {}
    if _log_due(run, moment):
        # Scaled as in the backward pass: the gradients of a clip can be below the range of float16.
        scaled = {name: run.scaler.scale(value) for name, value in losses.items()}
        squares = squared_gradients(scaled, features)
        scale = run.scaler.scale(torch.ones((), device=run.device))
        at_features = {name: square / scale**2 for name, square in squares.items()}
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    run.scaler.unscale_(run.optimizer)
    norm = get_total_norm([parameter.grad for parameter in _parameters(run) if parameter.grad is not None])
    return Step(moment, batch, losses, loss, per_clip, logits, norm, at_features, undo)


def squared_gradients(losses: Mapping[str, Tensor], features: Tensor) -> dict[str, Tensor]:
    """How strongly each loss pulls at the encoder: the squared norm of its gradient at the features (N, M, C', T', V')
    of this rank, which all losses behind them share; name -> float32 scalar.

    A loss that does not depend on the features is left out. The graph stays as it is; nothing before the features is
    differentiated, so this costs little beside a training step.
    """
    squares = {}
    for name, loss in losses.items():
        if loss.requires_grad and features.requires_grad:
            (gradient,) = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
            if gradient is not None:
                squares[name] = gradient.float().square().sum()
    return squares


class HostCopy:
    """Numbers on their way from a device, which copies them when it gets there; only `read` waits for that."""

    def __init__(self, numbers: Tensor) -> None:
        on_gpu = numbers.device.type == "cuda"
        self._copy = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=on_gpu)
        self._copy.copy_(numbers, non_blocking=True)
        self._copied = torch.cuda.Event() if on_gpu else None
        if self._copied is not None:
            self._copied.record()

    def read(self) -> list[float]:
        """The numbers."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._copy.numpy().tolist()


class PendingStep(NamedTuple):
    """A step that was given to the device and may not be computed yet.

    flags: whether it is skipped, whether its gradients overflowed, its loss. numbers: what is logged of it, scalars by
    name.
    """

    step: Step
    flags: HostCopy
    numbers: dict[str, Tensor]


def is_finite(run: Experiment, step: Step) -> Tensor:
    """Whether loss, gradients and batch-norm statistics are finite on this rank: a bool scalar on the device.

    Gradients that overflow float16 are the scaler's ordinary business and do not count.
    """
    checked = step.loss + get_total_norm(run.statistics, math.inf)
    return torch.isfinite(checked if run.scaler.is_enabled() else checked + step.norm)


@torch.no_grad()
def update(run: Experiment, step: Step) -> PendingStep:
    """Clip the gradients, let the encoder edit them, change the weights and their average, or undo the step.

    It is undone where it is not finite, which the device finds out; the host waits for nothing. Where
    `optim.on_non_finite` is stop, only the update is left out: the run ends with the next step.
    """
    config = run.config.optim
    wrong = torch.stack([~is_finite(run, step), ~torch.isfinite(step.norm)]).float()
    skipped, overflowed = run.ranks.largest(wrong).unbind()
    set_learning_rate(run.optimizer, _rate(run, step.moment))
    if config.clip_norm is not None:
        clip_grads_with_norm_(_parameters(run), config.clip_norm, step.norm)
    run.encoder.edit_gradients()
    run.optimizer.found_inf = torch.maximum(skipped, overflowed)  # type: ignore[attr-defined]
    run.optimizer.step()
    run.scaler.update()  # closes the step for the scaler, which has seen its gradients
    if step.undo is not None:
        buffers, snapshots = step.undo
        for buffer, before in zip(run.forward.buffers(), buffers, strict=True):
            buffer.copy_(torch.where(skipped.bool(), before, buffer))
        for head, snapshot in zip(run.heads.values(), snapshots, strict=True):
            head.restore(snapshot, skipped.bool())
    if run.average is not None:
        run.average.follow(run.encoder, torch.maximum(skipped, overflowed) == 0)
    numbers = _numbers_of(run, step)
    for name, value in numbers.items():
        counted = torch.where(skipped.bool(), 0, value)
        run.sums[name] = run.sums[name] + counted if name in run.sums else counted
    # What is kept until the next step must not keep the graph of this one.
    losses = {name: value.detach() for name, value in step.losses.items()}
    per_clip, logits = step.per_clip.detach(), step.logits.detach()
    kept = step._replace(losses=losses, loss=step.loss.detach(), per_clip=per_clip, logits=logits, undo=None)
    return PendingStep(kept, HostCopy(torch.stack([skipped, overflowed, kept.loss.float()])), numbers)


def resolve_step(run: Experiment, log: Log, pending: PendingStep) -> None:
    """What follows from the numbers of a step: log it, or say that it is skipped.

    Raises:
        NonFiniteLossError: its numbers are not finite and `optim.on_non_finite` is stop, or too many steps in a row
            were skipped or overflowed float16.
    """
    config, counters, step = run.config.optim, run.counters, pending.step
    skipped, overflowed, _ = pending.flags.read()
    counters.streak = counters.streak + 1 if skipped or overflowed else 0
    if skipped:
        report_non_finite(run, log, step)
        return
    if counters.streak >= config.max_skips:
        raise NonFiniteLossError(
            f"the gradients overflowed float16 in {counters.streak} steps in a row, up to epoch {step.moment.epoch}, "
            f"step {step.moment.step}; lower optim.lr (now {_rate(run, step.moment):g}) or use --optim.amp bf16 or "
            "off, with another --name"
        )
    if _log_due(run, step.moment):
        _log_step(run, log, pending)


def report_non_finite(run: Experiment, log: Log, step: Step) -> None:
    """Say that a step whose numbers are not finite is skipped, where `optim.on_non_finite` is skip.

    Raises:
        NonFiniteLossError: it is stop, or too many steps in a row were skipped.
    """
    config, counters = run.config.optim, run.counters
    what, fix = _what_is_not_finite(run, step), f"lower optim.lr (now {_rate(run, step.moment):g})"
    fix = f"check these clips; {fix} or set optim.clip_norm, with another --name"
    if config.on_non_finite == "stop":
        raise NonFiniteLossError(f"{what}. No update was made; {fix}")
    if counters.streak >= config.max_skips:
        raise NonFiniteLossError(f"{what}. {counters.streak} steps in a row were skipped; {fix}")
    counters.skipped += 1
    log.say(f"WARNING: {what}. This step is skipped; {fix}")


def epoch_line(run: Experiment, means: dict[str, float] | None, tested: Tested | None) -> str:
    """An epoch in one line of at most 120 characters: losses, accuracies in training, validation and test, pace.

    Args:
        means: what `train_epoch` returned; None where an earlier process trained the epoch.
        tested: None where the epoch was not tested.
    """
    counters, epochs = run.counters, run.config.optim.epochs
    head = f"epoch {counters.trained:>{len(str(epochs))}}/{epochs}"
    ends = []
    if means is not None and "top1" in means:
        ends.append(f"train {means['top1']:.2f}{'' if tested else ' %'}")
    if tested is not None:
        best = f"(best {counters.best_top1:.2f} @ {counters.best_epoch})"
        if tested.validation is None:
            ends.append(f"test {tested.test.top1:.2f} % {best}")
        else:
            ends += [f"val {tested.validation.top1:.2f} % {best}", f"test {tested.test.top1:.2f} %"]
    if means is not None:
        ends.append(f"{means['clips_per_second']:.0f} clips/s")
    if means is None or "loss" not in means:
        return "  ".join([head, *ends])
    terms = {"ce": means["cross_entropy"]}
    terms |= {name: means[name] for name in run.loss_names if name != "cross_entropy"}
    shorter = [", ".join(f"{name} {value:.{decimals}f}" for name, value in terms.items()) for decimals in (3, 2, 1)]
    shorter += [f"ce {terms['ce']:.1f}, {len(terms) - 1} others {means['loss'] - terms['ce']:.1f}", ""]
    for decimals, text in zip((3, 2, 1, 1, 1), shorter, strict=True):
        loss = f"loss {means['loss']:.{decimals}f}" + (f" ({text})" if text and len(terms) > 1 else "")
        line = "  ".join([head, loss, *ends])
        if len(line) <= LINE:
            break
    return line


def _rate(run: Experiment, moment: Moment) -> float:
    return learning_rate(run.config.optim, moment.epoch - 1 + (moment.step - 1) / moment.steps)


def _checkpoint_due(run: Experiment, step: int) -> bool:
    """Whether a checkpoint within the epoch should follow this step."""
    every = run.config.log.checkpoint_steps
    return every is not None and step % every == 0


def _checkpoint_late(run: Experiment, seconds: float) -> bool:
    """Whether one should be written because the newest is so many seconds old."""
    minutes = run.config.log.checkpoint_minutes
    return minutes is not None and seconds >= 60 * minutes


def _log_due(run: Experiment, moment: Moment) -> bool:
    """Whether a step gets a line in the step log. Counted over the epochs: one of few steps has its turn, too."""
    return ((moment.epoch - 1) * moment.steps + moment.step) % run.config.log.every_steps == 0


def _parameters(run: Experiment) -> list[nn.Parameter]:
    return [parameter for group in run.optimizer.param_groups for parameter in group["params"]]


def _generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator whose numbers depend on nothing but some integers."""
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state)


def _undo_of(run: Experiment) -> tuple[list[Tensor], list[Any]]:
    buffers = [buffer.clone() for buffer in run.forward.buffers()]
    return buffers, [head.snapshot() for head in run.heads.values()]


def _what_is_not_finite(run: Experiment, step: Step) -> str:
    """What is NaN or infinite on any rank, where, and in which clips as far as the numbers show."""
    names = [run.train_clips.name_of(int(index)) for index in step.batch.indices]
    # The square: a coordinate whose square overflows makes the variances of batch normalisation infinite.
    bad = ~torch.isfinite(step.batch.x.square()).flatten(1).all(dim=1)
    bad = bad if bad.any() else ~torch.isfinite(step.per_clip)
    suspects = [name for name, is_bad in zip(names, bad.tolist(), strict=True) if is_bad]
    numbers = [f"{name} {float(value.detach()):.4g}" for name, value in step.losses.items()]
    terms = ", ".join([*numbers, f"gradient norm {float(step.norm):.4g}"])
    statistics_only = bool(torch.isfinite(step.loss + step.norm))

    of_ranks = run.ranks.gather((suspects, names, terms, statistics_only))
    suspects = [name for part in of_ranks for name in part[0]] or [name for part in of_ranks for name in part[1]]
    terms = next((part[2] for part in of_ranks if part[0]), of_ranks[0][2])
    what = "a batch-norm statistic" if all(part[3] for part in of_ranks) else "the loss or its gradient"
    listed = ", ".join(suspects[:8]) + (f" and {len(suspects) - 8} more" if len(suspects) > 8 else "")
    where = f"epoch {step.moment.epoch}, step {step.moment.step}"
    return f"{what} is not finite in {where} ({terms}); clips: {listed}"


def _numbers_of(run: Experiment, step: Step) -> dict[str, Tensor]:
    """What is logged of a step: scalars by name, on the device."""
    numbers = {name: value.detach() for name, value in step.losses.items()} | {"loss": step.loss.detach()}
    numbers["top1"] = 100 * (step.logits.argmax(dim=1) == step.batch.labels).float().mean()
    for head in run.heads.values():
        numbers |= head.metrics()
    return numbers


def _log_step(run: Experiment, log: Log, pending: PendingStep) -> None:
    """A line of the step log."""
    now, (epoch, number, steps), at_features = pending.numbers, pending.step.moment, pending.step.at_features
    means = run.ranks.mean([*now.values(), *at_features.values()])
    numbers = {name: float(value) for name, value in zip(now, means[: len(now)], strict=True)}
    for name, square in zip(at_features, means[len(now) :], strict=True):
        # The step's loss is the mean over the ranks: at the clips of each, its gradient is 1 / size of theirs.
        numbers[GRADIENT + name] = math.sqrt(float(square) / run.ranks.size)
    log.record("step", (epoch - 1) * steps + number, {"epoch": epoch, "step": number, **numbers})


def _means_of_epoch(run: Experiment, log: Log, epoch: int, steps: int, pace: float) -> dict[str, float]:
    """Log the means over the steps of an epoch that were not skipped, and return them; `pace` in steps per second."""
    counted = steps - run.counters.skipped
    sums = run.ranks.mean(list(run.sums.values()))
    means = {name: float(value) / counted for name, value in zip(run.sums, sums, strict=True)} if counted else {}
    if not means:
        log.say(f"WARNING: all steps of epoch {epoch} were skipped")
    for section, head in run.heads.items():
        for name in head.metrics():
            if name.startswith("active_") and means.get(name) == 0:
                what = name.removeprefix("active_")
                log.say(f"WARNING: {section}: {what} acted on no clip in epoch {epoch}: {head.inactive_advice}")
    means["clips_per_second"] = pace * run.config.optim.batch_size
    facts: dict[str, Any] = {"lr": run.optimizer.param_groups[0]["lr"], "skipped_steps": run.counters.skipped}
    facts["peak_memory_mb"] = _peak_memory_mb(run.device)
    log.record("train", epoch, {"epoch": epoch, **means, **facts})
    return means


def _peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: of the device's tensors, or of the process where the device is the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
