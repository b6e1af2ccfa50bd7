"""Speed and memory, measured: `python tools/benchmark.py SUBJECT`; the subjects are in the package beside this file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Threads that spin while they wait make everything slower when other programs share the cores. Read when torch is first
# imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# torch's profiler, which measures memory, would report its every start and stop.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from tools.benchmark.command import main

if __name__ == "__main__":
    sys.exit(main())
