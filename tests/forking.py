"""The server that forks the processes of tests: it has imported what they need, so that a start takes no seconds.

A test process has one such server, and what it imports is settled when the first test asks for a process; all name the
same modules here, whichever of them comes first.
"""

from __future__ import annotations

import multiprocessing

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["tests.csre.worlds", "tests.engine.child"])
