"""Reading finished run folders: what record.py, tables.py, compare.py and sweep.py have in common. Free of torch."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ")


def wall_seconds(folder: Path) -> float | None:
    """The time that a run took by its log.txt, without the pauses before a resumption; None without a log.

    Every start of the program begins with a line that names the run folder.
    """
    log = folder / "log.txt"
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if STAMP.match(line)] if log.exists() else []
    times = [datetime.fromisoformat(line[:19]) for line in lines]
    total = timedelta()
    for before, after, line in zip(times, times[1:], lines[1:], strict=False):
        if ", run folder " not in line:
            total += after - before
    return total.total_seconds() if lines else None
