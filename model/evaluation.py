"""An encoder as a test computes it: the same logits from less work.

Most clips of two-person data sets show one person. What an encoder makes of the other one, all zeros, is the same in
every clip, so it is computed once. The encoder that is trained and saved is not touched: what is changed is a copy.

Letters: N clips, M persons, C channels, T frames, V joints, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.blocks import PersonNorm
from model.encoder import Encoder


@contextmanager
def _without_trials() -> Iterator[None]:
    """cuDNN's choice of convolutions by trying them is off: batches of one person differ in size, each with trials of
    its own."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Evaluation:
    """Logits of an encoder in evaluation mode as it is now; later changes of its weights are not followed."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = copy.deepcopy(encoder).eval()
        apart = range(encoder.num_persons) if encoder.persons_apart and encoder.num_persons > 1 else ()
        self._of_person = [_for_person(self.encoder, person) for person in apart]
        self._absent: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, x: Tensor, joints: Tensor) -> Tensor:
        """Logits (N, K); arguments as of `features`."""
        return self.encoder.classify(self.features(x, joints))

    @_without_trials()
    @torch.inference_mode()
    def features(self, x: Tensor, joints: Tensor) -> Tensor:
        """The encoder's last map, as `Encoder.features` gives it, for x and joints (N, 3, T, V, M)."""
        if not self._of_person:
            return self.encoder.features(x, joints)
        if self._absent is None:
            nobody = torch.zeros_like(x[:1, ..., :1])
            self._absent = torch.cat([encoder.features(nobody) for encoder in self._of_person], dim=1)
        maps = self._absent.repeat(len(x), 1, 1, 1, 1)
        for person, encoder in enumerate(self._of_person):
            clips = x[..., person].flatten(1).any(dim=1).nonzero().flatten()
            if len(clips):
                maps[clips, person] = encoder.features(x[clips][..., person : person + 1]).squeeze(1)
        return self.encoder.join_persons(maps)


def _for_person(encoder: Encoder, person: int) -> Encoder:
    """A copy for clips of one person, who stands at this place in the clips that the encoder was built for."""
    alone = copy.deepcopy(encoder)
    alone.num_persons = 1
    for module in alone.modules():
        if isinstance(module, PersonNorm) and module.num_persons > 1:
            norm = nn.BatchNorm1d(module.norm.num_features // module.num_persons, module.norm.eps)
            norm = norm.to(module.norm.weight).eval()
            norm.load_state_dict(
                {
                    name: value.chunk(module.num_persons)[person] if value.ndim else value
                    for name, value in module.norm.state_dict().items()
                }
            )
            module.norm, module.num_persons = norm, 1
    return alone
