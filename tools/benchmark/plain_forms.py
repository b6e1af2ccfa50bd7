"""The encoders' fused modules once more, each of their parallel layers by itself: what the fusion is measured against.

A plain form computes the same function, in the same memory order (n, C, V, T), and names its state as the published
encoders do, so that `share_weights` can give both the same weights. The graph convolutions are those of blocks that
keep their channels.

Letters: n skeletons, C channels, H groups or heads, T frames, V joints; k one of the subsets.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.agcn import SUBSETS, AdaptiveGraphConvolution
from model.blockgcn import GROUPS, NORM_OFFSET, BlockGraphConvolution
from model.blocks import MultiScaleTemporal, TemporalConvolution, TemporalMaxPool
from model.ctrgcn import RefinedGraphConvolution
from model.dcgcn import COLUMN_OFFSET, DecoupledGraphConvolution
from model.hdgcn import NEAREST_JOINTS, NEAREST_LAYERS, HierarchicalGraphConvolution
from model.hypergcn import HEADS as HYPERGRAPH_HEADS
from model.hypergcn import NEAREST, OFFSET, VIRTUAL_JOINTS, HypergraphConvolution
from model.infogcn import HEADS, GatedGraphConvolution
from model.shiftgcn import ShiftGraphConvolution
from model.stgcnpp import BranchesTransform, FreeGraphConvolution

Fused = (
    AdaptiveGraphConvolution
    | BlockGraphConvolution
    | DecoupledGraphConvolution
    | BranchesTransform
    | FreeGraphConvolution
    | GatedGraphConvolution
    | HierarchicalGraphConvolution
    | HypergraphConvolution
    | MultiScaleTemporal
    | RefinedGraphConvolution
    | ShiftGraphConvolution
)


def share_weights(fused: Fused, plain: nn.Module) -> None:
    """Fill both with the same random weights; the running statistics stay as they are."""
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_(0, 0.1)
    state, own = plain.state_dict(), fused.state_dict()
    joined = {}
    for name, source in fused.published_names().items():
        if source.constant is not None:
            continue
        if source.constant is None:
            joined[name] = source.joined([state[part] for part in source.names]).reshape(own[name].shape)
    fused.load_state_dict(joined)


class PlainAdaptive(nn.Module):
    """AdaptiveGraphConvolution of 2S-AGCN, one subset after another."""

    adjacency: Tensor

    def __init__(self, fused: AdaptiveGraphConvolution) -> None:
        super().__init__()
        channels, embedded = fused.bn.num_features, fused.embedding_channels
        self.conv_a = nn.ModuleList(nn.Conv2d(channels, embedded, 1) for _ in range(SUBSETS))
        self.conv_b = nn.ModuleList(nn.Conv2d(channels, embedded, 1) for _ in range(SUBSETS))
        self.conv_d = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(SUBSETS))
        self.PA = nn.Parameter(torch.empty_like(fused.learned))
        self.bn = nn.BatchNorm2d(channels)
        self.register_buffer("adjacency", fused.adjacency, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for k, (to_a, to_b, to_output) in enumerate(zip(self.conv_a, self.conv_b, self.conv_d, strict=True)):
            a, b = to_a(x), to_b(x)
            similarity = torch.einsum("nevt,newt->nvw", a / (a.shape[1] * a.shape[3]), b).softmax(dim=1)
            total = total + to_output(torch.einsum("nvw,ncvt->ncwt", self.adjacency[k] + self.PA[k] + similarity, x))
        return functional.relu(self.bn(total) + x)


class PlainRefined(nn.Module):
    """RefinedGraphConvolution of CTR-GCN, one subset after another."""

    def __init__(self, fused: RefinedGraphConvolution) -> None:
        super().__init__()
        channels, relation = fused.out_channels, fused.relation_channels
        self.convs = nn.ModuleList(
            nn.ModuleDict(
                {
                    "conv1": nn.Conv2d(channels, relation, 1),
                    "conv2": nn.Conv2d(channels, relation, 1),
                    "conv3": nn.Conv2d(channels, channels, 1),
                    "conv4": nn.Conv2d(relation, channels, 1),
                }
            )
            for _ in range(SUBSETS)
        )
        self.alpha = nn.Parameter(torch.empty(1))
        self.PA = nn.Parameter(torch.empty_like(fused.topology))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=3, keepdim=True)
        total = torch.zeros_like(x)
        for convs, shared in zip(self.convs, self.PA, strict=True):
            assert isinstance(convs, nn.ModuleDict)
            difference = torch.tanh(convs["conv1"](pooled) - convs["conv2"](pooled).transpose(2, 3))  # (n, r, u, v)
            topology = self.alpha * convs["conv4"](difference) + shared
            total = total + torch.einsum("ncuv,ncvt->ncut", topology, convs["conv3"](x))
        return functional.relu(self.bn(total) + x)


class PlainBlock(nn.Module):
    """BlockGraphConvolution of BlockGCN, one subset after another; the groups are computed together."""

    hops: Tensor

    def __init__(self, fused: BlockGraphConvolution) -> None:
        super().__init__()
        channels = fused.bn.num_features
        self.fc1 = nn.Parameter(torch.empty_like(fused.free))
        self.rpe = nn.Parameter(torch.empty_like(fused.by_hops))
        self.fc2 = nn.ModuleList(nn.Conv2d(channels, channels, 1, groups=GROUPS) for _ in range(SUBSETS))
        self.bn = nn.BatchNorm2d(channels)
        self.register_buffer("hops", fused.hops, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for free, by_hops, convolution in zip(self.fc1, self.rpe, self.fc2, strict=True):
            assert isinstance(convolution, nn.Conv2d)
            total = total + self.subset(x, _unit_columns(free) + _unit_columns(by_hops[:, self.hops]), convolution)
        return functional.relu(self.bn(total) + x)

    def subset(self, x: Tensor, topology: Tensor, convolution: nn.Conv2d) -> Tensor:
        """x mixed by the topology (H, V, V) of one subset, then its convolution; (n, C, V, T) -> (n, C, V, T)."""
        mixed = torch.einsum("hvw,nhcvt->nhcwt", topology, x.unflatten(1, (GROUPS, -1)))
        return convolution(mixed.flatten(1, 2))


class PlainBlockGroups(PlainBlock):
    """BlockGraphConvolution of BlockGCN, one subset after another and in it one group after another."""

    def subset(self, x: Tensor, topology: Tensor, convolution: nn.Conv2d) -> Tensor:
        assert convolution.bias is not None
        layers = zip(topology, convolution.weight.chunk(GROUPS), convolution.bias.chunk(GROUPS), strict=True)
        outputs = [
            functional.conv2d(torch.einsum("vw,ncvt->ncwt", mixing, part), weight, bias)
            for part, (mixing, weight, bias) in zip(x.chunk(GROUPS, dim=1), layers, strict=True)
        ]
        return torch.cat(outputs, dim=1)


class PlainHierarchical(nn.Module):
    """HierarchicalGraphConvolution of HD-GCN, one layer after another and in it one subset after another."""

    members: Tensor

    def __init__(self, fused: HierarchicalGraphConvolution) -> None:
        super().__init__()
        channels, layers = fused.bn.num_features, fused.num_layers
        width = channels // 4
        self.conv_down = nn.ModuleList(nn.Sequential(*_entry(channels, width)) for _ in range(layers))
        self.conv = nn.ModuleList(
            nn.ModuleList([*(_normed(width) for _ in range(SUBSETS)), PlainEdges(width, NEAREST_JOINTS)])
            for _ in range(layers)
        )
        self.PA = nn.Parameter(torch.empty_like(fused.topology))
        self.aha = nn.ModuleDict(
            {
                "conv_down": nn.Sequential(*_entry(channels, width)),
                "edge_conv": PlainEdges(width, NEAREST_LAYERS),
                "aggregate": nn.Conv1d(width, channels, 1),
            }
        )
        self.bn = nn.BatchNorm2d(channels)
        assert fused.attention is not None
        self.register_buffer("members", fused.attention.members, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for reduce, convolutions, graphs in zip(self.conv_down, self.conv, self.PA, strict=True):
            assert isinstance(convolutions, nn.ModuleList)
            reduced = reduce(x)
            mixed = [torch.einsum("vu,ncut->ncvt", graph, reduced) for graph in graphs]
            parts = [convolution(part) for convolution, part in zip(convolutions, mixed, strict=False)]
            edges = convolutions[SUBSETS](reduced.mean(dim=3))
            outputs.append(torch.cat([*parts, edges.unsqueeze(-1).expand_as(reduced)], dim=1))
        layers = torch.stack(outputs, dim=2)  # (n, C, L, V, T)
        reduced = self.aha["conv_down"](layers.amax(dim=-1))
        of_layers = (reduced * self.members).sum(dim=-1) / self.members.sum(dim=-1)
        weights = torch.sigmoid(self.aha["aggregate"](self.aha["edge_conv"](of_layers)))
        return functional.relu(self.bn((layers * weights[..., None, None]).sum(dim=2)) + x)


class PlainEdges(nn.Module):
    """EdgeConvolution of one group, every pair of neighbours by itself; (n, c, P) -> (n, c, P)."""

    def __init__(self, channels: int, nearest: int) -> None:
        super().__init__()
        self.nearest = nearest
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)
        )

    def forward(self, points: Tensor) -> Tensor:
        with torch.no_grad():
            distances = (points.unsqueeze(-1) - points.unsqueeze(-2)).square().sum(dim=1)
            nearest = distances.topk(self.nearest, largest=False).indices  # (n, P, nearest)
        pairs = points.unsqueeze(2).expand(-1, -1, points.shape[2], -1)
        others = pairs.gather(3, nearest.unsqueeze(1).expand(-1, points.shape[1], -1, -1))
        own = points.unsqueeze(3).expand_as(others)
        return self.conv(torch.cat([others - own, own], dim=1)).amax(dim=3)


class PlainHypergraph(nn.Module):
    """HypergraphConvolution of Hyper-GCN with the virtual joints in every frame, as if they were joints."""

    links: Tensor

    def __init__(self, fused: HypergraphConvolution) -> None:
        super().__init__()
        channels, heads = fused.bn.num_features, HYPERGRAPH_HEADS
        embedded = heads * (channels // 32)
        self.hyper_joint = nn.Parameter(torch.empty(VIRTUAL_JOINTS, channels))
        self.alpha = nn.Parameter(torch.empty(1))
        self.edge_importance = nn.Parameter(torch.empty_like(fused.importance))
        self.to_V = nn.Conv1d(channels, embedded, 1, groups=heads)
        self.to_W = nn.Sequential(
            nn.Conv1d(channels, embedded, 1, groups=heads), nn.LeakyReLU(0.01), nn.Conv1d(embedded, heads, 1)
        )
        self.conv_d = nn.Conv2d(channels, channels, 1, groups=heads)
        self.bn = nn.BatchNorm2d(channels)
        self.register_buffer("links", fused.links, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        virtual = self.hyper_joint.T[..., None].expand(len(x), -1, -1, x.shape[-1])
        points = torch.cat([x, virtual], dim=2)
        mean = points.mean(dim=3)
        embedded = self.to_V(mean).unflatten(1, (HYPERGRAPH_HEADS, -1)).mT
        distances = torch.cdist(embedded, embedded, compute_mode="donot_use_mm_for_euclid_dist")
        nearest, index = distances.topk(NEAREST, largest=False)
        incidence = torch.zeros_like(distances).scatter(-1, index, (-nearest).softmax(dim=-1))
        weights = torch.diag_embed(torch.tanh(self.to_W(mean)))
        degrees = torch.diag_embed(1 / (incidence.sum(dim=2) + OFFSET))
        graph = _unit_rows(incidence @ weights) @ weights @ degrees @ incidence.mT
        topology = _unit_rows(self.links * self.edge_importance) + functional.relu(self.alpha) * graph
        sources = self.conv_d(points).unflatten(1, (HYPERGRAPH_HEADS, -1))
        mixed = torch.einsum("nkuv,nkcvt->nkcut", topology, sources).flatten(1, 2)
        return functional.relu(self.bn(mixed[:, :, : x.shape[2]]) + x)


class PlainGated(nn.Module):
    """GatedGraphConvolution of InfoGCN, one head after another."""

    def __init__(self, fused: GatedGraphConvolution) -> None:
        super().__init__()
        channels, self.head_channels = fused.bn.num_features, fused.head_channels
        self.attn = nn.ModuleDict(
            {"ln": nn.LayerNorm(channels), "to_qk": nn.Linear(channels, 2 * HEADS * self.head_channels)}
        )
        self.shared_topology = nn.Parameter(torch.empty_like(fused.topology))
        self.conv_d = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(HEADS))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 3, 2, 1)  # (n, T, V, C)
        queries, keys = self.attn["to_qk"](self.attn["ln"](rows)).chunk(2, dim=-1)
        heads = zip(queries.chunk(HEADS, dim=-1), keys.chunk(HEADS, dim=-1), strict=True)
        total = torch.zeros_like(x)
        for (query, key), learned, convolution in zip(heads, self.shared_topology, self.conv_d, strict=True):
            gate = (query @ key.mT * self.head_channels**-0.5).softmax(dim=-1) * learned  # (n, T, V, V)
            total = total + convolution((gate @ rows).permute(0, 3, 2, 1))
        return functional.relu(self.bn(total) + x)


class PlainDecoupled(nn.Module):
    """DecoupledGraphConvolution of DC-GCN, one subset after another; the groups are computed together."""

    def __init__(self, fused: DecoupledGraphConvolution) -> None:
        super().__init__()
        channels = fused.bn.num_features
        self.DecoupleA = nn.Parameter(torch.empty_like(fused.topology))
        self.Linear_weight = nn.Parameter(torch.empty(channels, SUBSETS * channels))
        self.Linear_bias = nn.Parameter(torch.empty(1, SUBSETS * channels, 1, 1))
        self.bn0 = nn.BatchNorm2d(SUBSETS * channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        mapped = self.bn0(torch.einsum("ncvt,cd->ndvt", x, self.Linear_weight) + self.Linear_bias)
        total = torch.zeros_like(x)
        for topology, part in zip(self.DecoupleA, mapped.chunk(SUBSETS, dim=1), strict=True):
            columns = topology / (topology.sum(dim=1, keepdim=True) + COLUMN_OFFSET)
            mixed = torch.einsum("gvw,nigvt->nigwt", columns, part.unflatten(1, (-1, len(columns))))
            total = total + mixed.flatten(1, 2)
        return functional.relu(self.bn(total) + x)


class PlainShift(nn.Module):
    """ShiftGraphConvolution of Shift-GCN as published: on rows of joints by channels, to which its maps are turned."""

    shift_in: Tensor
    shift_out: Tensor

    def __init__(self, fused: ShiftGraphConvolution) -> None:
        super().__init__()
        channels, joints = fused.mask.shape[:2]
        self.Feature_Mask = nn.Parameter(torch.empty(1, joints, channels))
        self.Linear_weight = nn.Parameter(torch.empty(channels, channels))
        self.Linear_bias = nn.Parameter(torch.empty(1, 1, channels))
        self.bn = nn.BatchNorm1d(joints * channels)
        for name in ("shift_in", "shift_out"):
            self.register_buffer(name, fused.published_names()[name].constant, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        num_skeletons, channels, joints, frames = x.shape
        rows = x.permute(0, 3, 2, 1).reshape(-1, joints * channels)
        moved = rows.index_select(1, self.shift_in).view(-1, joints, channels) * (self.Feature_Mask.tanh() + 1)
        mapped = (moved @ self.Linear_weight + self.Linear_bias).flatten(1)
        normalised = self.bn(mapped.index_select(1, self.shift_out))
        return functional.relu(normalised.view(num_skeletons, frames, joints, channels).permute(0, 3, 2, 1) + x)


class PlainFree(nn.Module):
    """FreeGraphConvolution of ST-GCN++, one subset after another; ST-GCN's differs only in how the graph is learned."""

    def __init__(self, fused: FreeGraphConvolution) -> None:
        super().__init__()
        channels = fused.bn.num_features
        self.conv = nn.Conv2d(channels, len(fused.topology) * channels, 1)
        self.A = nn.Parameter(torch.empty_like(fused.topology))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x).chunk(len(self.A), dim=1)
        total = torch.zeros_like(x)
        for part, topology in zip(maps, self.A, strict=True):
            total = total + torch.einsum("vw,ncvt->ncwt", topology, part)
        return functional.relu(self.bn(total) + x)


class PlainTransformed(nn.Module):
    """BranchesTransform of ST-GCN++, one branch after another."""

    def __init__(self, fused: BranchesTransform) -> None:
        super().__init__()
        channels, stride = fused.bn.num_features, fused.stride
        *active, pooled, last = fused.widths
        branches: list[nn.Module] = []
        for width, convolution in zip(active, fused.convs, strict=True):
            dilated = nn.Sequential(OrderedDict(conv=copy.deepcopy(convolution)))
            branches.append(nn.Sequential(*_entry(channels, width), dilated))
        branches.append(nn.Sequential(*_entry(channels, pooled), TemporalMaxPool(stride)))
        branches.append(nn.Conv2d(channels, last, 1, stride=(1, stride)))
        self.branches = nn.ModuleList(branches)
        self.transform = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.transform(torch.cat([branch(x) for branch in self.branches], dim=1)))


class PlainMultiScale(nn.Module):
    """MultiScaleTemporal, one branch after another; the last branch convolves none of the frames that it drops."""

    def __init__(self, fused: MultiScaleTemporal) -> None:
        super().__init__()
        channels, width, stride = fused.bn.num_features, fused.width, fused.stride
        branches = []
        for convolution in fused.convs:
            assert isinstance(convolution, nn.Conv2d)
            closing = TemporalConvolution(width, width, convolution.kernel_size[1], stride)
            closing.conv.dilation, closing.conv.padding = convolution.dilation, convolution.padding
            branches.append(nn.Sequential(*_entry(channels, width), closing))
        branches.append(nn.Sequential(*_entry(channels, width), TemporalMaxPool(stride), nn.BatchNorm2d(width)))
        branches.append(nn.Sequential(nn.Conv2d(channels, width, 1, stride=(1, stride)), nn.BatchNorm2d(width)))
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _entry(channels: int, width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def _unit_rows(matrices: Tensor) -> Tensor:
    return matrices / (matrices.abs().sum(dim=-1, keepdim=True) + OFFSET)


def _normed(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))


def _unit_columns(matrices: Tensor) -> Tensor:
    return matrices / (torch.linalg.vector_norm(matrices, dim=-2, keepdim=True) + NORM_OFFSET)
