"""The dynamic topological encoding of BlockGCN: the shape of a skeleton's joint distances in 64 numbers.

    joints (N, 3, T, V, M) -> mean over frames and persons -> distances between joints, scaled -> (N, V, V)
    its V rows as points -> distances between the rows -> bars of their 0-dimensional persistence (N, V - 1)
    bars -> structure elements (N, S) -> one row per skeleton (n, S)

Letters: N clips, M persons, n = N * M skeletons, T frames, V joints, D coordinates of a point, S structure elements.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model.encoder import check_choice
from model.published import Source, same

Choice = Literal["own", "matched", "published"]
CHOICES: dict[Choice, tuple[bool, bool]] = {"own": (False, False), "matched": (False, True), "published": (True, True)}
"""What a skeleton's row describes (see DynamicTopology) -> whether rows are tiled, whether the batch has one scale."""


def point_distances(points: Tensor) -> Tensor:
    """Euclidean distances (N, V, V) between the points (N, V, D) of a cloud; exactly zero on the diagonal."""
    return torch.linalg.vector_norm(points.unsqueeze(2) - points.unsqueeze(1), dim=-1)


def persistence_deaths(distances: Tensor) -> Tensor:
    """Where the bars of the 0-dimensional persistence of symmetric distances (N, V, V) end: (N, V - 1), in no order.

    All bars of the Vietoris-Rips filtration begin at zero; they end at the edge lengths of a minimum spanning tree. The
    bar that never ends is dropped, a bar of length zero (two equal points) is not.

    Two points fall together at the smallest value that the longest step of a path between them can have. When groups
    of points do, all but one of their first points die: so a point dies where it meets the nearest point before it.
    """
    num_points = distances.shape[-1]
    for via in range(num_points):
        detour = torch.maximum(distances[:, :, via, None], distances[:, None, via])
        distances = torch.minimum(distances, detour)
    not_before = torch.ones(num_points, num_points, dtype=torch.bool, device=distances.device).triu()
    return distances.masked_fill(not_before, math.inf).amin(dim=-1)[:, 1:]


class StructureElements(nn.Module):
    """How near the bars of a clip lie to learned places in the (birth, death) plane; deaths (N, bars) -> (N, S).

    Element k with centre c and sharpness s sums exp(-(s_0 (c_0 - birth))² - (s_1 (c_1 - death))²) over the bars. Births
    are zero, so the first factor is the same for all of them.
    """

    def __init__(self, num_elements: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.rand(num_elements, 2))
        self.sharpness = nn.Parameter(torch.full((num_elements, 2), 3.0))

    def forward(self, deaths: Tensor) -> Tensor:
        (birth_centre, death_centre), (birth_sharpness, death_sharpness) = self.centres.T, self.sharpness.T
        from_birth = (birth_sharpness * birth_centre).square()
        from_deaths = (death_sharpness * (death_centre - deaths.unsqueeze(-1))).square()
        return torch.exp(-from_birth - from_deaths).sum(dim=1)


class DynamicTopology(nn.Module):
    """A row of numbers about the topology of every skeleton; joints (N, 3, T, V, M) -> (n, S), row clip * M + person.

    All persons of a clip share what its joints say. Absent persons' zeros count in the mean, as published. No gradient
    reaches the joints.

    Args:
        num_elements: S.
        choice: what the rows describe.
            own: each its own clip, whose distances are divided by its largest one. Nothing depends on other clips.
            matched: each its own clip; distances are divided by the largest one of the whole batch.
            published: as matched, but the rows of the batch are tiled (a_0 ... a_N-1, a_0 ... a_N-1), so that with
                several persons most skeletons get the row of another clip. Published weights were trained so.
            None: own, until weights are loaded that were trained otherwise: the published ones, or our own which
                remember it.

    Raises EncoderError for an unknown choice.
    """

    trained_as: Tensor

    def __init__(self, num_elements: int = 64, choice: Choice | None = None) -> None:
        super().__init__()
        if choice is not None:
            check_choice("topology", choice, tuple(CHOICES))
        self.elements = StructureElements(num_elements)
        # A tensor: so it travels with the weights, and as `forward` does not branch on it, nothing waits for its value.
        self.register_buffer("trained_as", torch.tensor(CHOICES[choice or "own"]))
        if choice is not None:
            self.register_load_state_dict_post_hook(partial(_keep_choice, choice))

    def forward(self, joints: Tensor) -> Tensor:
        tiled, whole_batch = self.trained_as.unbind()
        persons = joints.shape[-1]
        with torch.no_grad():
            distances = point_distances(joints.mean(dim=(2, 4)).transpose(1, 2))
            largest = torch.where(whole_batch, distances.amax(dim=(0, 1, 2)), distances.amax(dim=(1, 2), keepdim=True))
            scaled = distances / largest.clamp_min(torch.finfo(largest.dtype).tiny)
            deaths = persistence_deaths(point_distances(scaled))
        clips = self.elements(deaths)
        return torch.where(tiled, clips.repeat(persons, 1), clips.unsqueeze(1).expand(-1, persons, -1).flatten(0, 1))

    def published_names(self) -> dict[str, Source]:
        """Names of this module's state in the published encoder, relative to both modules."""
        return same(self.elements, "elements", "pl") | {"trained_as": Source((), _as_published)}


def _keep_choice(choice: Choice, topology: DynamicTopology, _: Any) -> None:
    topology.trained_as.copy_(torch.tensor(CHOICES[choice]))


def _as_published(_: list[Tensor]) -> Tensor:
    return torch.tensor(CHOICES["published"])
