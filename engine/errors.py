"""What a user can get wrong, as exceptions: the front doors print their message as one line, without a traceback."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration file or command line that cannot be used; the message names place, key, reason and mend."""


class RunError(RuntimeError):
    """A run folder or checkpoint that cannot be used as asked."""


class NonFiniteLossError(RuntimeError):
    """A loss that is NaN or infinite; raised before the update, naming epoch, step and clips."""
