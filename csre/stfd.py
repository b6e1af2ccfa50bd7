"""Spatiotemporal feature decoupling (STFD): from an encoder's last map to one contrasted feature per branch.

Paper section 3.2, equations 4 and 5. Each branch pools the map over the axes that it does not keep, reduces the
channels, flattens what is left into one vector and projects it. Without a non-linearity, a branch is affine in the map.

Shapes: N clips, M persons, C channels, T frames and V joints of the encoder's last map, S positions left after pooling,
D dimensions of a contrasted feature.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from csre.options import CSREError, check_choice

# The axes of (N, M, C, T, V) that a branch pools. "global" keeps neither frames nor joints: the paper's Table 5.
POOLED_AXES: dict[str, tuple[int, ...]] = {"spatial": (3,), "temporal": (4,), "global": (3, 4)}


class ProjectionHead(nn.Module):
    """One branch of STFD: pool, reduce channels C -> C // reduction, flatten, project to D, average the persons.

    The reduction keeps PyTorch's default initialisation; the projection is Kaiming normal over its fan-out with zero
    bias. The paper is silent on both, the released code does this.

    Args:
        branch: ``spatial``, ``temporal`` or ``global``.
        feature_shape: (C, T, V) of the encoder's last map.
        dim: D.
        reduction: r of the paper, by integer division.

    Raises:
        CSREError: unknown branch, a size that is not an integer >= 1, or fewer channels than ``reduction``.
    """

    def __init__(self, branch: str, feature_shape: tuple[int, int, int], dim: int = 256, reduction: int = 8) -> None:
        super().__init__()
        check_choice("branch", branch, POOLED_AXES)
        _check_sizes(feature_shape, dim, reduction)
        channels, frames, joints = feature_shape
        positions = {"spatial": joints, "temporal": frames, "global": 1}[branch]
        self.pooled_axes = POOLED_AXES[branch]
        self.reduce = nn.Conv1d(channels, channels // reduction, kernel_size=1)
        self.project = nn.Linear(channels // reduction * positions, dim)
        nn.init.kaiming_normal_(self.project.weight, mode="fan_out")
        nn.init.zeros_(self.project.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Project the maps ``features`` (N, M, C, T, V), floating, to (N, D).

        Persons are averaged after the projection, absent ones included.
        """
        clips, persons, channels = features.shape[:3]
        pooled = features.mean(dim=self.pooled_axes).reshape(clips * persons, channels, -1)
        flat = self.reduce(pooled).flatten(1)  # channel-major: position s of channel c lands at c * S + s
        return self.project(flat).unflatten(0, (clips, persons)).mean(dim=1)


def load_published_heads(
    heads: Mapping[str, nn.Module], state_dict: Mapping[str, Tensor], prefix: str = "std."
) -> None:
    """Fill the spatial and the temporal head from a state dict of the released model.

    Args:
        heads: ``{"spatial": ProjectionHead, "temporal": ProjectionHead}``.
        state_dict: tensors under the released names: ``conv1`` and ``convs`` are the reduction and the projection of
            the spatial head, ``conv2`` and ``convt`` those of the temporal one. Other entries are left alone.
        prefix: what stands before these names.

    Raises:
        CSREError: an entry is missing or has another shape than the head.
    """
    published = {
        "conv1": ("spatial", "reduce"),
        "convs": ("spatial", "project"),
        "conv2": ("temporal", "reduce"),
        "convt": ("temporal", "project"),
    }
    for published_name, (branch, layer) in published.items():
        for kind in ("weight", "bias"):
            entry = f"{prefix}{published_name}.{kind}"
            parameter = heads[branch].get_parameter(f"{layer}.{kind}")
            if entry not in state_dict:
                raise CSREError(f"{entry} is not in the state dict: give one of a model that was trained with CSRE")
            if state_dict[entry].shape != parameter.shape:
                raise CSREError(
                    f"{entry} has shape {tuple(state_dict[entry].shape)}, the head needs {tuple(parameter.shape)}: "
                    "build CSRE with the feature shape, dim and reduction that the checkpoint was trained with"
                )
            with torch.no_grad():
                parameter.copy_(state_dict[entry])


def _check_sizes(feature_shape: tuple[int, int, int], dim: int, reduction: int) -> None:
    if len(feature_shape) != 3 or not all(isinstance(size, int) and size > 0 for size in feature_shape):
        raise CSREError(
            f"feature_shape is {feature_shape!r}: it must be three integers >= 1 (channels, frames, joints)"
        )
    for option, value in (("dim", dim), ("reduction", reduction)):
        if not isinstance(value, int) or value < 1:
            raise CSREError(f"{option} must be an integer >= 1, not {value!r}")
    if feature_shape[0] < reduction:
        raise CSREError(
            f"reduction is {reduction} but the map has only {feature_shape[0]} channels, so none would be left: "
            "give a reduction up to the number of channels"
        )
