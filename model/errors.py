"""What can go wrong with an encoder; every message names the thing, the reason and the fix."""

from __future__ import annotations

from common.errors import UserError


class EncoderError(UserError):
    """An encoder that cannot be built, or an input that it cannot read."""


class UnknownEncoderError(EncoderError):
    """A name that the registry does not hold."""


class WeightsError(UserError):
    """Weights that cannot be read or do not belong to the encoder."""
