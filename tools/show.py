"""Show clips in motion: `python tools/show.py CLIP --output clip.html`.

A clip is a file (.skeleton, .json, .npy) or, with --benchmark, a clip of its data by class or name. Several clips, and
several views of a clip (as recorded, as the encoder sees it), stand side by side. With --run the clips are shown as a
run sees them in a test; --confused takes two clips from its worst confusion, --explain colours joints and frames by
what they contribute to a class in CSRE's contrast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path

from common.arguments import Parser
from common.files import user_path
from common.front_door import run_command
from common.words import find_word
from engine.predictor import Predictor, load_run
from feeders import STREAMS, VARIANTS, Benchmark, ClipBatch, Feeder, PackedStore, get_benchmark, open_store
from feeders.feeder import ALONE
from feeders.readers.clip_file import find_clip_files, pack_clips, read_clip, with_absent_person
from fusion.scores import load_scores
from graph import get_skeleton
from tools.explain import contributions, load_csre
from tools.skeleton_drawing import WRITERS, Panel, ShowError, write

VIEWS = {"raw": "as recorded", "test": "as tested", "train": "as trained (augmented)"}
BENCHMARK_BY_JOINTS = {25: "ntu60-xsub", 20: "nw-ucla", 17: "demo-2d", 15: "sbu-fold1"}
"""Whose transforms a file gets that comes without --benchmark."""
OF_VIEWS = ("view", "stream", "variant", "seed")
"""Options that a run decides itself."""
ARROW = 0.15
"""Length of the largest motion, as a share of the body's extent."""


class Clip(NamedTuple):
    """A clip (T, M, V, 3) with the name it is shown under."""

    name: str
    coordinates: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused with a line on stderr."""
    return run_command("tools/show.py", lambda: show(_parser().parse(argv)))


def show(options: argparse.Namespace) -> None:
    """Collect the clips, make their views, write the files."""
    if (options.confused or options.explain) and not options.run:
        raise ShowError(f"{'--confused' if options.confused else '--explain'} is about a trained run; add --run RUN")
    if options.run:
        defaults = _parser()
        for key in OF_VIEWS:
            if getattr(options, key) != defaults.get_default(key):
                raise ShowError(f"--{key}: a run shows clips as it saw them in a test; omit --{key}, or --run")
    for path in options.output:
        if path.suffix not in WRITERS:
            raise ShowError(f"--output {path}: unknown kind {path.suffix!r}; supported kinds: {', '.join(WRITERS)}")
    predictor = load_run(options.run) if options.run else None
    benchmark = get_benchmark(options.benchmark) if options.benchmark else predictor.benchmark if predictor else None
    clips = [Clip(path.stem, read_clip(path)) for path in find_clip_files(options.clips)]
    names = [*options.names, *(confused_pair(options.run) if options.confused else ())]
    if options.classes or names:
        if benchmark is None:
            raise ShowError("--class and --name choose clips of a data set; add --benchmark NAME, or --run RUN")
        place = options.path or (predictor.settings["data.path"] if predictor else None)
        clips += _chosen(open_store(benchmark, place).store, options.classes, names, options.pick)
    if not clips:
        raise ShowError("no clip given; name files, or --benchmark NAME with --class or --name")
    if predictor is not None:
        panels = [panel_of_run(clip, predictor, options.explain) for clip in clips]
    else:
        panels = [
            view_of(clip, benchmark or _guess(clip), view, options.stream, options.variant, options.seed)
            for clip in clips
            for view in options.view
        ]
    for path in options.output:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(panels, path)
        print(path)


def view_of(
    clip: Clip, benchmark: Benchmark, view: str, stream: str = "joint", variant: str = "plain", seed: int = 0
) -> Panel:
    """A clip as recorded (`raw`), or as the feeder gives it to the encoder in a `test` or in training (`train`).

    The bone stream is drawn as it is, all bones from one point; motion as lines at the joints, lengthened to be seen.
    2-D clips are drawn flat, as in the image.

    Raises:
        feeders.DataError: the clip does not fit the benchmark.
    """
    store = pack_clips([clip.coordinates], [clip.name], benchmark, "train" if view == "train" else "test")
    title = f"{clip.name}, {VIEWS[view]}"
    if view == "raw":
        positions, sureness = _as_seen(clip.coordinates, benchmark)
        return Panel(title, positions, get_skeleton(benchmark.skeleton), sureness=sureness)
    feeder = Feeder(store, benchmark, view, stream=stream, variant=variant, seed=seed)  # type: ignore[arg-type]
    return _panel_of_batch(title, feeder.feed(torch.tensor([0]), epoch=0), benchmark, stream)


def panel_of_run(clip: Clip, predictor: Predictor, explain: str | None = None) -> Panel:
    """A clip as a run sees it in a test, with its prediction; coloured by its contrast with the class `explain`.

    Raises:
        ShowError, ExplainError: an unknown class, a run without CSRE.
        feeders.DataError: the clip does not fit the run's benchmark.
    """
    ((name, probability),) = predictor.predict(clip.coordinates, top=1)
    title = f"{clip.name}, predicted: {name} ({100 * probability:.0f} %)"
    batch, stream = predictor.batch([clip.coordinates]), predictor.settings["data.stream"]
    panel = _panel_of_batch(title, batch, predictor.benchmark, stream)
    if explain is None:
        return panel
    label = find_word(explain, predictor.class_names, "--explain", "classes", ShowError)
    joints, frames = contributions(predictor, load_csre(predictor), clip.coordinates, label)
    note = (
        f"Dark joints (spatial branch) and dark frames (temporal branch, the bar below) contribute most to the "
        f"similarity with {predictor.class_names[label]!r} in CSRE's memory bank: size of gradient x input."
    )
    return replace(panel, joint_weights=joints, frame_weights=frames, note=note)


def confused_pair(run: Path) -> list[str]:
    """Names of two test clips: one of the worst confusion of a run, and a correct one of the class it was taken for.

    Raises:
        ScoresError: the run has no score file. ShowError: it makes no mistake.
    """
    from engine.figures import worst_pairs  # imports matplotlib, which showing clips does without

    scores = load_scores(run / "scores_best.npz")
    assert scores.labels is not None, "our own score files carry labels"
    predicted = scores.logits.argmax(axis=1)
    confusion = np.zeros((scores.logits.shape[1],) * 2, np.int64)
    np.add.at(confusion, (scores.labels, predicted), 1)
    pairs = worst_pairs(confusion, number=1)
    if not pairs:
        raise ShowError(f"{run}: confuses no clip; choose clips with --class or --name")
    true, taken_for = pairs[0][:2]
    wrong = np.flatnonzero((scores.labels == true) & (predicted == taken_for))[0]
    right = np.flatnonzero((scores.labels == taken_for) & (predicted == taken_for))[:1]
    return [scores.names[row] for row in (wrong, *right)]


def _panel_of_batch(title: str, batch: ClipBatch, benchmark: Benchmark, stream: str) -> Panel:
    skeleton = get_skeleton(benchmark.skeleton)
    (joints, of_joints), (x, of_x) = (
        _as_seen(tensor[0].permute(1, 3, 2, 0).numpy(), benchmark) for tensor in (batch.joints, batch.x)
    )
    if stream == "joint":
        return Panel(title, x, skeleton, sureness=of_x)
    title += f", {stream.replace('_', ' ')}"
    if stream == "bone":
        return Panel(title, x, skeleton, arrows=-x, lines=False, sureness=of_x)
    largest = np.linalg.norm(x, axis=-1).max() or 1.0
    extent = np.ptp(joints[joints.any(axis=(2, 3))], axis=(0, 1)).max()
    return Panel(title, joints, skeleton, arrows=x * (ARROW * extent / largest), sureness=of_joints)


def _as_seen(points: np.ndarray, benchmark: Benchmark) -> tuple[np.ndarray, np.ndarray | None]:
    """Points (..., 3) as panels show them, and how sure they are.

    Those of 2-D clips lie in one plane; in the image x grows to the right and y downwards, in panels the other way.
    """
    if benchmark.transforms != "2d":
        return points, None
    return points * np.array([-1, -1, 0], points.dtype), points[..., 2].clip(0, 1)


def _guess(clip: Clip) -> Benchmark:
    joints = clip.coordinates.shape[2]
    if joints not in BENCHMARK_BY_JOINTS:
        raise ShowError(
            f"{clip.name}: no built-in skeleton has {joints} joints; add --benchmark NAME, or FILE.yaml of your own"
        )
    return get_benchmark(BENCHMARK_BY_JOINTS[joints])


def _chosen(store: PackedStore, classes: Sequence[str], names: Sequence[str], pick: int) -> Iterator[Clip]:
    """Clip number `pick` of each of these classes, and the clips of these names."""
    labels = store.labels.numpy()
    for name in classes:
        members = np.flatnonzero(labels == find_word(name, store.class_names, "--class", "classes", ShowError))
        if not 0 <= pick < len(members):
            raise ShowError(f"--pick {pick}: class {name!r} has {len(members)} clips, counted from 0")
        index = int(members[pick])
        yield _stored(store, index)
    for name in names:
        yield _stored(store, find_word(name, store.names, "--name", "clips", ShowError))


def _stored(store: PackedStore, index: int) -> Clip:
    alone = store.metadata[ALONE][index] == 1 if ALONE in store.metadata else int(store.persons.max()) == 1
    clip = with_absent_person(store.clip(index).numpy(), alone)
    return Clip(f"{store.class_names[int(store.labels[index])]} ({store.names[index]})", clip)


def _parser() -> Parser:
    parser = Parser(prog="tools/show.py", description=__doc__)
    add = parser.add_argument
    add("clips", nargs="*", type=user_path, metavar="CLIP", help="clip files, or folders of them")
    add("--benchmark", metavar="NAME", help="data set: its clips can be chosen, its transforms are used")
    add("--path", metavar="PLACE", help="where its clips are (default: the benchmark's usual place)")
    add("--class", dest="classes", action="append", default=[], metavar="NAME", help="a clip of this class; repeatable")
    add("--name", dest="names", action="append", default=[], metavar="NAME", help="the clip of this name; repeatable")
    add("--pick", type=int, default=0, metavar="N", help="which clip of the class, counted from 0 (default: 0)")
    add("--view", nargs="+", choices=VIEWS, default=["raw"], help="before (raw) and after the feeder (default: raw)")
    add("--stream", choices=STREAMS, default="joint", help="input stream of the views test and train")
    add("--variant", choices=VARIANTS, default="plain", help="variant of the stream")
    add("--seed", type=int, default=0, metavar="N", help="of the view train (default: 0)")
    add("--run", type=user_path, help="show clips as this run saw them in a test, with its prediction")
    add("--confused", action="store_true", help="a wrong clip of the run's worst pair beside a right one")
    add("--explain", metavar="CLASS", help="colour by contribution to this class in CSRE's contrast")
    kinds = ", ".join(WRITERS)
    add(
        "--output",
        nargs="+",
        type=user_path,
        default=[Path("clips.html")],
        metavar="FILE",
        help=f"{kinds} (clips.html)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
