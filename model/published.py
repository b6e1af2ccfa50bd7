"""Names of the published implementations, and how their tensors become ours.

For every entry of its own state dict an encoder lists the published tensors that it is made of
(`Encoder.published_names`): several where it computes parallel layers as one. `model.published_weights` loads and
exports by these tables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Source:
    """Where one of our tensors comes from: published tensors, and how they become one.

    Without names it is a tensor of ours that `join` makes alike for all published weights.
    """

    names: tuple[str, ...]
    join: Callable[[list[Tensor]], Tensor] = torch.cat
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of the published tensors, where they are not equal parts of ours."""
    constant: Tensor | None = None
    """What the published tensor is in all weights, where it is no state of ours: checked, not kept."""
    hint: str = ""
    """What to try where a published tensor is not this constant."""

    def joined(self, parts: list[Tensor]) -> Tensor:
        """Our tensor of the published ones; RuntimeError when they do not fit together."""
        return parts[0] if len(parts) == 1 and self.join is torch.cat else self.join(parts)


class PublishedModule(nn.Module, ABC):
    """A part of an encoder that knows the published names of its state."""

    @abstractmethod
    def published_names(self) -> dict[str, Source]:
        """Our names -> the published ones, both relative to the module."""


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors so that row i of part k becomes row i * len(parts) + k."""
    return torch.stack(tuple(parts), dim=1).flatten(0, 1)


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Join weights (C_out, C_in, ...) along their inputs."""
    return torch.cat(tuple(parts), dim=1)


def joined(
    layer: nn.Module,
    ours: str,
    published: Sequence[str],
    join: Callable[[list[Tensor]], Tensor] = torch.cat,
    weight_shape: tuple[int, ...] | None = None,
    widths: Sequence[int] | None = None,
) -> dict[str, Source]:
    """Table of a layer of ours that holds several published layers of its kind.

    `weight_shape` is that of each published weight, where it has more or fewer axes than ours; `widths` are their
    outputs, where they differ.
    """

    def shapes(entry: str, tensor: Tensor) -> tuple[tuple[int, ...], ...]:
        if widths is not None and tensor.ndim:
            return tuple((width, *tensor.shape[1:]) for width in widths)
        return (weight_shape,) * len(published) if weight_shape is not None and entry == "weight" else ()

    return {
        f"{ours}.{entry}": Source(
            tuple(f"{name}.{entry}" for name in published),
            join if tensor.ndim else _largest_count,
            shapes(entry, tensor),
        )
        for entry, tensor in layer.state_dict().items()
    }


def same(layer: nn.Module, ours: str, published: str) -> dict[str, Source]:
    """Table of a layer that is published as it is, under another name."""
    return joined(layer, ours, [published])


def within(ours: str, published: str, table: Mapping[str, Source]) -> dict[str, Source]:
    """The table of a module, seen from the module that holds it under these names."""
    return {
        f"{ours}.{name}": replace(source, names=tuple(f"{published}.{part}" for part in source.names))
        for name, source in table.items()
    }


def published_blocks(blocks: nn.ModuleDict, numbered_from_zero: str | None = None) -> dict[str, Source]:
    """Table of an encoder's `blocks`, which are published under their keys, or as a numbered list of that name."""
    table: dict[str, Source] = {}
    for number, (name, block) in enumerate(blocks.items()):
        assert isinstance(block, PublishedModule)
        published = name if numbered_from_zero is None else f"{numbered_from_zero}.{number}"
        table |= within(f"blocks.{name}", published, block.published_names())
    return table


def _largest_count(counts: list[Tensor]) -> Tensor:
    # num_batches_tracked: normalisations joined in one layer have seen the same batches, so the counts agree.
    return torch.stack(counts).max()
