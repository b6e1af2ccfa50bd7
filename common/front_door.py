"""How every command ends: 0, or one line on stderr and an exit code; never a traceback for what a user can fix."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable

from common.errors import UserError, reason_of

UNREAD = 128 + 13
"""The exit code of a command whose output nobody reads any more: that of a process which SIGPIPE ends in the shell."""
_PARENT = os.getppid()


def run_command(program: str, command: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Run a command and return the exit code of the process.

    Args:
        program: how the user called it, the head of the line that reports an error.
        command: the work; it raises UserError for what the user can fix, and may return an exit code.
        interrupted: what to say when Ctrl-C ends it.

    Returns:
        What the command returns, or 0; 2 refused, by the command or by the system (no permission, disk full); the code
        of another UserError; 130 Ctrl-C; 141 done, but nobody reads the output any more, as after `| head`.
    """
    try:
        code = command() or 0
    except UserError as error:
        code = _report(program, "" if error.silent else str(error), error.exit_code)
    except BrokenPipeError:
        code = UNREAD
    except OSError as error:
        code = _report(program, f"{error.filename or 'the system'}: {reason_of(error)}", 2)
    except KeyboardInterrupt:
        code = _report(program, interrupted, 130)
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer has nowhere to go, which Python would report at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code or UNREAD
        return code or _report(program, f"the system: {reason_of(error)}", 2)
    return code


def end_with_torchrun() -> None:
    """Where torchrun started this process: end by SIGTERM when torchrun ends without a word, also if it already has.

    So that no process trains on alone. Call it first: torchrun may end while this process imports. Linux only.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != _PARENT:
            os.kill(os.getpid(), signal.SIGTERM)


def _report(program: str, message: str, code: int) -> int:
    """Print the message, which of several processes only the first one does; the others give it time to."""
    if int(os.environ.get("RANK", "0")) > 0:
        time.sleep(1)  # torchrun ends all processes as soon as one of them fails
    elif message:
        print(f"{program}: {message}", file=sys.stderr)
    return code
