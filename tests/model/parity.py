"""Published encoders for comparison: their weights by the fixtures' rule, their inputs and their results.

The rule, the arrays and the fair tolerances are those of the README beside the fixtures.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from graph import get_skeleton
from model import Encoder, build_encoder

SKELETONS = {"ntu": "ntu", "ucla": "nw-ucla"}


@dataclass(frozen=True)
class Terms:
    """How an encoder is compared: its options, and the bounds (fractions of the expected size) where it has its own."""

    options: dict[str, Any] = field(default_factory=dict)
    logits: float = 2e-5
    train_logits: float = 1e-5
    double: float = 1e-9
    gradient: float = 1e-6
    ties: bool = False
    """Whether max-pools meet equal entries in an absent person, so that its gradient is a matter of rounding."""
    stored_features: Callable[[Tensor], Tensor] = field(default_factory=nn.Identity)
    """From our map, persons among the clips, to the one that the file holds."""


SKATEFORMER = Terms(
    options={"drop_path": 0.0, "attention_dropout": 0.0},
    logits=2e-6,
    train_logits=2e-6,
    double=1e-11,
    gradient=1e-11,
)
TERMS = {
    "agcn": Terms(train_logits=2.5e-6),
    "blockgcn": Terms(logits=1e-6, train_logits=1e-4, double=1e-10),
    "dcgcn": Terms(options={"keep_rate": 1}),
    "hcn": Terms(  # its files hold results in single precision alone
        options={"dropout": 0.0},
        logits=5e-6,
        train_logits=5e-6,
        double=5e-6,
        gradient=5e-6,
        stored_features=partial(functional.max_pool2d, kernel_size=2),
    ),
    "hdgcn": Terms(logits=2e-6),
    "hypergcn": Terms(logits=2e-6),
    "hyperformer": Terms(logits=1e-6, train_logits=1e-6, double=1e-12),
    "infogcn": Terms(options={"sampling": False}, logits=3e-6, double=1e-12),
    "shiftgcn": Terms(train_logits=2e-5),
    "skateformer_ntu": SKATEFORMER,
    "skateformer_ucla": replace(SKATEFORMER, options=SKATEFORMER.options | {"mlp_ratio": 1}),
    "tacnn": Terms(options={"dropout": 0.0}, logits=2e-6, train_logits=2e-6, double=1e-11, ties=True),
}
"""Encoders that are not compared on the usual terms; with its graph where an encoder was published in two sizes."""


@dataclass(frozen=True)
class Fixture:
    """One file of the folder `encoders` of the fixtures, e.g. ctrgcn on the graph `ucla`."""

    file: Path
    encoder_name: str
    graph: str

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.file, allow_pickle=False) as archive:
            return dict(archive)

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads(str(self.arrays["meta"]))

    @cached_property
    def keys(self) -> list[tuple[str, list[int], str]]:
        """(name, shape, dtype) of every entry of the published state dict."""
        return json.loads(str(self.arrays["keys"]))

    @property
    def terms(self) -> Terms:
        usual = TERMS.get(self.encoder_name, Terms())
        return TERMS.get(f"{self.encoder_name}_{self.graph}", usual)

    def build(self) -> Encoder:
        """Our encoder with the fixture's sizes and options and freshly initialised weights."""
        _, _, window, _, persons = self.arrays["input_shape"].tolist()
        return build_encoder(
            self.encoder_name,
            skeleton=get_skeleton(SKELETONS[self.graph]),
            num_classes=self.arrays["logits"].shape[1],
            num_persons=persons,
            window=window,
            **self.terms.options,
        )

    def published_state(self) -> dict[str, Tensor]:
        """The published state dict that the rule makes."""
        kept = {name.removeprefix("kept/"): array for name, array in self.arrays.items() if name.startswith("kept/")}
        return {
            name: torch.from_numpy(kept[name]) if name in kept else self.by_rule(name, shape, dtype)
            for name, shape, dtype in self.keys
        }

    def by_rule(self, name: str, shape: list[int], dtype: str = "float32") -> Tensor:
        """The tensor that the rule makes for this name and shape."""
        if "int" in dtype:
            return torch.zeros(shape, dtype=torch.int64)
        rng = np.random.default_rng(zlib.crc32(name.encode()) ^ self.meta.get("weight_seed_xor", 0))
        if name.endswith("running_var"):
            values = 0.5 + rng.random(shape)
        elif name.endswith("running_mean"):
            values = 0.1 * rng.standard_normal(shape)
        elif len(shape) >= 2:
            values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        elif len(shape) == 1 and name.endswith("weight"):
            values = 1 + 0.1 * rng.standard_normal(shape)
        else:
            values = 0.1 * rng.standard_normal(shape)
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def clips(self) -> Tensor:
        """The input (2, 3, T, V, M), float32; the second person of the second clip is absent."""
        return _without_person(self.full_clips())

    def full_clips(self) -> Tensor:
        """The input before the second person of the second clip leaves."""
        return self._draw(self.meta.get("input_seed", 7))

    def joints(self) -> Tensor | None:
        """The raw joints, drawn like the input, for the encoder that reads them beside it; None for the others."""
        return _without_person(self._draw(self.meta["joint_seed"])) if "joint_seed" in self.meta else None

    def _draw(self, seed: int) -> Tensor:
        shape = self.arrays["input_shape"].tolist()
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))

    def expected(self, name: str) -> Tensor:
        array, scale = self.arrays[name], self.arrays.get(f"{name}_scale")
        return torch.from_numpy(array if scale is None else array * scale)  # scaled, so that float16 could hold it

    def expected_double(self, name: str) -> Tensor:
        """The result of that name in the file's best precision; the ending of double precision differs."""
        endings = (f"{name}64", f"{name}_f64", f"extra/{name}_f64", name)
        return self.expected(next(ending for ending in endings if ending in self.arrays))

    def differentiated(self) -> tuple[Tensor, str]:
        """The clips whose gradient is compared, and how the names of the results for them begin.

        Where sorted neighbours tie in an absent person, how the gradient is split is arbitrary; files of such encoders
        have results for clips without absent persons, too.
        """
        full = "full/train_logits64" in self.arrays
        return (self.full_clips(), "full/") if full else (self.clips(), "")


def evened(gradient: Tensor) -> Tensor:
    """The gradient with that of the absent person spread evenly over the frames: the sums are compared, not the parts.

    That person's frames are equal, so max-pools along time tie, and rounding decides which frame gets the gradient.
    """
    evened = gradient.clone()
    evened[1, ..., 1:] = gradient[1, ..., 1:].mean(dim=1, keepdim=True)
    return evened


def _without_person(clips: Tensor) -> Tensor:
    clips[1, ..., 1:] = 0
    return clips


LABELS = torch.tensor([1, 3])
"""Classes of the two clips in the loss whose gradient the fixtures hold."""


def largest_difference(given: Tensor, expected: Tensor) -> float:
    """max |given - expected| as a fraction of max |expected|."""
    assert given.shape == expected.shape
    expected = expected.double()
    return ((given.double() - expected).abs().max() / expected.abs().max()).item()


def relative_l2(given: Tensor, expected: Tensor) -> float:
    """|given - expected| / |expected|, Euclidean norms."""
    assert given.shape == expected.shape
    return ((given.double() - expected.double()).norm() / expected.double().norm()).item()
