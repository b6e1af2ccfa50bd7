"""The demo data set: generated clips of twelve actions on the NTU skeleton.

`body` turns joint angles into positions, `actions` says how the angles of each class run, `generator` adds people,
cameras and noise, `cache` packs everything and keeps it in a file.
"""

from feeders.demo.actions import ACTIONS, AMBIGUOUS_PAIRS
from feeders.demo.cache import open_demo
from feeders.demo.generator import generate_demo

__all__ = ["ACTIONS", "AMBIGUOUS_PAIRS", "generate_demo", "open_demo"]
