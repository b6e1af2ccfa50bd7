"""Encoders of skeleton clips: one file per paper, shared blocks, a registry and the import of published weights.

    encoder = build_encoder("ctrgcn", skeleton=get_skeleton("ntu"), num_classes=60, num_persons=2, window=64)
    features = encoder.features(x)           # (N, M, C', T', V'); its last three sizes are encoder.feature_shape
    logits = encoder.classify(features)      # (N, K); encoder(x) does both
    load_published_weights(encoder, state_dict)
    load_weights_file(encoder, "weights.pt")

Importing this package does not import torch (the names that need it are fetched on first use), so that a configuration
can be checked against `list_encoders()` in no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from model.errors import EncoderError, UnknownEncoderError, WeightsError
from model.registry import build_encoder, fitting_window, list_encoders, register_encoder

if TYPE_CHECKING:
    from model.encoder import Encoder
    from model.published_weights import load_published_weights
    from model.weights import load_weights_file

_NEEDING_TORCH = {
    "Encoder": "model.encoder",
    "load_published_weights": "model.published_weights",
    "load_weights_file": "model.weights",
}

__all__ = [
    "Encoder",
    "EncoderError",
    "UnknownEncoderError",
    "WeightsError",
    "build_encoder",
    "fitting_window",
    "list_encoders",
    "load_published_weights",
    "load_weights_file",
    "register_encoder",
]


def __getattr__(name: str) -> Any:
    if name in _NEEDING_TORCH:
        return getattr(importlib.import_module(_NEEDING_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
