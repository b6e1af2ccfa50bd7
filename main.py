"""Train and test a skeleton encoder, with or without CSRE: `python main.py --config FILE [--key value ...]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from engine.config import resolve
from engine.errors import ConfigError, NonFiniteLossError, RunError
from engine.scores import ScoresError
from feeders.errors import DataError
from graph import SkeletonError
from model import EncoderError, WeightsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0 done; 2 refused, the reason on stderr in one line; 3 stopped by a loss that is not finite;
        130 interrupted (the same command goes on after the last epoch).
    """
    # Threads that spin while they wait make training many times slower when other programs share the cores. Read when
    # torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        resolved = resolve(sys.argv[1:] if argv is None else argv)
        if resolved is not None:
            from engine.run import run  # imports torch: only once the configuration is known to be right

            run(resolved)
    except (ConfigError, RunError, ScoresError, DataError, SkeletonError, EncoderError, WeightsError) as error:
        print(f"main.py: {error}", file=sys.stderr)
        return 2
    except NonFiniteLossError as error:
        print(f"main.py: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("main.py: interrupted; the same command goes on after the last finished epoch", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
