"""Narrow encoders, which make tests fast: as wide as the demo's configurations train them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from engine.config import resolve
from model import list_encoders
from tests.documents import REPOSITORY


@cache
def slim(name: str) -> dict[str, Any]:
    """The options of that encoder that say how wide it is; empty where it has none, or no configuration yet."""
    path = REPOSITORY / "config" / "demo" / f"{name}_joint.yaml"
    resolved = resolve(["--config", str(path)]) if path.exists() else None
    options = resolved.config.model.options if resolved is not None else {}
    return {option: value for option, value in options.items() if "channels" in option}


def some_encoders(*always: str) -> list[Any]:
    """Every encoder, as parameters of a test that takes long for each: all but those named are marked slow."""
    return [name if name in always else pytest.param(name, marks=pytest.mark.slow) for name in list_encoders()]
