"""Weights of fusion that published repositories use, by name.

They were evidently chosen by hand on the test sets that they are used on (they differ by benchmark), so that figures
made with them are a little optimistic; `equal` is not tuned on anything. Where a repository has no working rule for a
number of streams, there is no preset for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.words import did_you_mean
from engine.scores import ScoresError

_J, _B, _JM, _BM = "joint", "bone", "joint_motion", "bone_motion"


@dataclass(frozen=True)
class _Preset:
    """Weights of one repository: `benchmarks` None means all, `any_number` that streams may be missing or repeated."""

    name: str
    weights: dict[str, float]
    benchmarks: tuple[str, ...] | None = None
    any_number: bool = False

    def fits(self, streams: Sequence[str | None]) -> bool:
        if self.any_number:
            return all(stream in self.weights for stream in streams)
        return sorted(map(str, streams)) == sorted(self.weights)


def _four(joint: float, bone: float, joint_motion: float, bone_motion: float) -> dict[str, float]:
    return {_J: joint, _B: bone, _JM: joint_motion, _BM: bone_motion}


_NTU = ("ntu60-xsub", "ntu60-xview", "ntu120-xsub", "ntu120-xset")
_PRESETS = (
    _Preset("agcn", {_J: 1, _B: 1}),
    _Preset("ctrgcn", {_J: 1, _B: 1}),
    _Preset("ctrgcn", {_J: 0.6, _B: 0.6, _JM: 0.4}),
    _Preset("ctrgcn", _four(0.6, 0.6, 0.4, 0.4)),
    _Preset("frhead", _four(2, 2, 1, 1), ("ntu60-xsub",)),
    _Preset("frhead", _four(0.6, 0.6, 0.4, 0.4), ("ntu60-xview", "nw-ucla")),
    _Preset("frhead", _four(0.6, 0.75, 0.3, 0.15), ("ntu120-xsub", "ntu120-xset")),
    _Preset("hyperformer", _four(0.4, 0.6, 0.2, 0.2), _NTU),
    _Preset("hyperformer", _four(0.4, 0.4, 0.3, 0.2), ("nw-ucla",)),
    _Preset("blockgcn", _four(0.6, 0.7, 0.35, 0.2), _NTU),
    _Preset("blockgcn", _four(0.7, 0.5, 0.6, 0.2), ("nw-ucla",)),
    _Preset("infogcn", _four(1.5, 1.5, 1, 1), any_number=True),
)

EQUAL = "equal"
PRESETS = (EQUAL, *dict.fromkeys(preset.name for preset in _PRESETS))


def check_preset(name: str) -> None:
    """Refuse a name that is none of `PRESETS`."""
    if name not in PRESETS:
        raise ScoresError(f"unknown preset {name!r}{did_you_mean(name, PRESETS)}; known are {', '.join(PRESETS)}")


def preset_weights(name: str, streams: Sequence[str | None], benchmark: str | None = None) -> list[float]:
    """One weight per stream, in the order given.

    Args:
        name: one of `PRESETS`.
        streams: names of the streams.
        benchmark: needed by presets that differ between benchmarks.

    Raises:
        ScoresError: an unknown name; a preset that is not defined for these streams or this benchmark.
    """
    check_preset(name)
    if name == EQUAL:
        return [1.0] * len(streams)
    fitting = [preset for preset in _PRESETS if preset.fits(streams)]
    of_name = [preset for preset in fitting if preset.name == name]
    for preset in of_name:
        if preset.benchmarks is None or benchmark in preset.benchmarks:
            return [float(preset.weights[str(stream)]) for stream in streams]
    if of_name and benchmark is None:
        known = ", ".join(benchmark for preset in of_name for benchmark in preset.benchmarks or ())
        raise ScoresError(f"preset {name!r} differs between benchmarks; add --benchmark with one of {known}")
    defined = [EQUAL, *dict.fromkeys(p.name for p in fitting if p.benchmarks is None or benchmark in p.benchmarks)]
    raise ScoresError(
        f"preset {name!r} is not defined for {len(streams)} streams ({', '.join(map(str, streams))})"
        f"{f' on {benchmark}' if benchmark else ''}; defined there are {', '.join(defined)}, or give numbers"
    )
