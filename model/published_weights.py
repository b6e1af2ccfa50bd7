"""Weights under the names of the published implementations: import into an encoder and export from it.

Each encoder says how its tensors are made of the published ones (`Encoder.published_names`); the rest is alike for all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.encoder import Encoder
from model.errors import EncoderError, WeightsError
from model.published import Source

_OF_HEAD = re.compile(r"std\.|ren_(low|mid|high|fin)\.")
"""How the entries of training heads begin in checkpoints published with them: CSRE's, FR-Head's."""


def without_wrapper_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the prefix that data-parallel wrappers put before every name."""
    prefix = "module."
    if state and all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def load_published_weights(encoder: Encoder, state_dict: Mapping[str, Tensor]) -> None:
    """Fill the encoder with tensors under their published names, with or without `module.` before every name.

    Entries of training heads that a checkpoint holds beside its encoder's are ignored.

    Raises WeightsError when names are missing or left over or tensors have another shape, naming them; the encoder then
    keeps the weights it had. Raises EncoderError when the encoder knows no published weights.
    """
    state = {name: value for name, value in without_wrapper_prefix(state_dict).items() if not _OF_HEAD.match(name)}
    sources, aliases = published_table(encoder, set(state)), encoder.published_aliases()
    names = _names(sources)
    check_names(set(state), names | aliases.keys(), "published weights")
    _check_aliases(aliases, state)
    _check_constants(sources, state)
    table = {ours: source for ours, source in sources.items() if source.constant is None}
    own = encoder.state_dict()
    assert table.keys() == own.keys(), f"{type(encoder).__name__}: its table of published names has gaps"
    parts = {ours: {name: state[name] for name in source.names} for ours, source in table.items()}
    load_checked(encoder, {ours: _join(table[ours], list(parts[ours].values()), own[ours]) for ours in table}, parts)


def published_state_dict(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's weights under their published names and in their published shapes, for the authors' own code.

    The reverse of `load_published_weights`: loading and exporting again gives the same bits.

    Raises:
        EncoderError: no published weights of this encoder are known.
        WeightsError: the weights hold what the published names have no place for.
    """
    state: dict[str, Tensor] = {}
    tensors = encoder.state_dict()
    for ours, source in encoder.published_names().items():
        if source.constant is not None:
            state |= {name: source.constant.detach().clone() for name in source.names}
            continue
        own = tensors[ours]
        if not source.names:
            if not torch.equal(source.join([]), own):
                raise WeightsError(f"{ours}: trained otherwise than published weights are, whose names cannot say so")
            continue
        shapes = source.shapes or _equal_parts(source, own)
        sizes = [math.prod(shape) for shape in shapes]
        if sum(sizes) != own.numel():  # a count that all parts share
            state |= {name: own.clone() for name in source.names}
            continue
        # Joining the numbers of the elements shows where each of them goes.
        numbers = torch.arange(own.numel()).split(sizes)
        order = source.join([part.reshape(shape) for part, shape in zip(numbers, shapes, strict=True)]).flatten()
        flat = torch.empty_like(own).flatten()
        flat[order] = own.flatten()
        parts = flat.split(sizes)
        state |= {name: part.reshape(shape) for name, part, shape in zip(source.names, parts, shapes, strict=True)}
    return state | {alias: state[name] for alias, name in encoder.published_aliases().items()}


def _equal_parts(source: Source, own: Tensor) -> tuple[tuple[int, ...], ...]:
    """The shape of each published tensor, all alike, that give the shape of ours when joined."""
    count, shape = len(source.names), tuple(own.shape)
    if count == 1:
        return (_published_kernel(shape),)
    if not shape:
        return ((),) * count
    candidates = [(shape[0] // count, *shape[1:])]
    if len(shape) > 1:
        candidates += [shape[1:], (shape[0], shape[1] // count, *shape[2:])]
    for part in candidates:
        try:
            joined = source.join([torch.empty(part, device="meta")] * count)
        except RuntimeError:
            continue
        if joined.shape == shape:
            return (_published_kernel(part),) * count
    raise AssertionError(f"{source.names[0]}: its table needs the shapes of the published tensors")


def _published_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Published kernels are (frames, joints), ours (joints, frames)."""
    return (*shape[:2], shape[3], shape[2]) if len(shape) == 4 else shape


def _check_aliases(aliases: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    torn = [f"{alias} and {name}" for alias, name in aliases.items() if not torch.equal(state[alias], state[name])]
    if torn:
        raise WeightsError(
            f"{_first_few('pairs of names that must hold the same numbers and do not', torn)}; save the state dict of "
            "the authors' own model, in which they are one tensor"
        )


def _check_constants(sources: Mapping[str, Source], state: Mapping[str, Tensor]) -> None:
    """Raise WeightsError unless the published constants are what they must be, to 1e-6."""
    for source in sources.values():
        if source.constant is None:
            continue
        expected = source.constant.detach().double().cpu()
        for name in source.names:
            given = state[name].double().cpu()
            if given.shape != expected.shape or not torch.allclose(given, expected, rtol=0, atol=1e-6):
                raise WeightsError(
                    f"{name}: not the constant that it is in published weights; were these trained with this skeleton "
                    f"and network?{source.hint}"
                )


def published_table(encoder: Encoder, names: set[str]) -> Mapping[str, Source]:
    """That of the encoder's tables of published names which has the most of these names.

    Raises EncoderError when the encoder knows no published weights.
    """
    return max(encoder.published_tables(), key=lambda table: len(names & _names(table)))


def _names(table: Mapping[str, Source]) -> set[str]:
    return {name for source in table.values() for name in source.names}


def is_published(encoder: Encoder, names: set[str]) -> bool:
    """Whether more of these state-dict names are the published ones than the encoder's own."""
    try:
        published = _names(published_table(encoder, names))
    except EncoderError:
        return False
    return len(names & published) > len(names & encoder.state_dict().keys())


def check_names(given: set[str], expected: set[str], what: str) -> None:
    """Raise WeightsError, naming the first few, when the names differ."""
    missing, leftover = sorted(expected - given), sorted(given - expected)
    if missing or leftover:
        raise WeightsError(
            f"{what}: the names differ, {_first_few('missing', missing)}, {_first_few('unexpected', leftover)}; "
            "these belong to another encoder, or to another version of this one"
        )


def load_checked(
    encoder: Encoder, state: Mapping[str, Tensor | None], parts: Mapping[str, Mapping[str, Tensor]] | None = None
) -> None:
    """Load tensors under our names, or None for those that could not be joined; `parts` are what they were joined from.

    Raises WeightsError, before anything is changed, when a shape differs or a tensor holds NaN or infinity.
    """
    own = encoder.state_dict()
    misshaped, fitting = {}, {}
    for ours, tensor in state.items():
        given = parts[ours] if parts else {ours: tensor}
        if tensor is not None and tensor.shape == own[ours].shape:
            fitting[ours] = tensor
        else:
            misshaped[ours] = {name: tuple(part.shape) for name, part in given.items() if part is not None}
    if misshaped:
        raise WeightsError(_describe_shapes(encoder, misshaped))
    broken = [ours for ours, tensor in fitting.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise WeightsError(f"{_first_few('tensors with NaN or infinity', broken)}; the training had failed by then")
    encoder.load_state_dict(fitting)


def _describe_shapes(encoder: Encoder, misshaped: Mapping[str, Mapping[str, tuple[int, ...]]]) -> str:
    """What to say of tensors of another shape: our names -> the names and shapes that came."""
    bias = f"{encoder.classifier}.bias"
    if bias in misshaped and misshaped.keys() <= {bias, f"{encoder.classifier}.weight"}:
        shape = next(iter(misshaped[bias].values()))
        if len(shape) == 1:
            return (
                f"the weights are for {shape[0]} classes, the encoder has {encoder.num_classes}; build it with "
                f"num_classes={shape[0]}, or take weights of the same benchmark"
            )
    own = encoder.state_dict()
    described = [
        f"{' + '.join(f'{name} {shape}' for name, shape in given.items())}, expected {tuple(own[ours].shape)}"
        for ours, given in misshaped.items()
    ]
    return (
        f"{_first_few('tensors of another shape', described)}; were the weights trained with this skeleton, number of "
        "persons and window?"
    )


def _join(source: Source, parts: list[Tensor], own: Tensor) -> Tensor | None:
    """The published parts as one tensor in our layout; None when they do not fit together."""
    try:
        tensor = source.joined(parts)
    except RuntimeError:
        return None
    # Published kernels are (frames, joints), ours (joints, frames), and one of the two sizes is always 1.
    return tensor.reshape(own.shape) if _without_ones(tensor) == _without_ones(own) else None


def _without_ones(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def _first_few(what: str, items: Sequence[str], few: int = 3) -> str:
    shown = ": " + "; ".join(items[:few]) if items else ""
    return f"{len(items)} {what}{shown}{' ...' if len(items) > few else ''}"
