"""Train and test a skeleton encoder, with or without CSRE: `python main.py --config FILE [--key value ...]`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from engine.config import resolve
from engine.errors import ConfigError, NonFiniteLossError, OtherRankError, RunError, StoppedError
from engine.scores import ScoresError
from feeders.errors import DataError
from graph import SkeletonError
from model import EncoderError, WeightsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0 done; 2 refused, the reason on stderr in one line; 3 stopped by numbers that are not finite;
        143 (SIGTERM) or 130 (SIGINT, Ctrl-C) stopped by a signal: the same command goes on from there; 4 another
        process of the run had to stop and says why.
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
        return _tell(error, 2)
    except NonFiniteLossError as error:
        return _tell(error, 3)
    except OtherRankError:
        return _tell(None, 4)
    except StoppedError as error:
        return _tell(error, error.exit_code)
    except KeyboardInterrupt:
        print("main.py: interrupted; the same command goes on from what is saved", file=sys.stderr)
        return 130
    return 0


def _tell(error: Exception | None, code: int) -> int:
    """Print the message, which of several processes only the first one does; the others give it time to."""
    if int(os.environ.get("RANK", "0")) > 0:
        time.sleep(1)  # torchrun ends all processes as soon as one of them fails
    elif error is not None:
        print(f"main.py: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
