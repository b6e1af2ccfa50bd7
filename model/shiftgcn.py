"""Shift-GCN: Skeleton-Based Action Recognition with Shift Graph Convolutional Network (Cheng et al., CVPR 2020).

    block   C_in -> C_out   stride   residual of the block   down of the graph convolution
    l1          3 ->  64      1      none                    1x1 convolution + BN
    l2-l4      64 ->  64      1      identity                identity
    l5         64 -> 128      2      1x1 convolution + BN    1x1 convolution + BN
    l6-l7     128 -> 128      1      identity                identity
    l8        128 -> 256      2      1x1 convolution + BN    1x1 convolution + BN
    l9-l10    256 -> 256      1      identity                identity

    clips (N, 3, T, V, M) -> PersonNorm -> l1 ... l10 -> features (N, M, 256, T / 4, V) -> PooledClassifier -> (N, K)
    block(x) = ReLU( ShiftTemporal( ShiftGraphConvolution(x) ) + residual(x) )

Nothing but 1x1 convolutions has weights that mix channels. Joints and frames meet because every channel is moved along
them first: by a fixed number of joints (the non-local shift, which needs no graph) and by a learned number of frames.

Letters: n skeletons, C channels, V joints, T frames; s a stride in time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.blocks import init_convolution, published_down, residual_path
from model.published import PublishedModule, Source, same, within
from model.ten_blocks import TenBlockEncoder

SHIFT_STEP = 0.01
"""Size of the gradient that the optimiser sees of every temporal shift."""
STILL_STEP = 1e-4
"""That gradient where the loss does not depend on the shift at all."""


class ShiftGCN(TenBlockEncoder):
    """The encoder of the table above; options as of TenBlockEncoder.

    The gradient of a shift has no fixed scale, so that training takes its sign alone (`edit_gradients`).
    """

    divisor = 1

    @staticmethod
    def graph_convolution(in_channels: int, out_channels: int, adjacency: Tensor) -> ShiftGraphConvolution:
        return ShiftGraphConvolution(in_channels, out_channels, num_joints=adjacency.shape[-1])

    @staticmethod
    def temporal_module(channels: int, stride: int) -> ShiftTemporal:
        return ShiftTemporal(channels, stride)

    def weight_decay_factors(self) -> Mapping[str, float]:
        """As published: ten times `optim.weight_decay` for the maps between joints, none for their masks."""
        factors: dict[str, float] = {}
        for name in self.blocks:
            factors |= {f"blocks.{name}.gcn.linear.weight": 10.0, f"blocks.{name}.gcn.mask": 0.0}
        return factors

    def edit_gradients(self) -> None:
        """Replace the gradient of every temporal shift by 0.01 times its sign, and a gradient of zero by 0.0001."""
        for module in self.modules():
            if isinstance(module, FrameShift) and module.frames.grad is not None:
                grad = module.frames.grad
                grad.copy_(torch.where(grad == 0, STILL_STEP, SHIFT_STEP * grad.sign()))


class ShiftGraphConvolution(PublishedModule):
    """Shift, mask, one linear map for all joints, shift back; (n, C_in, V, T) -> (n, C_out, V, T).

        moved[c, v]  = x[c, (v + c) mod V] (1 + tanh(mask[c, v]))
        mapped[d, v] = 1x1 convolution of moved
        output[d, v] = ReLU( BN( mapped[d, (v - d) mod V] ) + down(x) )

    Every pair of a channel and a joint has statistics of its own in BN.
    """

    shift_in: Tensor
    shift_out: Tensor

    def __init__(self, in_channels: int, out_channels: int, num_joints: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(in_channels, num_joints, 1))
        self.linear = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = nn.BatchNorm1d(out_channels * num_joints)
        self.down = residual_path(in_channels, out_channels)
        self.register_buffer("shift_in", _source_joints(in_channels, num_joints, 1), persistent=False)
        self.register_buffer("shift_out", _source_joints(out_channels, num_joints, -1), persistent=False)
        nn.init.normal_(self.linear.weight, 0, math.sqrt(1 / out_channels))
        assert self.linear.bias is not None
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        moved = _pick(x, self._places(self.shift_in, x)) * (1 + self.mask.tanh())
        mapped = self.linear(moved)
        returned = _pick(mapped, self._places(self.shift_out, x))
        normalised = self.bn(returned.flatten(1, 2)).view_as(returned)
        return functional.relu(normalised + self.down(x), inplace=True)

    @staticmethod
    def _places(sources: Tensor, x: Tensor) -> Tensor:
        """Where in (C, V, T) of a skeleton the values come from: (C, V, T) from the source joints (C, V)."""
        frames = x.shape[-1]
        channels, joints = sources.shape
        rows = torch.arange(channels, device=x.device)[:, None] * joints + sources
        return rows[..., None] * frames + torch.arange(frames, device=x.device)

    def published_names(self) -> dict[str, Source]:
        in_channels, out_channels = self.linear.in_channels, self.linear.out_channels
        joints = self.mask.shape[1]
        table = {
            "mask": Source(("Feature_Mask",), _channels_first, ((1, joints, in_channels),)),
            "linear.weight": Source(("Linear_weight",), _transposed, ((in_channels, out_channels),)),
            "linear.bias": Source(("Linear_bias",), shapes=((1, 1, out_channels),)),
            "shift_in": Source(("shift_in",), constant=_published_places(self.shift_in)),
            "shift_out": Source(("shift_out",), constant=_published_places(self.shift_out)),
        }
        # The published features of this normalisation are joint by joint, ours channel by channel.
        table |= {
            name: Source(
                source.names, lambda parts: parts[0].view(joints, -1).T.flatten() if parts[0].ndim else parts[0]
            )
            for name, source in same(self.bn, "bn", "bn").items()
        }
        return table | published_down(self.down)


def _source_joints(channels: int, joints: int, sign: int) -> Tensor:
    """(v + sign * c) mod V for every channel c and joint v: (C, V), int64."""
    return (torch.arange(joints) + sign * torch.arange(channels)[:, None]) % joints


def _published_places(sources: Tensor) -> Tensor:
    """The table of source joints (C, V) as published: places among the pairs v * C + c."""
    channels = len(sources)
    return (sources.T * channels + torch.arange(channels)).flatten()


def _channels_first(parts: list[Tensor]) -> Tensor:
    return parts[0].transpose(1, 2)


def _transposed(parts: list[Tensor]) -> Tensor:
    return parts[0].T


def _pick(x: Tensor, places: Tensor) -> Tensor:
    """Values of every skeleton (n, C, V, T) by their places in it: (n, *places.shape).

    One copy, whose gradient is one sum by place: on a CPU several times as fast as gathering along an axis.
    """
    return x.flatten(1).index_select(1, places.flatten()).unflatten(1, places.shape)


class FrameShift(PublishedModule):
    """Moves every channel by a learned number of frames y; (n, C, V, T) -> (n, C, V, ceil(T / s)).

        output[c, v, t] = (1 - λ) x[c, v, s t + k] + λ x[c, v, s t + k + 1],    k + λ = y[c] + (s - 1) / 2, 0 <= λ < 1

    x is zero outside its frames. A positive y looks ahead. The gradient of y is that of this formula, k being constant;
    `ShiftGCN.edit_gradients` says what the optimiser makes of it.
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.frames = nn.Parameter(torch.empty(channels).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        channels, joints, frames = x.shape[1:]
        moved = self.frames + (self.stride - 1) / 2
        whole = moved.detach().floor()
        part = (moved - whole)[:, None]
        # Both taps of all outputs: a window of frames that starts at k.
        length = self.stride * (math.ceil(frames / self.stride) - 1) + 2
        window = whole.long()[:, None] + torch.arange(length, device=x.device)
        inside = (window >= 0) & (window < frames)
        rows = torch.arange(channels * joints, device=x.device).view(channels, joints, 1) * frames
        picked = _pick(x, rows + window.clamp(0, frames - 1)[:, None])
        first = (1 - part) * inside[:, : -1 : self.stride]
        second = part * inside[:, 1 :: self.stride]
        return picked[..., : -1 : self.stride] * first[:, None] + picked[..., 1 :: self.stride] * second[:, None]

    def published_names(self) -> dict[str, Source]:
        # The published operator also moves along the joints, by a number that is kept at zero.
        return {"frames": Source(("ypos",)), "joints": Source(("xpos",), constant=torch.zeros_like(self.frames))}


class ShiftTemporal(PublishedModule):
    """Shift, 1x1 convolution, shift; (n, C, V, T) -> (n, C, V, ceil(T / s)).

    output = BN( FrameShift( ReLU( 1x1 convolution of FrameShift( BN(x) ) ), stride s ) )
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.entry_bn = nn.BatchNorm2d(channels)
        self.shift_in = FrameShift(channels)
        self.linear = nn.Conv2d(channels, channels, 1)
        self.shift_out = FrameShift(channels, stride)
        self.bn = nn.BatchNorm2d(channels)
        bias = self.linear.bias
        assert bias is not None
        kept = bias.detach().clone()
        init_convolution(self.linear)
        with torch.no_grad():
            bias.copy_(kept)

    def forward(self, x: Tensor) -> Tensor:
        mapped = functional.relu(self.linear(self.shift_in(self.entry_bn(x))), inplace=True)
        return self.bn(self.shift_out(mapped))

    def published_names(self) -> dict[str, Source]:
        table = same(self.entry_bn, "entry_bn", "bn") | same(self.bn, "bn", "bn2")
        table |= same(self.linear, "linear", "temporal_linear")
        for name, shift in (("shift_in", self.shift_in), ("shift_out", self.shift_out)):
            table |= within(name, name, shift.published_names())
        return table
