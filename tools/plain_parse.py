"""Raw clips read line by line in plain Python: what the preparation of NTU RGB+D is measured against."""

from __future__ import annotations

from pathlib import Path

COORDINATES, ALL_NUMBERS = 3, 12
"""Numbers of a joint that are read: x, y, z, or its whole line."""


def parse_lines(path: Path, numbers: int) -> dict[str, list[list[list[float]]]]:
    """The first `numbers` of every joint's line, by body, frame and joint; nothing is checked."""
    bodies: dict[str, list[list[list[float]]]] = {}
    with path.open(encoding="ascii") as file:
        for _ in range(int(file.readline())):
            for _ in range(int(file.readline())):
                body = file.readline().split()[0]
                joints = [
                    [float(word) for word in file.readline().split()[:numbers]] for _ in range(int(file.readline()))
                ]
                bodies.setdefault(body, []).append(joints)
    return bodies
