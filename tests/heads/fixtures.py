"""The parity fixtures of the rival heads: their arrays, and the rule that gives weights instead of storing them."""

from __future__ import annotations

import json
import zlib

import numpy as np
import torch


def load(path):
    """The meta data of an archive, and its arrays by name."""
    with np.load(path) as archive:
        return json.loads(str(archive["meta"])), {name: archive[name] for name in archive.files if name != "meta"}


def part(arrays, prefix):
    """The arrays below a prefix, as tensors."""
    return {
        name.removeprefix(f"{prefix}/"): torch.from_numpy(np.asarray(value))
        for name, value in arrays.items()
        if name.startswith(f"{prefix}/")
    }


def rule(name, shape, xor=0):
    """The value of the published state-dict entry of this name, float64 (int64 for a counter)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) ^ xor)
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var"):
        value = 0.5 + rng.random(shape)
    elif name.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif len(shape) >= 2:
        value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight") and len(shape) == 1:
        value = 1 + 0.1 * rng.standard_normal(shape)
    else:
        value = 0.1 * rng.standard_normal(shape)
    return torch.from_numpy(np.asarray(value, dtype=np.float32)).double()


def normal(name, shape, xor=0):
    """Standard normal numbers for this name: prototypes."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) ^ xor)
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).double()


def close(actual, expected, tolerance):
    """Within `tolerance` of the largest expected value, or of 1 if that is smaller."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64).detach(), expected, rtol=0, atol=tolerance * scale
    )
