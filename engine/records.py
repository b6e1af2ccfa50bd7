"""The JSON lines of a run, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a metrics.jsonl; a line that a crash left half written is passed over. Empty without a file."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"kind", "epoch"} <= record.keys():
            records.append(record)
    return records
