"""Weights from a file: whatever a user may hand over, recognised by its names or refused with the names that differ."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.encoder import Encoder
from model.errors import WeightsError
from model.published_weights import (
    check_names,
    is_published,
    load_checked,
    load_published_weights,
    published_table,
    without_wrapper_prefix,
)

# Keys under which training programs keep the weights of the network; the first is this project's own checkpoint.
_WRAPPERS = ("encoder", "state_dict", "model_state_dict", "model", "net", "weights")


def load_weights_file(encoder: Encoder, path: str | Path, fine_tune: bool = False) -> str:
    """Fill the encoder from a .pt file and say what was in it: `our own weights` or `published weights`.

    Accepted are a checkpoint of this project, the encoder's own state dict, and a state dict under the published names,
    each bare or inside a dictionary (under `state_dict`, `model`, ...), with or without `module.` before every name.
    Only tensors and plain containers are unpickled, never code.

    With `fine_tune` the weights may be for another number of classes: the classifier then stays as it is, and the
    answer says so.

    Raises WeightsError, beginning with the path, when the file is missing, unreadable or belongs to another encoder.
    """
    path = Path(path)
    try:
        state = _find_state(_open(path))
        published = is_published(encoder, set(state))
        kept = _keep_classifier(encoder, state, published) if fine_tune else ""
        if published:
            load_published_weights(encoder, state)
        else:
            check_names(set(state), set(encoder.state_dict()), "weights")
            load_checked(encoder, state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return f"{'published' if published else 'our own'} weights{kept}"


def _keep_classifier(encoder: Encoder, state: dict[str, Tensor], published: bool) -> str:
    """Put the encoder's own classifier in place of one for another number of classes; the words that say so, or ""."""
    names = published_table(encoder, set(state)) if published else {}
    kept = ""
    for ours, own in encoder.state_dict().items():
        name = names[ours].names[0] if ours in names and names[ours].names else ours
        given = state.get(name)
        if ours.startswith(f"{encoder.classifier}.") and given is not None and given.ndim and len(given) != len(own):
            kept = f" but their classifier of {len(given)} classes; that of {len(own)} classes starts from scratch"
            state[name] = own
    return kept


def _open(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError("no such file; check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            "is not a PyTorch file, or holds Python objects beside tensors and plain containers, which are not loaded "
            "because they could run code; save the state dict alone with torch.save"
        ) from None
    except Exception as error:  # torch reports a damaged file by whatever its unpickler or zip reader met first
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"cannot be read, perhaps it was cut short ({reason}); fetch or save it again") from None


def _find_state(content: Any) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"holds a {type(content).__name__} and no named tensors; save a state dict")
    for name, tensor in content.items():
        if not isinstance(name, str):
            raise WeightsError(f"parameter names must be text, got {name!r}; save a state dict")
        if not isinstance(tensor, Tensor):
            raise WeightsError(f"{name!r} is a {type(tensor).__name__} where a tensor belongs; save a state dict")
        if tensor.is_nested or tensor.layout != torch.strided:
            raise WeightsError(f"{name!r} is sparse or nested; save it as a plain dense tensor")
        if tensor.is_meta or tensor.is_quantized or tensor.is_complex():
            raise WeightsError(f"{name!r} is quantised, complex or without content; save it as a plain tensor")
    return without_wrapper_prefix(content)
