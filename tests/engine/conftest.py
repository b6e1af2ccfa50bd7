"""A small folder of clips in the NW-UCLA format, and a way to call the front door."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from matplotlib.figure import Figure

import main

ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """120 clips: 10 classes x 3 views x 4; the class decides which joint swings."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(3)
    for label, action in enumerate(ACTIONS, start=1):
        for view in (1, 2, 3):
            for repetition in range(4):
                frames = int(rng.integers(5, 20))
                clip = rng.normal(scale=0.05, size=(frames, 20, 3)) + np.linspace(-1, 1, 20)[:, None]
                clip[:, label, 1] += np.sin(np.linspace(0, 6, frames))
                name = f"a{action:02d}_s01_e{repetition:02d}_v{view:02d}"
                content = {"file_name": name, "skeletons": clip.round(5).tolist(), "label": label}
                (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(clip_folder, tmp_path, capsys) -> Callable[..., Outcome]:
    """Run main.py's `main` with a small CSRE run of the tiny encoder, plus further words, in a folder of its own."""
    config = tmp_path / "small.yaml"
    config.write_text(
        f"""
        data: {{benchmark: nw-ucla, path: {clip_folder}, window: 12, repeat: 1}}
        model: {{name: "tests.engine.tiny:TinyEncoder"}}
        csre: {{enabled: true, dim: 16, positives: {{hard: 4}}, negatives: {{hard: 8, random: 8}}}}
        optim: {{lr: 0.05, batch_size: 16, epochs: 2, warmup_epochs: 0, milestones: []}}
        log: {{every_steps: 2, tsne_clips: 0, figures: false}}
        device: cpu
        work_dir: {tmp_path / "runs"}
        """
    )

    def run(*words: str) -> Outcome:
        code = main.main(["--config", str(config), *words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    run.config, run.folder = config, clip_folder
    return run


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """Where `call` leaves its run."""
    return tmp_path / "runs" / "nw-ucla" / "small"


@pytest.fixture
def coarse_figures(monkeypatch) -> None:
    """Figures have few pixels and an empty PDF: painting takes most of their time."""
    paint = Figure.savefig

    def save(figure: Figure, path: Path) -> None:
        path.touch()
        if path.suffix == ".png":
            paint(figure, path, dpi=20)

    monkeypatch.setattr(Figure, "savefig", save)
