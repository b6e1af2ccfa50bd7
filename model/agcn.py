"""2S-AGCN: Two-Stream Adaptive Graph Convolutional Network (Shi et al., CVPR 2019); one of its two streams.

    block   C_in -> C_out   stride   embedding channels   residual of the block   down of the graph convolution
    l1          3 ->  64      1             16            none                    1x1 convolution + BN
    l2-l4      64 ->  64      1             16            identity                identity
    l5         64 -> 128      2             32            1x1 convolution + BN    1x1 convolution + BN
    l6-l7     128 -> 128      1             32            identity                identity
    l8        128 -> 256      2             64            1x1 convolution + BN    1x1 convolution + BN
    l9-l10    256 -> 256      1             64            identity                identity

    clips (N, 3, T, V, M) -> PersonNorm -> l1 ... l10 -> features (N, M, 256, T / 4, V) -> PooledClassifier -> (N, K)
    block(x) = ReLU( TemporalConvolution( AdaptiveGraphConvolution(x) ) + residual(x) ), over 9 frames

Letters: N clips, M persons, n = N * M skeletons, C channels, E embedding channels, T frames, V joints, K classes; k one
of the three subsets (self, inward, outward) of the graph; v the source joint, w the target joint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.blocks import TemporalConvolution, init_convolution, published_down, residual_path
from model.encoder import Observed
from model.published import PublishedModule, Source, joined, same, side_by_side
from model.ten_blocks import TenBlockEncoder

SUBSETS = 3
KERNEL_FRAMES = 9


class AGCN(TenBlockEncoder):
    """The encoder of the table above, with base_channels a multiple of 4; options as of TenBlockEncoder.

    The second stream of the paper's name is an encoder of its own, trained on bones.
    """

    divisor = 4
    relation_subsets = SUBSETS

    @staticmethod
    def graph_convolution(in_channels: int, out_channels: int, adjacency: Tensor) -> AdaptiveGraphConvolution:
        return AdaptiveGraphConvolution(in_channels, out_channels, adjacency)

    @staticmethod
    def temporal_module(channels: int, stride: int) -> TemporalConvolution:
        return TemporalConvolution(channels, channels, KERNEL_FRAMES, stride)

    def extract_observed(self, x: Tensor, joints: Tensor, reads: frozenset[str]) -> Observed:
        # Most of the time goes to convolutions over 9 frames, which are fastest with the channels innermost in memory.
        return self.run(self.data_bn(x).contiguous(memory_format=torch.channels_last), reads)


class AdaptiveGraphConvolution(PublishedModule):
    """The three subsets at once; (n, C_in, V, T) -> (n, C_out, V, T).

        a_k, b_k   = two 1x1 convolutions of x                                            (n, E, V, T)
        S_k[v, w]  = softmax over v of Σ_e Σ_t a_k[v] b_k[w] / (E T)                       (n, V, V)
        G_k        = A_k + PA_k + S_k       the graph, what training adds to it, and each skeleton's own links
        output     = ReLU( BN( Σ_k 1x1 convolution_k of Σ_v G_k[v, w] x[v] ) + down(x) )

    The convolutions a and b are one layer. The mixed maps of all subsets lie side by side as channels, so that the sum
    over the subsets is one convolution, too.
    """

    adjacency: Tensor

    def __init__(self, in_channels: int, out_channels: int, adjacency: Tensor) -> None:
        super().__init__()
        self.embedding_channels = out_channels // 4
        self.embeddings = nn.Conv2d(in_channels, 2 * SUBSETS * self.embedding_channels, 1)
        self.weight = nn.Parameter(torch.empty(out_channels, SUBSETS * in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(SUBSETS, out_channels))
        self.learned = nn.Parameter(torch.full_like(adjacency, 1e-6))
        self.bn = nn.BatchNorm2d(out_channels)
        self.down = residual_path(in_channels, out_channels)
        self.register_buffer("adjacency", adjacency, persistent=False)
        self._init_weights()

    def _init_weights(self) -> None:
        init_convolution(self.embeddings, fused=2 * SUBSETS)
        nn.init.normal_(self.weight, 0, math.sqrt(2 / self.weight.numel()))
        # The graph starts switched off: at first a block passes `down(x)` on.
        nn.init.constant_(self.bn.weight, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        num_skeletons, channels, joints, frames = x.shape
        mixing = self._topology(x).mT.reshape(num_skeletons, -1, joints)  # rows k * V + w, columns v
        mixed = torch.bmm(mixing, x.permute(0, 2, 3, 1).reshape(num_skeletons, joints, -1))
        mixed = mixed.view(num_skeletons, SUBSETS, joints, frames, channels).permute(0, 2, 3, 1, 4).flatten(3)
        mixed = functional.conv2d(mixed.permute(0, 3, 1, 2), self.weight, self.bias.sum(dim=0))
        return functional.relu(self.bn(mixed) + self.down(x), inplace=True)

    def _topology(self, x: Tensor) -> Tensor:
        """G of all subsets: (n, k, v, w)."""
        return self._similarity(x).softmax(dim=2) + (self.adjacency + self.learned)

    def relations(self, x: Tensor) -> Tensor:
        """Σ_e Σ_t a_k[v] b_k[w], without the division by their number: (n, k, v, w), float32 at least."""
        similarity = self._similarity(x)
        precise = torch.promote_types(similarity.dtype, torch.float32)
        return similarity.to(precise) * (self.embedding_channels * x.shape[-1])

    def _similarity(self, x: Tensor) -> Tensor:
        """Σ_e Σ_t a_k[v] b_k[w] / (E T): (n, k, v, w)."""
        embeddings = self.embeddings(x).permute(0, 2, 3, 1).unflatten(-1, (2, SUBSETS, self.embedding_channels))
        sources, targets = embeddings.permute(3, 0, 4, 1, 2, 5).flatten(-2)  # each (n, k, V, T * E)
        # Divided before the sum over thousands of products, which half precision could not hold.
        scale = 1 / (self.embedding_channels * x.shape[-1])
        return torch.matmul(sources * scale, targets.mT)

    def published_names(self) -> dict[str, Source]:
        subsets = range(SUBSETS)
        table = joined(self.embeddings, "embeddings", [f"conv_{part}.{k}" for part in "ab" for k in subsets])
        table |= {
            "weight": Source(tuple(f"conv_d.{k}.weight" for k in subsets), side_by_side),
            "bias": Source(tuple(f"conv_d.{k}.bias" for k in subsets), torch.stack),
            "learned": Source(("PA",)),
        }
        return table | same(self.bn, "bn", "bn") | published_down(self.down)
