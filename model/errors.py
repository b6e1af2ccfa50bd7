"""What can go wrong with an encoder; every message names the thing, the reason and the mend."""

from __future__ import annotations


class EncoderError(ValueError):
    """An encoder that cannot be built, or an input that it cannot read."""


class UnknownEncoderError(EncoderError):
    """A name that the registry does not hold."""


class WeightsError(ValueError):
    """Weights that cannot be read or do not belong to the encoder."""
