"""Freed memory is kept for the next allocation, unless the user has set the allocator himself."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is meant")

PROGRAM = """
import resource
from common.allocator import keep_freed_memory
done = keep_freed_memory()
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
print(done, first, faults())
"""
"""Fills 128 MiB twice, the second time after freeing the first; prints the page faults of both."""


def run(**variables: str) -> tuple[bool, int, int]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=inherited | variables, capture_output=True, text=True, check=True)
    said, first, second = done.stdout.split()
    return said == "True", int(first), int(second)


@glibc_only
def test_a_second_allocation_finds_the_pages_of_the_first():
    done, first, second = run()
    assert done
    assert second < 0.05 * first


@glibc_only
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_a_variable_of_the_user_wins(name):
    value = "glibc.malloc.arena_max=1" if name == "GLIBC_TUNABLES" else "131072"
    done, first, second = run(**{name: value})
    assert not done
    assert second > 0.5 * first


@glibc_only
def test_tunables_of_something_else_do_not_matter():
    assert run(GLIBC_TUNABLES="glibc.rtld.optional_static_tls=4096")[0]


def test_other_systems_are_left_alone(monkeypatch):
    from common import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()


@pytest.mark.parametrize("tool", ["predict", "export", "benchmark"])
def test_threads_are_told_to_sleep_before_torch_is_imported(tool):
    code = f"""
import os, runpy, sys

class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            os._exit(0)

sys.meta_path.insert(0, Watch())
sys.argv = ["tools/{tool}.py", "--help"]
sys.stdout.reconfigure(line_buffering=True)
runpy.run_path("tools/{tool}.py", run_name="__main__")
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    place = {"cwd": Path(__file__).parents[2], "env": environment}
    done = subprocess.run([sys.executable, "-c", code], **place, capture_output=True, text=True, check=True)
    assert done.stdout == "PASSIVE\n"
