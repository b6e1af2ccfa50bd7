"""Train and test a skeleton encoder, with or without CSRE: `python main.py --config FILE [--key value ...]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from common.allocator import keep_freed_memory
from common.front_door import end_with_torchrun, run_command
from engine.config import resolve


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0 done; 2 refused, the reason on stderr in one line; 3 stopped by numbers that are not finite;
        143 (SIGTERM) or 130 (SIGINT, Ctrl-C) stopped by a signal: the same command resumes from there; 4 another
        process of the run had to stop and says why; 141 done, but nobody reads the output any more.
    """
    end_with_torchrun()
    # Threads that spin while they wait make training many times slower when other programs share the cores. Read when
    # torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    return run_command(
        "main.py",
        lambda: _run(sys.argv[1:] if argv is None else argv),
        interrupted="interrupted; the same command resumes from the last checkpoint",
    )


def _run(argv: Sequence[str]) -> None:
    resolved = resolve(argv)
    if resolved is not None:
        from engine.run import run  # imports torch: only once the configuration is known to be right

        run(resolved)


if __name__ == "__main__":
    sys.exit(main())
