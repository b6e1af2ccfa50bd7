"""The subjects of `python tools/benchmark.py`, and what they measure with."""
