"""The latent classifier of InfoGCN (CVPR 2022) and its two losses.

Letters: N clips, M persons, C channels, T frames, V joints, K classes, D latent dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_DEVIATION = 100.0


class LatentClassifier(nn.Module):
    """Logits of a latent vector z that is drawn in training and is its mean in evaluation; (N, M, C, T, V) -> (N, K).

    h = ReLU( linear of the mean over persons, frames and joints ), dropout; mean and log variance are linear in h;
    z = mean + noise * min( exp(noise_ratio * log variance), 100 ), standard normal noise; the logits are linear in z.
    An absent (zero) person counts like any other in the mean. D = C.

    `drawn` is the z (N, D) of the latest call in training mode, None before one and after a call in evaluation mode.
    """

    def __init__(
        self, channels: int, num_classes: int, *, noise_ratio: float, sampling: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.noise_ratio = noise_ratio
        self.sampling = sampling
        self.hidden = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.mean = nn.Linear(channels, channels)
        self.log_variance = nn.Linear(channels, channels)
        self.decoder = nn.Linear(channels, num_classes)
        self.drawn: Tensor | None = None
        for layer in (self.hidden, self.mean, self.log_variance):
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2))
        nn.init.normal_(self.decoder.weight, 0, math.sqrt(2 / num_classes))

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.dropout(functional.relu(self.hidden(features.mean(dim=(1, 3, 4)))))
        z = self.mean(hidden)
        if self.training and self.sampling:
            # Bounded before the exponential: after it an infinity would be bounded too, but send NaN backwards.
            deviation = (self.noise_ratio * self.log_variance(hidden)).clamp(max=math.log(LARGEST_DEVIATION)).exp()
            z = z + torch.randn_like(z) * deviation
        self.drawn = z if self.training else None
        return self.decoder(z)

    def __getstate__(self) -> dict[str, object]:
        # Copies and pickles leave the latest z behind: it hangs on the graph of a training step, which has no copy.
        return self.__dict__ | {"drawn": None}


def orthogonal_prior(num_classes: int, dim: int, gain: float) -> Tensor:
    """(K, D) float32, one row per class: orthogonal rows of length gain (orthogonal columns where K > D).

    Always the same for the same sizes, whatever the seed of the training: the prior is in no state dict, and a resumed
    training must find it again.
    """
    return nn.init.orthogonal_(torch.empty(num_classes, dim), gain, torch.Generator().manual_seed(0))


def conditional_latent_loss(z: Tensor, labels: Tensor, prior: Tensor) -> Tensor:
    """Mean squared difference between the mean z of a class and its row of the prior, over classes and dimensions.

    Only the classes that the batch holds count. z (N, D) float, labels (N,) int64, prior (K, D) in z's dtype.
    """
    members = (labels == torch.arange(len(prior), device=labels.device)[:, None]).to(z.dtype)  # (K, N)
    counts = members.sum(dim=1)
    means = members @ z / counts.clamp(min=1)[:, None]
    per_class = (means - prior).square().mean(dim=1) * (counts > 0)
    return per_class.sum() / (counts > 0).sum()


def marginal_latent_loss(z: Tensor) -> Tensor:
    """Euclidean length of the mean z of the batch; z (N, D) float."""
    return torch.linalg.vector_norm(z.mean(dim=0))
