"""What a user can get wrong, as exceptions: the front doors print their message as one line, without a traceback."""

from __future__ import annotations

import signal

from common.errors import UserError


class ConfigError(UserError):
    """A configuration file or command line that cannot be used; the message names place, key, reason and fix."""


class RunError(UserError):
    """A run folder or checkpoint that cannot be used as asked."""


class ForeignFileError(RunError):
    """A file that is not a checkpoint of this project; it may be one that an encoder's authors published."""


class NonFiniteLossError(UserError):
    """NaN or infinite numbers; raised before they reach the weights or a file, naming epoch, step and clips."""

    exit_code = 3


class OtherRankError(UserError):
    """Another rank of the run met an error and says so; this one only stops."""

    exit_code = 4
    silent = True


class StoppedError(UserError):
    """The run was asked to stop by a signal and has saved what it did, if the disk let it."""

    def __init__(self, number: int, where: str, saved: bool) -> None:
        self.exit_code = 128 + number
        resumes = "from there" if saved else "from the newest checkpoint, since this one could not be saved"
        super().__init__(f"stopped by {signal.Signals(number).name} {where}; the same command resumes {resumes}")
