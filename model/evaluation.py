"""An encoder as a test computes it: the same logits from less work.

Most clips of two-person data sets show one person. What an encoder makes of the other one, all zeros, is the same in
every clip, so it is computed once. The encoder that is trained and saved is not touched: what is changed is a copy.

Letters: N clips, M persons, n persons that are there, C channels, T frames, V joints, K classes.
"""

from __future__ import annotations

import copy
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from model.blocks import PersonNorm
from model.encoder import Encoder

_PLACES: ContextVar[Tensor] = ContextVar("places")
"""(n,) int64: which person of its clip each row is. A variable of the thread: predictors are shared by threads."""


class Evaluation:
    """Logits of an encoder in evaluation mode as it is now; later changes of its weights are not followed."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = copy.deepcopy(encoder).eval()
        self._one_person = _for_one_person(self.encoder) if encoder.persons_apart and encoder.num_persons > 1 else None
        self._absent: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, x: Tensor, joints: Tensor) -> Tensor:
        """Logits (N, K); arguments as of `features`."""
        return self.encoder.classify(self.features(x, joints))

    @torch.inference_mode()
    def features(self, x: Tensor, joints: Tensor) -> Tensor:
        """The encoder's last map, as `Encoder.features` gives it, for x and joints (N, 3, T, V, M)."""
        if self._one_person is None:
            return self.encoder.features(x, joints)
        if self._absent is None:
            everyone = torch.arange(x.shape[-1], device=x.device)
            self._absent = self._maps(torch.zeros_like(x[:1]), torch.zeros_like(everyone), everyone)
        maps = self._absent.expand(len(x), -1, -1, -1, -1).clone()
        clips, places = x.flatten(1, 3).any(dim=1).nonzero(as_tuple=True)
        if len(clips):
            maps[clips, places] = self._maps(x, clips, places)
        return self.encoder.join_persons(maps)

    def _maps(self, x: Tensor, clips: Tensor, places: Tensor) -> Tensor:
        """The maps (n, C', T', V') of some persons of clips x (N, 3, T, V, M), each computed for itself."""
        assert self._one_person is not None
        token = _PLACES.set(places)
        try:
            return self._one_person.features(x.movedim(-1, 1)[clips, places].unsqueeze(-1)).squeeze(1)
        finally:
            _PLACES.reset(token)


class _NormOfPlaces(nn.Module):
    """A `PersonNorm` of M persons in evaluation, for rows (n, C, T, V, 1) of one person each; -> (n, C, V, T)."""

    def __init__(self, norm: nn.BatchNorm1d, persons: int) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        self.register_buffer("affine", torch.stack([shift, scale]).detach().unflatten(1, (persons, -1)))

    affine: Tensor

    def forward(self, x: Tensor) -> Tensor:
        _, channels, _, joints, _ = x.shape
        affine = self.affine[:, _PLACES.get()].unflatten(2, (joints, channels)).transpose(2, 3).unsqueeze(-1)
        return torch.addcmul(affine[0], x.squeeze(-1).transpose(2, 3), affine[1]).contiguous()


def _for_one_person(encoder: Encoder) -> Encoder:
    """A copy for clips of one person, any of the M that the encoder was built for."""
    alone = copy.deepcopy(encoder)
    alone.num_persons = 1
    for parent in list(alone.modules()):
        for name, child in parent.named_children():
            if isinstance(child, PersonNorm) and child.num_persons > 1:
                setattr(parent, name, _NormOfPlaces(child.norm, child.num_persons))
    return alone
