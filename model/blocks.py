"""Building blocks that several encoders share.

Letters: N clips, M persons, n = N * M skeletons, C channels, T frames, V joints, K classes; b images of H rows; s a
stride in time.

Between their layers encoders keep feature maps as (n, C, V, T). With time last, the matrices that mix joints multiply
whole rows of frames where these lie: the product of all subsets, skeletons and channels is one batched matrix product,
and the feature map is never rearranged for it.

Layers that look at each joint by itself take images (b, C, H, T) of any height. These are either the maps of the
skeletons, b = n and H = V, or one image of all, b = 1 and H = n * V (`one_image`), whose channels lie outermost in
memory. In the latter 1x1 convolutions are plain matrix products, which on a CPU with bfloat16 takes about half the time
of the convolutions; in float32 the convolutions are faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.published import PublishedModule, Source, joined, same, within


def init_convolution(layer: nn.Conv1d | nn.Conv2d, fused: int = 1) -> None:
    """Kaiming normal weights (fan out, gain √2), zero bias.

    Of `fused` layers of equal width computed as one, each counts its own outputs only.
    """
    taps = math.prod(layer.kernel_size)
    nn.init.normal_(layer.weight, 0, math.sqrt(2 * fused / (layer.out_channels * taps)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def one_image(maps: Tensor) -> Tensor:
    """(n, C, V, T) -> (1, C, n * V, T), a copy: the joints of all skeletons are the rows of one image."""
    return maps.transpose(0, 1).flatten(1, 2).unsqueeze(0)


def skeleton_maps(images: Tensor, num_skeletons: int) -> Tensor:
    """(b, C, H, T) -> (n, C, V, T), without a copy, for one image of all skeletons as well as for their own maps."""
    return images.unflatten(2, (num_skeletons // images.shape[0], -1)).transpose(1, 2).flatten(0, 1)


def pointwise(x: Tensor, convolution: nn.Conv1d | nn.Conv2d) -> Tensor:
    """A 1x1 convolution of images (b, C_in, H[, T]) -> (b, C_out, H[, T']); of one image as a plain matrix product."""
    if not _is_one_image(x):
        return convolution(x)
    assert convolution.bias is not None
    # Not x[0]: its gradient would be copied into a zero tensor.
    kept = x.squeeze(0)[..., :: convolution.stride[-1]]
    product = torch.addmm(convolution.bias[:, None], convolution.weight.flatten(1), kept.flatten(1))
    return product.view(1, -1, *kept.shape[1:])


def grouped_pointwise(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """As `pointwise`, with weight (C_out, C_in / groups, 1, 1) and bias (C_out); each group is a matrix product."""
    if not _is_one_image(x):
        return functional.conv2d(x, weight, bias, groups=groups)
    parts = weight.flatten(1).unflatten(0, (groups, -1))
    product = torch.baddbmm(bias.view(groups, -1, 1), parts, x.view(groups, weight.shape[1], -1))
    return product.view(1, -1, *x.shape[2:])


def _is_one_image(x: Tensor) -> bool:
    # An exported program must not depend on the number of clips; and len() would make it a constant.
    return not torch.compiler.is_exporting() and x.shape[0] == 1


def precise_softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis in float32 at least, which on the CPU is four times as fast as in bfloat16, too."""
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def shared_graph_convolution(x: Tensor, topology: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Σ_k Σ_v topology[k, v, w] u_k[v], of u = convolution(x); (n, C_in, V, T) -> (n, C_out, V, T).

    topology: (k, V, V), the same for all skeletons; the joint that receives is the second. convolution: 1x1 with bias,
    C_in -> k * C_out; its output channel k * C_out + c is channel c of u_k.

    The joints are mixed before the convolution, on the fewer channels, and in all subsets at once; then the bias, mixed
    likewise, is added.
    """
    subsets, joints, _ = topology.shape
    skeletons, in_channels, _, frames = x.shape
    mixed = torch.matmul(topology.mT.flatten(0, 1), x).view(skeletons, in_channels * subsets, joints, frames)
    weight = convolution.weight.view(subsets, -1, in_channels).permute(1, 2, 0).flatten(1)
    assert convolution.bias is not None
    bias = convolution.bias.view(subsets, -1).mT @ topology.sum(dim=1)  # (C_out, V)
    output = functional.conv2d(mixed, weight[..., None, None])
    return output + bias.unsqueeze(-1).to(output.dtype)


class PersonNorm(nn.Module):
    """Batch normalisation of raw clips: every coordinate of every joint of every person has statistics of its own.

    (N, C, T, V, M) -> (n, C, V, T); row n of the result is clip * M + person. Feature index m * V * C + v * C + c.
    With `num_persons` 1 the persons of a clip, however many, share the statistics, absent ones among them.
    """

    def __init__(self, channels: int, num_joints: int, num_persons: int) -> None:
        super().__init__()
        self.num_persons = num_persons
        self.norm = nn.BatchNorm1d(num_persons * num_joints * channels)

    def forward(self, x: Tensor) -> Tensor:
        num_clips, channels, frames, joints, persons = x.shape
        x = self.norm(x.permute(0, 4, 3, 1, 2).reshape(-1, self.norm.num_features, frames))
        return x.view(num_clips * persons, joints, channels, frames).transpose(1, 2).contiguous()


class TemporalConvolution(PublishedModule):
    """Convolution along time, then batch normalisation; (b, C_in, H, T) -> (b, C_out, H, ceil(T / s)).

    With a kernel of 1 it is the projection of residual paths.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, (1, kernel_size), stride=(1, stride), padding=(0, kernel_size // 2)
        )
        self.bn = nn.BatchNorm2d(out_channels)
        init_convolution(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.kernel_size == (1, 1):
            return self.bn(pointwise(x, self.conv))
        return self.bn(self.conv(x))

    def published_names(self) -> dict[str, Source]:
        """Names where it stands for itself and not in a published sequence: they are ours."""
        return same(self.conv, "conv", "conv") | same(self.bn, "bn", "bn")


def residual_path(in_channels: int, out_channels: int, stride: int = 1) -> nn.Identity | TemporalConvolution:
    """The identity where the shape stays, else a 1x1 projection with batch normalisation."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return TemporalConvolution(in_channels, out_channels, kernel_size=1, stride=stride)


def published_down(down: nn.Module) -> dict[str, Source]:
    """Table of the `down` of a graph convolution, a residual path that is published as a sequence."""
    if not isinstance(down, TemporalConvolution):
        return {}
    return same(down.conv, "down.conv", "down.0") | same(down.bn, "down.bn", "down.1")


class ResidualBlock(PublishedModule):
    """ReLU( tcn( gcn(x) ) + residual(x) ); (n, C_in, V, T) -> (n, C_out, V, ceil(T / stride)), or images likewise.

    gcn mixes the joints, tcn the frames; without residual the block is their sequence. An encoder may put layers that
    drop something in training in the places of `main_drop` and `skip_drop`, on the two paths right before their sum.
    """

    def __init__(self, gcn: PublishedModule, tcn: PublishedModule, residual: nn.Module | None) -> None:
        super().__init__()
        self.gcn = gcn
        self.tcn = tcn
        self.residual = residual
        self.main_drop: nn.Module = nn.Identity()
        self.skip_drop: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.main_drop(self.tcn(self.gcn(x)))
        if self.residual is not None:
            y = y + self.skip_drop(self.residual(x))
        return functional.relu(y, inplace=True)

    def published_names(self) -> dict[str, Source]:
        table = within("gcn", "gcn1", self.gcn.published_names()) | within("tcn", "tcn1", self.tcn.published_names())
        if self.residual is not None:
            table |= same(self.residual, "residual", "residual")
        return table


class TemporalMaxPool(nn.Module):
    """Maximum over three neighbouring frames, the first of equal ones; (b, C, H, T) -> (b, C, H, ceil(T / s)).

    All frames of an absent person are equal, but for rounding that depends on the machine, and so would the frame that
    receives the gradient. Double precision, which serves comparisons, therefore treats nearly equal frames as equal.
    """

    NEARLY = 1e-10

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float64:
            # On the CPU the kernel for channels that lie innermost is the only vectorised one.
            x = x.contiguous(memory_format=torch.channels_last)
            return functional.max_pool2d(x, (1, 3), stride=(1, self.stride), padding=(0, 1)).contiguous()
        frames = x.shape[-1]
        padded = functional.pad(x, (1, 1), value=-math.inf)
        largest, middle, last = (padded[..., first : first + frames : self.stride] for first in range(3))
        for later in (middle, last):
            largest = torch.where(later > largest + self.NEARLY, later, largest)
        return largest


class TemporalBranches(PublishedModule):
    """Parallel temporal branches, concatenated; (b, C, H, T) -> (b, C, H, ceil(T / s)).

    Branches, in order: for every dilation 1x1 -> BN -> ReLU -> convolution; then 1x1 -> BN -> ReLU -> max-pool of 3
    frames; then 1x1. The stride acts in the convolutions, in the pooling and in the last branch's 1x1. All have the
    same width but the first, which has what is left over.

    The 1x1 entries are computed as one convolution, which changes nothing: each channel has its own statistics. Of the
    last branch's entry the strided frames are kept. `padding_mode` is that of the convolutions over several frames, see
    torch.nn.Conv2d.
    """

    last_entry: ClassVar[str]
    """The published name of the last branch's entry within its branch."""

    def __init__(
        self,
        channels: int,
        stride: int,
        kernel_size: int,
        dilations: Sequence[int],
        padding_mode: Literal["zeros", "replicate"] = "zeros",
    ) -> None:
        super().__init__()
        self.num_branches = len(dilations) + 2
        self.width = channels // self.num_branches
        first = channels - self.width * (self.num_branches - 1)
        self.widths = (first, *[self.width] * (self.num_branches - 1))
        self.stride = stride
        self.entry = nn.Conv2d(channels, channels, 1)
        self.entry_bn = nn.BatchNorm2d(channels - self.width)
        self.convs = nn.ModuleList(
            nn.Conv2d(
                width,
                width,
                (1, kernel_size),
                stride=(1, stride),
                padding=(0, dilation * (kernel_size // 2)),
                dilation=(1, dilation),
                padding_mode=padding_mode,
            )
            for width, dilation in zip(self.widths, dilations, strict=False)
        )
        self.pool = TemporalMaxPool(stride)

    def branches(self, x: Tensor) -> Tensor:
        """All branches side by side."""
        entered = pointwise(x, self.entry)
        active, plain = entered.split([self.entry_bn.num_features, self.width], dim=1)
        # Batch normalisation of a slice would fall back to a slow kernel.
        active = functional.relu(self.entry_bn(active.contiguous()), inplace=True)
        *to_convs, to_pool = active.split(self.widths[:-1], dim=1)
        outputs = [conv(part) for conv, part in zip(self.convs, to_convs, strict=True)]
        return torch.cat([*outputs, self.pool(to_pool), plain[..., :: self.stride]], dim=1)

    def published_names(self) -> dict[str, Source]:
        *active, last = [f"branches.{branch}" for branch in range(self.num_branches)]
        entries = [*[f"{branch}.0" for branch in active], f"{last}{self.last_entry}"]
        table = joined(self.entry, "entry", entries, widths=self.widths)
        table |= joined(self.entry_bn, "entry_bn", [f"{branch}.1" for branch in active], widths=self.widths[:-1])
        for number, conv in enumerate(self.convs):
            table |= same(conv, f"convs.{number}", f"{active[number]}.3.conv")
        return table


class MultiScaleTemporal(TemporalBranches):
    """Temporal branches of equal width, each with a closing normalisation; (b, C, H, T) -> (b, C, H, ceil(T / s)).

    The closing normalisations are computed as one layer. (The temporal module of CTR-GCN, ICCV 2021, which has no
    residual of its own.)
    """

    last_entry = ".0"

    def __init__(self, channels: int, stride: int = 1, padding_mode: Literal["zeros", "replicate"] = "zeros") -> None:
        super().__init__(channels, stride, kernel_size=5, dilations=(1, 2), padding_mode=padding_mode)
        self.bn = nn.BatchNorm2d(channels)
        init_convolution(self.entry, fused=self.num_branches)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            init_convolution(conv)
        for norm in (self.entry_bn, self.bn):
            nn.init.normal_(norm.weight, 1, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.branches(x))

    def published_names(self) -> dict[str, Source]:
        """Names of this module's state in all published encoders that use it, relative to both modules."""
        pooled, plain = self.num_branches - 2, self.num_branches - 1
        closing = [f"branches.{branch}.3.bn" for branch in range(pooled)]
        closing += [f"branches.{pooled}.4", f"branches.{plain}.1"]
        return super().published_names() | joined(self.bn, "bn", closing)


class PooledClassifier(nn.Module):
    """Mean over frames and joints, then over persons, dropout, linear layer; (N, M, C, T, V) -> (N, K).

    An absent (zero) person counts like any other in the mean, as in the published encoders.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, num_classes)
        nn.init.normal_(self.linear.weight, 0, math.sqrt(2 / num_classes))

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(features.mean(dim=(1, 3, 4))))
