"""InfoGCN: Representation Learning for Human Skeleton-based Action Recognition (Chi et al., CVPR 2022).

    block   C_in -> C_out   stride   channels d of a head   residual of the block, skip of the graph convolution
    l1-l3      64 ->  64      1              8               identity
    l4         64 -> 128      2              8               1x1 convolution + BN
    l5-l6     128 -> 128      1             16               identity
    l7        128 -> 256      2             16               1x1 convolution + BN
    l8-l9     256 -> 256      1             32               identity

    clips (N, 3, T, V, M) -> joint operator I - A^k -> JointEmbedding (n, 64, V, T) -> l1 ... l9
          -> features (N, M, 256, T / 4, V) -> LatentClassifier -> (N, K)
    block(x) = ReLU( ReLU( MultiScaleTemporal( GatedGraphConvolution(x) ) ) + residual(x) )

Letters: N clips, M persons, n = N * M skeletons, C channels, H = 3 heads, d = C_in / 8 channels of a head, T frames,
V joints, K classes, D latent dimensions; i the target joint, j the source joint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import Skeleton, SkeletonError, joint_operator
from graph.joint_operator import BoneDirection
from model.block_encoder import BlockEncoder
from model.blocks import MultiScaleTemporal, precise_softmax, published_down, residual_path
from model.encoder import COORDINATES, Observed, check_multiple, check_not_negative, check_probability
from model.errors import EncoderError
from model.joint_embedding import JointEmbedding
from model.latent import LatentClassifier, conditional_latent_loss, marginal_latent_loss, orthogonal_prior
from model.published import PublishedModule, Source, joined, published_blocks, same, side_by_side, within

HEADS = 3
BLOCKS = ((1, 1),) * 3 + ((2, 2), (2, 1), (2, 1)) + ((4, 2), (4, 1), (4, 1))
"""(output channels as a multiple of base_channels, stride) of l1 to l9."""


class InfoGCN(BlockEncoder):
    """The encoder of the table above. In training it adds losses of its own and smooths the labels.

    Args:
        skeleton, num_classes, num_persons, window: see model.build_encoder.
        in_channels: see Encoder.
        order: k of the joint operator: 1 makes bones of the joints; orders above the skeleton's depth (from 8 on for
            NTU, from 7 on for NW-UCLA) pass the stream on as it is.
        direction: `published` or `to_ancestor`, see graph.joint_operator; they differ on NW-UCLA alone.
        base_channels: channels of l1 to l3, a multiple of 8; l4-l6 have twice, l7-l9 four times as many.
        sampling: whether the latent vector is drawn in training, as published, or always its mean.
        noise_ratio: factor on the log variance; 0.5 makes the noise's deviation the usual one.
        conditional_weight: of the conditional latent loss (λ2); 0 switches it off.
        marginal_weight: of the marginal latent loss (λ1); 0 switches it off.
        prior_gain: length of the classes' priors.
        label_smoothing: of the cross entropy that it is trained with.
        dropout: probability before the latent mean and variance.
    """

    classifier = "head.decoder"
    relation_subsets = HEADS
    operator: Tensor
    prior: Tensor

    def __init__(
        self,
        *,
        skeleton: Skeleton,
        num_classes: int,
        num_persons: int = 2,
        window: int = 64,
        in_channels: int = COORDINATES,
        order: int = 1,
        direction: BoneDirection = "published",
        base_channels: int = 64,
        sampling: bool = True,
        noise_ratio: float = 0.5,
        conditional_weight: float = 0.1,
        marginal_weight: float = 1e-4,
        prior_gain: float = 3.0,
        label_smoothing: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            skeleton=skeleton,
            num_classes=num_classes,
            num_persons=num_persons,
            window=window,
            in_channels=in_channels,
        )
        check_multiple("base_channels", base_channels, 8)
        weights = {"conditional_weight": conditional_weight, "marginal_weight": marginal_weight}
        for name, value in {**weights, "noise_ratio": noise_ratio, "prior_gain": prior_gain}.items():
            check_not_negative(name, value)
        if not isinstance(sampling, bool):
            raise EncoderError(f"sampling: must be true or false, got {sampling!r}")
        check_probability("label_smoothing", label_smoothing)
        check_probability("dropout", dropout)
        self.label_smoothing = label_smoothing
        self.conditional_weight = conditional_weight
        self.marginal_weight = marginal_weight
        try:
            operator = torch.from_numpy(joint_operator(skeleton, order, direction))
        except SkeletonError as error:
            raise EncoderError(str(error)) from None
        self.register_buffer("operator", operator, persistent=False)
        self.embedding = JointEmbedding(in_channels, base_channels, skeleton.num_joints, num_persons)
        channels = base_channels
        for width, stride in BLOCKS:
            block = Block(channels, width * base_channels, skeleton.num_joints, stride)
            self.add_block(block, width * base_channels, stride)
            channels = width * base_channels
        self.head = LatentClassifier(channels, num_classes, noise_ratio=noise_ratio, sampling=sampling, dropout=dropout)
        self.register_buffer("prior", orthogonal_prior(num_classes, channels, prior_gain), persistent=False)

    def extract_observed(self, x: Tensor, joints: Tensor, reads: frozenset[str]) -> Observed:
        clips = torch.einsum("uv,nctvm->nmuct", self.operator, x).permute(0, 3, 4, 2, 1)
        return self.run(self.embedding(clips), reads)

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)

    def own_losses(self, labels: Tensor) -> dict[str, Tensor]:
        if self.head.drawn is None:
            raise EncoderError("InfoGCN: own_losses belongs after a forward pass in training mode; call .train() first")
        z = self.head.drawn.to(self.prior.dtype)
        losses = {}
        with torch.autocast(z.device.type, enabled=False):
            if self.conditional_weight > 0:
                loss = conditional_latent_loss(z, labels, self.prior)
                losses["conditional_latent"] = self.conditional_weight * loss
            if self.marginal_weight > 0:
                losses["marginal_latent"] = self.marginal_weight * marginal_latent_loss(z)
        return losses

    def published_names(self) -> dict[str, Source]:
        table = {f"embedding.{ours}": source for ours, source in self.embedding.published_names().items()}
        table |= published_blocks(self.blocks)
        layers = {"hidden": "fc", "mean": "fc_mu", "log_variance": "fc_logvar", "decoder": "decoder"}
        for ours, published in layers.items():
            table |= same(self.head.get_submodule(ours), f"head.{ours}", published)
        return table


class Block(PublishedModule):
    """Graph convolution, temporal convolutions, residual; (n, C_in, V, T) -> (n, C_out, V, ceil(T / stride))."""

    def __init__(self, in_channels: int, out_channels: int, num_joints: int, stride: int) -> None:
        super().__init__()
        self.gcn = GatedGraphConvolution(in_channels, out_channels, num_joints)
        self.tcn = MultiScaleTemporal(out_channels, stride)
        self.residual = residual_path(in_channels, out_channels, stride)
        # InfoGCN starts its temporal branches, and no other convolutions, from the framework's initial values.
        for layer in self.tcn.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.tcn(self.gcn(x)), inplace=True)
        return functional.relu(y + self.residual(x), inplace=True)

    def published_names(self) -> dict[str, Source]:
        table = within("gcn", "agcn", self.gcn.published_names()) | within("tcn", "tcn", self.tcn.published_names())
        return table | same(self.residual, "residual", "residual")


class GatedGraphConvolution(PublishedModule):
    """Graph convolution whose learned topology is gated by self-attention; (n, C_in, V, T) -> (n, C_out, V, T).

        q, k   = linear maps of LayerNorm(x)                                 for every head and frame
        G      = W ⊙ softmax_j( q_i · k_j / √d )                             W the learned topology (H, V, V)
        output = ReLU( BN( Σ_heads F_h( Σ_j G[i, j] x_j ) ) + down(x) ),     F_h a 1x1 convolution

    The heads' convolutions are one linear map of the heads side by side.
    """

    def __init__(self, in_channels: int, out_channels: int, num_joints: int) -> None:
        super().__init__()
        self.head_channels = in_channels // 8
        self.norm = nn.LayerNorm(in_channels)
        self.to_qk = nn.Linear(in_channels, 2 * HEADS * self.head_channels)
        self.topology = nn.Parameter(torch.eye(num_joints).repeat(HEADS, 1, 1))
        self.transform = nn.Linear(HEADS * in_channels, out_channels, bias=False)
        self.transform_bias = nn.Parameter(torch.zeros(HEADS, out_channels))
        self.bn = nn.BatchNorm2d(out_channels)
        self.down = residual_path(in_channels, out_channels)
        nn.init.normal_(self.to_qk.weight, 0, 1)
        nn.init.normal_(self.transform.weight, 0, math.sqrt(2 / (out_channels * in_channels * HEADS)))
        # The graph starts switched off: at first a block passes `down(x)` on.
        nn.init.constant_(self.bn.weight, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 3, 2, 1).contiguous()  # (n, T, V, C_in)
        mixed = torch.bmm(self._gate(rows), rows.flatten(0, 1))  # (n * T, V * H, C_in)
        mixed = self.transform(mixed.view(*rows.shape[:3], -1)) + self.transform_bias.sum(dim=0)
        return functional.relu(self.bn(mixed.permute(0, 3, 2, 1).contiguous()) + self.down(x), inplace=True)

    def _gate(self, rows: Tensor) -> Tensor:
        """G of (n, T, V, C_in), as (n * T, V * H, V): row i * H + head, column j."""
        joints = rows.shape[2]
        gate = precise_softmax(self._similarity(rows)).view(-1, HEADS, joints, joints) * self.topology
        return gate.transpose(1, 2).reshape(-1, joints * HEADS, joints)

    def relations(self, x: Tensor) -> Tensor:
        """Mean of q_i · k_j / √d over the frames: (n, H, i, j)."""
        similarity = self._similarity(x.permute(0, 3, 2, 1).contiguous())
        return similarity.unflatten(0, (len(x), -1, HEADS)).mean(dim=1)

    def _similarity(self, rows: Tensor) -> Tensor:
        """q_i · k_j / √d of (n, T, V, C_in): (n * T * H, V, V)."""
        pairs = self.to_qk(self.norm(rows)).view(-1, rows.shape[2], 2, HEADS, self.head_channels)
        query, key = (part.transpose(1, 2).flatten(0, 1) for part in pairs.unbind(2))  # (n * T * H, V, d)
        return torch.bmm(query * self.head_channels**-0.5, key.mT)

    def published_names(self) -> dict[str, Source]:
        heads = [f"conv_d.{head}" for head in range(HEADS)]
        table = same(self.norm, "norm", "attn.ln") | same(self.to_qk, "to_qk", "attn.to_qk")
        kernel = (self.transform.out_features, self.transform.in_features // HEADS, 1, 1)
        table |= joined(self.transform, "transform", heads, side_by_side, weight_shape=kernel)
        table |= {"topology": Source(("shared_topology",))}
        table |= {"transform_bias": Source(tuple(f"{head}.bias" for head in heads), torch.stack)}
        return table | same(self.bn, "bn", "bn") | published_down(self.down)
