"""Colours that readers with any kind of colour vision can distinguish (Okabe and Ito, 2008). Free of matplotlib."""

from __future__ import annotations

BLACK = "#000000"
GREY = "#7f7f7f"
BLUE = "#0072b2"
ORANGE = "#d55e00"
GREEN = "#009e73"
PINK = "#cc79a7"
SKY = "#56b4e9"
AMBER = "#e69f00"

SERIES = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER, BLACK)
"""For lines and points, in the order of their use. The authors' yellow is left out: it is too light for either."""
