"""Run folders with score files made by hand, and what the command says about them."""

from __future__ import annotations

import numpy as np

from fusion.scores import Scores, save_scores

STREAMS = ("joint", "bone", "joint_motion", "bone_motion")
CLIPS = [f"clip {number}" for number in range(20)]


def logits_with(correct):
    """Logits that put class 0 first in so many of the twenty clips, and last of twelve in the others."""
    logits = np.zeros((20, 12), np.float32)
    logits[:correct, 0] = 1
    logits[correct:, 0] = -1
    return logits


def write_run(
    work_dir,
    stream,
    last=10,
    best=12,
    encoder="ctrgcn",
    group="g1",
    heads="csre",
    benchmark="nw-ucla",
    suffix="",
    shift=0,
):
    """A run's folder with its two score files; `last` and `best` are the clips that they get right, of twenty."""
    folder = work_dir / benchmark / f"{encoder}{f'_{heads}' if heads else ''}_{stream}{suffix}"
    folder.mkdir(parents=True)
    for selection, correct, epoch in (("last", last, 65), ("best", best, 57)):
        if correct is not None:
            scores = Scores(
                CLIPS,
                np.zeros(20, np.int64),
                logits_with(correct) + shift,
                stream=stream,
                encoder=encoder,
                benchmark=benchmark,
                epoch=epoch,
                run=folder.name,
                heads=heads,
                group=group,
                selection=selection,
            )
            save_scores(folder / f"scores_{selection}.npz", scores)
    return folder


def write_set(work_dir, **options: object):
    return [write_run(work_dir, stream, **options) for stream in STREAMS]


def numbers_of(out, title):
    """Counts of correct clips and of clips within the first five on the line of that title."""
    line = next(line for line in out.splitlines() if line.startswith(title + " "))
    _, correct, _, top5 = line[len(title) :].split()[:4]
    return int(correct), int(top5)
