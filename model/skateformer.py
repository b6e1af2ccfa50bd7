"""SkateFormer: Skeletal-Temporal Transformer (ECCV 2024, arXiv 2403.09508).

    blocks    C     frames
    l1, l2     96   T
    l3, l4    192   T / 2
    l5, l6    192   T / 4
    l7, l8    192   T / 8

    clips (N, 3, T, V, M) -> SkateEmbedding (N, W, T, 96) -> l1 ... l8 -> features (N, M, 192, T / 8, V')
          -> mean over persons, joints and frames -> linear layer -> (N, K)
    Before l3, l5 and l7: reduction, a convolution over 7 frames with stride 2, then BN.

The persons stand side by side on one axis of W = M * V' cells and see each other. The V' cells of a person are the
joints of equal body parts (graph.equal_parts), part after part. Below, "joints" are these cells.

Letters: N clips, C channels, T frames, V joints, M persons, K classes; H = 4 heads of a kind of attention, of d
channels; S cells of a window of 8 frames and b joints; u and g number the windows along time and joints, i and j the
frames and joints within. Maps are (N, W, T, C).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton, SkeletonError, equal_parts
from model.blocks import TemporalConvolution, precise_softmax
from model.dropout import Dropout, DropPath
from model.encoder import COORDINATES, Encoder, Observed, check_multiple, check_positive, check_probability
from model.errors import EncoderError
from model.published import PublishedModule, Source, joined, same, within

HEADS = 4
"""Of each kind of attention."""
GROUPS = 8
"""Of the channels that are mixed along joints, and of those along time."""
WINDOW_FRAMES = 8
KERNEL_FRAMES = 7
BLOCKS = ((1, 1), (1, 1), (2, 2), (2, 1), (2, 2), (2, 1), (2, 2), (2, 1))
"""(output channels as a multiple of base_channels, stride) of l1 to l8."""
STAGES = {"low": "l2", "mid": "l4", "high": "l6", "fin": "l8"}
KINDS = ((False, False), (False, True), (True, False), (True, True))
"""Of attention, types 1 to 4 of the paper: whether the frames of a window, and its joints, are strided."""


def initial(*shape: int) -> Tensor:
    """What tables and matrices begin as: normal, standard deviation 0.02."""
    return nn.init.trunc_normal_(torch.empty(shape), std=0.02)


class SkateFormer(Encoder):
    """The encoder of the table above.

    `features`, `forward` and `classify` are as of all encoders; the first two also take `frame_index`, (N, T) float:
    where in its recording each frame of a clip sits, from -1 (the first frame) to 1 (behind the last). Without it the
    clip counts as the whole recording: 2 t / T - 1.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder. The window is a multiple of 64: three
            reductions halve it, and then attention looks at 8 frames.
        in_channels: see Encoder.
        base_channels: channels of l1 and l2, a multiple of 32; the others have twice as many.
        mlp_ratio: hidden channels of a block's MLP, as a multiple of its channels.
        drop_path: probability with which l8 drops a clip's attention, and its MLP, in training; it grows evenly from 0
            at l1.
        attention_dropout: probability with which attention between two cells is dropped in training.
        label_smoothing: of the cross entropy that it is trained with.

    Raises EncoderError for a skeleton whose parts are not of equal size, too.
    """

    frame_multiple = 64

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        in_channels: int = COORDINATES,
        base_channels: int = 96,
        mlp_ratio: int = 4,
        drop_path: float = 0.2,
        attention_dropout: float = 0.5,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            num_classes=num_classes,
            num_persons=num_persons,
            window=window,
            in_channels=in_channels,
        )
        check_multiple("base_channels", base_channels, 32)
        check_positive("mlp_ratio", mlp_ratio)
        check_probability("drop_path", drop_path)
        check_probability("attention_dropout", attention_dropout)
        check_probability("label_smoothing", label_smoothing)
        try:
            parts = equal_parts(skeleton)
        except SkeletonError as error:
            raise EncoderError(f"SkateFormer: {error}") from None
        self.label_smoothing = label_smoothing
        size = len(parts[0])
        self.num_cells = len(parts) * size
        # Windows hold neighbouring joints, two parts where that works out, or one joint of each person's every part.
        widths = 2 * size if len(parts) % 2 == 0 else size, num_persons * len(parts)
        num_cells = num_persons * self.num_cells
        self.embedding = SkateEmbedding(in_channels, base_channels, parts, num_persons)
        self.reductions, self.blocks = nn.ModuleDict(), nn.ModuleDict()
        self._shapes: dict[str, tuple[int, int, int]] = {}
        channels, frames = base_channels, window
        for index, (width, stride) in enumerate(BLOCKS):
            name, in_width = f"l{index + 1}", channels
            channels, frames = width * base_channels, frames // stride
            if stride > 1:
                reduction = TemporalConvolution(in_width, channels, KERNEL_FRAMES, stride)
                reduction.conv.reset_parameters()
                self.reductions[name] = reduction
            rate = drop_path * index / (len(BLOCKS) - 1)
            self.blocks[name] = Block(channels, num_cells, widths, mlp_ratio, rate, attention_dropout)
            self._shapes[name] = (channels, frames, self.num_cells)
        self.fc = nn.Linear(channels, num_classes)

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        return self._shapes["l8"]

    @property
    def stage_shapes(self) -> Mapping[str, tuple[int, int, int]]:
        return {stage: self._shapes[block] for stage, block in STAGES.items()}

    @property
    def relation_shape(self) -> tuple[int, int, int]:
        return len(KINDS) * HEADS, self.num_cells, self.num_cells

    def extract(self, x: Tensor, joints: Tensor) -> Tensor:
        return self._run(x, None, frozenset()).features

    def extract_observed(self, x: Tensor, joints: Tensor, reads: frozenset[str]) -> Observed:
        return self._run(x, None, reads)

    def features(self, x: Tensor, joints: Tensor | None = None, frame_index: Tensor | None = None) -> Tensor:
        x, _ = self._checked(x, joints)
        if frame_index is not None and frame_index.shape != (x.shape[0], self.window):
            raise EncoderError(
                f"SkateFormer: frame_index has shape {tuple(frame_index.shape)}, expected (N, T) = "
                f"({x.shape[0]}, {self.window}): one number from -1 to 1 for every frame"
            )
        return self._run(x, frame_index, frozenset()).features

    def forward(self, x: Tensor, joints: Tensor | None = None, frame_index: Tensor | None = None) -> Tensor:
        return self.classify(self.features(x, joints, frame_index))

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features.mean(dim=(1, 3, 4)))

    def _run(self, x: Tensor, frame_index: Tensor | None, reads: frozenset[str]) -> Observed:
        maps, relations = self.embedding(x, frame_index), None
        outputs: dict[str, Tensor] = {}
        for name, block in self.blocks.items():
            if name in self.reductions:
                maps = self.reductions[name](maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            if name == "l8" and "relations" in reads:
                assert isinstance(block, Block)
                relations = self._within_persons(block.relations(maps))
            maps = outputs[name] = block(maps)
        shown = {stage: self._by_person(outputs[name]) for stage, name in STAGES.items()}
        return Observed(shown["fin"], shown if "stages" in reads else {}, relations)

    def _by_person(self, maps: Tensor) -> Tensor:
        """(N, W, T, C) -> (N, M, C, T, V')."""
        return maps.unflatten(1, (self.num_persons, -1)).permute(0, 1, 4, 3, 2)

    def _within_persons(self, relations: Tensor) -> Tensor:
        """(N, S, W, W) -> (N, S, V', V'), the mean over the persons of how their own joints relate."""
        persons = (self.num_persons, self.num_cells)
        return relations.unflatten(3, persons).unflatten(2, persons).diagonal(dim1=2, dim2=4).mean(dim=-1)

    def published_names(self) -> dict[str, Source]:
        table = {f"embedding.{ours}": source for ours, source in self.embedding.published_names().items()}
        for index, (name, block) in enumerate(self.blocks.items()):
            assert isinstance(block, Block)
            published = f"stages.{index // 2}.blocks.{index % 2}"
            table |= within(f"blocks.{name}", f"{published}.transformer", block.published_names())
            if name in self.reductions:
                reduction = self.reductions[name]
                assert isinstance(reduction, TemporalConvolution)
                table |= same(reduction.conv, f"reductions.{name}.conv", f"{published}.downsample.reduction")
                table |= same(reduction.bn, f"reductions.{name}.bn", f"{published}.downsample.bn")
        return table | same(self.fc, "fc", "head")


class SkateEmbedding(nn.Module):
    """Three linear maps of a joint's coordinates, plus a vector for its place in the clip; (N, C_in, T, V, M) ->
    (N, W, T, C).

    The vector is the product of one that the cell has learned and the sinusoid of the frame's index.
    """

    order: Tensor

    def __init__(self, in_channels: int, channels: int, parts: tuple[tuple[int, ...], ...], num_persons: int) -> None:
        super().__init__()
        order = torch.tensor(parts).flatten()
        self.register_buffer("order", order, persistent=False)
        widths = (in_channels, 2 * COORDINATES, 3 * COORDINATES, channels)
        self.stem = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.cells = nn.Parameter(initial(channels, num_persons * len(order)))

    def forward(self, x: Tensor, frame_index: Tensor | None) -> Tensor:
        """frame_index: see SkateFormer."""
        maps = x.index_select(3, self.order).permute(0, 4, 3, 2, 1).flatten(1, 2)
        for number, linear in enumerate(self.stem):
            maps = linear(functional.gelu(maps) if number else maps)
        if frame_index is None:
            frame_index = torch.arange(x.shape[2], device=x.device, dtype=torch.float64)[None] * 2 / x.shape[2] - 1
        waves = sinusoid(frame_index, len(self.cells)).to(self.cells.dtype)
        return maps + waves.unsqueeze(1) * self.cells.T.unsqueeze(1)

    def published_names(self) -> dict[str, Source]:
        table = {"cells": Source(("joint_person_embedding",))}
        for number, linear in enumerate(self.stem):
            assert isinstance(linear, nn.Linear)
            shape = (*linear.weight.shape, 1, 1)
            table |= joined(linear, f"stem.{number}", [f"stem.{2 * number}"], weight_shape=shape)
        return table


def sinusoid(positions: Tensor, channels: int) -> Tensor:
    """Sine and cosine in turn, of frequencies 1 ... 10000^(2 / channels - 1): (N, T) -> (N, T, channels), float64.

    In double precision, as rounded frequencies cost more of the logits than all other rounding.
    """
    exponents = torch.arange(channels // 2, device=positions.device, dtype=torch.float64) * 2 / channels
    angles = positions.double().unsqueeze(-1) * 10000**-exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class Block(PublishedModule):
    """Mixing of cells, then an MLP, each added to its input; (N, W, T, C) -> (N, W, T, C).

        x' = x + drop_path( project( mixed ) ),  x'' = x' + drop_path( MLP( LN(x') ) )

    mixed is, side by side, of mapping( LN(x) ), 2 C channels: a learned matrix over all cells of a frame, in 8 groups
    of channels (C / 4 -> C / 4); a convolution over time, in 8 groups (C / 4 -> C / 4); the four kinds of attention
    (3 C / 8 -> C / 8 each).
    """

    def __init__(
        self,
        channels: int,
        num_cells: int,
        widths: tuple[int, int],
        mlp_ratio: int,
        drop_path: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        quarter = channels // 4
        self.splits = [quarter] * 2 + [channels * 3 // 8] * len(KINDS)
        self.mixing_norm = nn.LayerNorm(channels)
        self.mapping = nn.Linear(channels, 2 * channels)
        self.joint_mixing = nn.Parameter(initial(GROUPS, num_cells, num_cells))
        self.temporal = nn.Conv2d(quarter, quarter, (1, KERNEL_FRAMES), padding=(0, KERNEL_FRAMES // 2), groups=GROUPS)
        self.attention = nn.ModuleList(
            WindowAttention(widths[joints], frames, joints, attention_dropout) for frames, joints in KINDS
        )
        self.project = nn.Linear(channels, channels)
        self.mixing_drop = DropPath(drop_path)
        self.mlp_norm = nn.LayerNorm(channels)
        hidden = mlp_ratio * channels
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.mlp_drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        to_joints, to_frames, *to_attention = self._mapped(x)
        over_joints = torch.einsum("gvu,nutgc->nvtgc", self.joint_mixing, to_joints.unflatten(-1, (GROUPS, -1)))
        over_frames = self.temporal(to_frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        attended = [attention(part) for attention, part in zip(self.attention, to_attention, strict=True)]
        mixed = torch.cat([over_joints.flatten(-2), over_frames, *attended], dim=-1)
        x = x + self.mixing_drop(self.project(mixed))
        return x + self.mlp_drop(self.mlp(self.mlp_norm(x)))

    def relations(self, x: Tensor) -> Tensor:
        """How the cells attend to each other, by all kinds and heads: (N, 16, W, W); see WindowAttention."""
        relations = []
        for attention, part in zip(self.attention, self._mapped(x)[2:], strict=True):
            assert isinstance(attention, WindowAttention)
            relations.append(attention.relations(part))
        return torch.cat(relations, dim=1)

    def _mapped(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.mapping(self.mixing_norm(x)).split(self.splits, dim=-1)

    def published_names(self) -> dict[str, Source]:
        table = {"joint_mixing": Source(("gconv",))}
        names = {"mixing_norm": "norm_1", "mlp_norm": "norm_2", "mapping": "mapping", "temporal": "tconv"}
        for ours, published in (names | {"project": "proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}).items():
            table |= same(self.get_submodule(ours), ours, published)
        for number, attention in enumerate(self.attention):
            assert isinstance(attention, WindowAttention)
            table |= within(f"attention.{number}", f"attention.{number}", attention.published_names())
        return table


class WindowAttention(PublishedModule):
    """Attention within windows of 8 frames and b joints; queries, keys and values (N, W, T, 3 C) -> (N, W, T, C).

        y_s = Σ_s' dropout( softmax_s'( q_s · k_s' / √H + bias[s, s'] ) ) v_s'              for each of H = 4 heads

    The scale is that of the number of heads, not of their channels. Frames of a window are neighbours, or T / 8 apart;
    joints likewise, or W / b apart. Cells of a window count s = i b + j. The bias of strided joints is learned for
    every difference i - i' and pair j, j'. That of neighbouring joints is learned for the 15 differences of s mod 8, as
    published, where the frames i must have been meant. So with b = 8 it is one of joints.

    Args:
        width: b.
        strided_frames, strided_joints: whether these are apart.
        dropout: its probability.
    """

    index: Tensor

    def __init__(self, width: int, strided_frames: bool, strided_joints: bool, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.strided_frames = strided_frames
        self.strided_joints = strided_joints
        cells = torch.arange(WINDOW_FRAMES * width)
        differences = 2 * WINDOW_FRAMES - 1
        if strided_joints:
            self.published_shape: tuple[int, ...] = (differences, width, width, HEADS)
            frames, joints = cells // width, cells % width
            index = (_differences(frames) * width + joints[:, None]) * width + joints
        else:
            self.published_shape = (differences, HEADS)
            index = _differences(cells % WINDOW_FRAMES)
        self.bias = nn.Parameter(initial(*self.published_shape).flatten(0, -2))
        self.register_buffer("index", index, persistent=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self._windows(x)
        attended = self.dropout(self._attention(query, key)) @ value
        by_cell = attended.unflatten(4, (WINDOW_FRAMES, self.width))  # (N, g, u, H, i, j, d)
        joints = (5, 1) if self.strided_joints else (1, 5)
        frames = (4, 2) if self.strided_frames else (2, 4)
        return by_cell.permute(0, *joints, *frames, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)

    def relations(self, x: Tensor) -> Tensor:
        """Attention to the joints, the sum over their frames, of the mean frame: (N, H, W, W), zero between windows."""
        query, key, _ = self._windows(x)
        cells = (WINDOW_FRAMES, self.width)
        attention = self._attention(query, key).unflatten(5, cells).unflatten(4, cells)  # (N, g, u, H, i, j, i', j')
        attention = attention.sum(dim=6).mean(dim=(2, 4)).transpose(1, 2)  # (N, H, g, j, j')
        joints = torch.arange(x.shape[1], device=x.device)
        joints = joints.view(self.width, -1).T if self.strided_joints else joints.view(-1, self.width)
        relations = attention.new_zeros(*attention.shape[:2], x.shape[1], x.shape[1])
        relations[:, :, joints[:, :, None], joints[:, None, :]] = attention
        return relations

    def _windows(self, x: Tensor) -> Tensor:
        """Queries, keys and values: (3, N, g, u, H, S, d)."""
        # Axes 1 and 2 are the joints', 3 and 4 the frames', of windows and within them.
        joints = (self.width, -1) if self.strided_joints else (-1, self.width)
        frames = (WINDOW_FRAMES, -1) if self.strided_frames else (-1, WINDOW_FRAMES)
        cells = x.unflatten(3, (3, HEADS, -1)).unflatten(2, frames).unflatten(1, joints)
        g, j = (2, 1) if self.strided_joints else (1, 2)
        u, i = (4, 3) if self.strided_frames else (3, 4)
        return cells.permute(5, 0, g, u, 6, i, j, 7).flatten(5, 6)

    def _attention(self, query: Tensor, key: Tensor) -> Tensor:
        """(N, g, u, H, S, S)."""
        bias = self.bias[self.index].permute(2, 0, 1)
        return precise_softmax((query * HEADS**-0.5) @ key.mT + bias)

    def published_names(self) -> dict[str, Source]:
        frames = torch.arange(WINDOW_FRAMES)
        return {
            "bias": Source(("relative_position_bias_table",), join=_as_rows, shapes=(self.published_shape,)),
            "frame_differences": Source(("relative_position_index",), constant=_differences(frames)),
        }


def _differences(positions: Tensor) -> Tensor:
    """positions[s] - positions[s'] of positions 0 ... 7, counted from 0: (S, S)."""
    return positions[:, None] - positions + WINDOW_FRAMES - 1


def _as_rows(tables: list[Tensor]) -> Tensor:
    return tables[0].flatten(0, -2)
