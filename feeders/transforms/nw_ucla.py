"""The NW-UCLA family: turn the view, scale each coordinate to [-1, 1], pick frames.

As in the published feeders: training turns the clip by whole degrees up to 60 about x and y and picks random frames;
testing picks evenly spaced ones. The published random scale in [0.5, 1.5] is omitted: scaling each coordinate by its
own range cancels it. Computed in the dtype of the clips, float64 for the published precision.

Shapes: N clips of a batch, L frames of a clip, F frames of the batch's longest clip, T window, V joints, one person.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feeders.store.packed import ClipRows
from feeders.transforms.bones import BoneScaling
from feeders.transforms.frames import gather_frames, to_network_layout, turn
from graph import Skeleton

MAX_DEGREES = 60
COPIES = 100
"""Random frames are drawn without replacement from this many copies of a clip's frames."""


class NWUCLATransform:
    """View rotation, scaling to [-1, 1] and frame picking. Draws per clip: two angles, one per frame picked, then those
    of `scaling` (of bones, None for none)."""

    def __init__(self, skeleton: Skeleton, num_persons: int, window: int, scaling: BoneScaling | None = None) -> None:
        # An absent second person would enter minimum and maximum as zeros.
        assert num_persons == 1
        self.origin_joint = skeleton.centre
        self.window = window
        self.scaling = scaling
        self.num_draws = 2 + window + (scaling.num_draws if scaling is not None else 0)

    def train(
        self, rows: ClipRows, clips: Tensor, draws: Tensor, copied: Tensor | None = None, longest: int | None = None
    ) -> Tensor:
        """Random view, frames and lengths of bones; see `ClipTransform.train`."""
        frames = rows.frames[clips.to(rows.device)]
        degrees = (draws[:, :2] * (2 * MAX_DEGREES + 1)).floor() - MAX_DEGREES
        picked = random_frames(frames, draws[:, 2 : 2 + self.window])
        factors = self.scaling.factors(draws[:, 2 + self.window :]) if self.scaling is not None else None
        return self.pick_and_normalise(rows, clips, picked, view_rotations(degrees), factors, longest)

    def test(self, rows: ClipRows, clips: Tensor, copied: Tensor | None = None, longest: int | None = None) -> Tensor:
        """Recorded view, evenly spaced frames; see `ClipTransform.test`."""
        picked = even_frames(rows.frames[clips.to(rows.device)], self.window)
        return self.pick_and_normalise(rows, clips, picked, longest=longest)

    def pick_and_normalise(
        self,
        rows: ClipRows,
        clips: Tensor,
        picked: Tensor,
        rotations: Tensor | None = None,
        factors: Tensor | None = None,
        longest: int | None = None,
    ) -> Tensor:
        """Joints (N, 3, T, V, 1) of the picked frames, scaled by the range that the whole turned clip covers.

        clips, longest: see `ClipTransform.train`. picked: (N, T) int64. rotations: (N, 3, 3) for row vectors, None for
        no turn. factors: (N, V - 1) of the bones, None to leave their lengths. A coordinate that does not vary over the
        clip becomes 0.
        """
        longest = rows.longest(clips.cpu()) if longest is None else longest
        clips = clips.to(rows.device)
        # Behind its end a clip repeats its last frame, which leaves its minimum and maximum as they are.
        every = torch.arange(longest, device=rows.device).minimum(rows.frames[clips].unsqueeze(1) - 1)
        points = gather_frames(rows, clips, every, num_persons=1).view(len(clips), longest, -1, 3)
        points = points - points[:, :1, self.origin_joint : self.origin_joint + 1]
        if rotations is not None:
            points = turn(points.flatten(1, 2), rotations.to(points.dtype)).view_as(points)
        if self.scaling is not None and factors is not None:
            points = self.scaling.scale(points, factors)
        # Over frames first: that runs along memory and is several times faster than both axes at once.
        low, high = points.amin(1).amin(1).view(-1, 1, 1, 3), points.amax(1).amax(1).view(-1, 1, 1, 3)
        clip = torch.arange(len(clips), device=rows.device).unsqueeze(1)
        extent = high - low
        scaled = (2 * (points[clip, picked] - low) - extent) / extent.masked_fill(extent == 0, 1)
        return to_network_layout(scaled.flatten(2).unsqueeze(2), rows.coordinates.shape[1])


def view_rotations(degrees: Tensor) -> Tensor:
    """Angles (α about x, β about y) in degrees, (N, 2), to matrices Ry Rx, (N, 3, 3), applied to row vectors: v R."""
    (ca, cb), (sa, sb) = degrees.deg2rad().cos().unbind(1), degrees.deg2rad().sin().unbind(1)
    zero = torch.zeros_like(ca)
    entries = [[cb, sa * sb, -ca * sb], [zero, ca, sa], [sb, -sa * cb, ca * cb]]
    return torch.stack([torch.stack(row, dim=1) for row in entries], dim=1)


def even_frames(frames: Tensor, window: int) -> Tensor:
    """trunc(linspace(0, L - 1, window)) for each clip: frames (N,) int64 -> (N, window) int64."""
    last = (frames - 1).double()
    # A full divisor, because dividing by a single number may become a multiplication by its reciprocal: a position
    # that should be whole could fall just below.
    step = last / torch.full_like(last, max(window - 1, 1))
    positions = torch.arange(window, device=frames.device) * step.unsqueeze(1)
    if window > 1:
        positions[:, -1] = last
    return positions.long()


def random_frames(frames: Tensor, draws: Tensor) -> Tensor:
    """Frames drawn without replacement from 100 copies of 0 .. L - 1, in ascending order.

    frames: (N,) int64, L of each clip. draws: (N, T) float64 in [0, 1). Returns (N, T) int64. Floyd's algorithm, for
    all clips and steps at once: in step k a position of the first P - T + k + 1 is drawn of the P there are, and
    replaced by the last of those if it was taken before. Every set of T positions is equally likely. A window above 100
    draws from as many copies as it has frames, so that one frame suffices.

    A position was taken before if an earlier step drew it too, or if it is the last one of an earlier step that was
    itself replaced by it. The latter links steps to chains, which are followed by doubling.
    """
    window = draws.shape[1]
    step = torch.arange(window, device=frames.device)
    before = (frames * max(COPIES, window) - window).unsqueeze(1)
    last = before + step
    position = (draws * (last + 1)).long()

    ordered = position.sort(dim=1, stable=True)
    repeated = torch.zeros_like(position, dtype=torch.bool)
    repeated[:, 1:] = ordered.values[:, 1:] == ordered.values[:, :-1]
    replaced = torch.zeros_like(repeated).scatter_(1, ordered.indices, repeated)
    linked = position - before  # the step whose last it is; negative: of none
    link = torch.where(linked >= 0, linked, step)
    for _ in range((window - 1).bit_length()):
        replaced = replaced | replaced.gather(1, link)
        link = link.gather(1, link)
    return (torch.where(replaced, last, position) % frames.unsqueeze(1)).sort(1).values
