"""Memory that a process has freed, kept for its next step."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4

SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""The environment variables by which a user sets the same himself; glibc.malloc in GLIBC_TUNABLES is another way."""


def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks instead of returning them to the system; call it before torch allocates.

    Every training step on the CPU needs the same gigabytes again. By default they are returned after each step and
    faulted in page by page in the next, which at large batches takes longer than the arithmetic. The price: the process
    keeps its peak memory until it ends.

    Returns:
        Whether it was done: not on systems without glibc, and not where the user has set the allocator himself.
    """
    set_by_user = any(name in os.environ for name in SETTINGS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if set_by_user or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
