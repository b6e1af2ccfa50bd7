"""A trained encoder together with its preprocessing: load once, call as often as needed, from any thread.

    from engine.predictor import load_run

    predictor = load_run("work_dir/nw-ucla/ctrgcn_csre_joint")
    predictor.predict(clip)              # clip: array (T, M, V, 3) -> [("throw", 0.93), ("carry", 0.04), ...]

Letters: n clips, T frames, M persons, V joints, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from engine.checkpoint import TRAINING_ONLY, changed_facts, load_checkpoint
from engine.errors import ForeignFileError, RunError
from engine.run_folder import RunFolder
from feeders import ClipBatch, Feeder, get_benchmark
from feeders.readers.clip_file import pack_clips
from graph import get_skeleton
from model import WeightsError, build_encoder, load_weights_file
from model.evaluation import Evaluation


def load_run(
    place: str | Path,
    selection: Literal["best", "last"] = "best",
    *,
    settings: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
) -> Predictor:
    """The trained encoder of a run folder, of one of its checkpoints, or of another file of weights.

    Args:
        place: a run folder, or a .pt file.
        selection: of a run folder, the weights of its best or of its last epoch.
        settings: every setting by dotted key (`engine.schema.flatten`), for weights that do not carry theirs, such as
            those that an encoder's authors published.
        device: where the encoder runs.

    Raises:
        RunError, WeightsError: a file that is missing, damaged, of another encoder, or without settings.
        DataError, EncoderError: the settings name a benchmark or an encoder that is not there.
    """
    path = Path(place)
    if path.is_dir():
        folder = RunFolder(path)
        path = folder.best if selection == "best" else folder.last
    elif not path.exists():
        raise RunError(f"{path}: no such run, nor a file of weights")
    content = _content(path)
    settings = settings or (content and content["config"])
    if settings is None:
        raise RunError(
            f"{path}: does not say what it was trained with; add --config FILE, the configuration of its run"
        )
    if content and (changed := changed_facts(content, get_benchmark(settings["data.benchmark"]), TRAINING_ONLY)):
        raise RunError(f"{path} was trained otherwise ({'; '.join(changed)}); undo the change, or train again")
    return Predictor(settings, path, device)


def settings_in(path: Path) -> dict[str, Any] | None:
    """The settings that a checkpoint or a file of `tools/export.py` carries; None for other weights.

    Raises:
        RunError, WeightsError: the file cannot be read.
    """
    content = _content(path)
    return None if content is None else content["config"]


def _content(path: Path) -> dict[str, Any] | None:
    """A checkpoint or a file of `tools/export.py`, which carry settings; None for other weights. Raises likewise."""
    try:
        return load_checkpoint(path)
    except ForeignFileError:
        pass
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as many kinds as there are ways to damage a file
        raise WeightsError(f"{path}: cannot be read ({type(error).__name__}); fetch or save it again") from None
    config = content.get("config") if isinstance(content, dict) else None
    return content if isinstance(config, dict) and "data.benchmark" in config else None


class Predictor:
    """An encoder in evaluation mode with the preprocessing it was trained with; computes without mixed precision.
    On a GPU convolutions use TF32 unless `torch.backends.cudnn.allow_tf32` is off, as `main.py --phase test` has it.

    Calls change nothing, so several threads may share one. Made by `load_run`.

    settings: every setting by dotted key. encoder: the network alone. benchmark: skeleton and class names, most persons
    in a clip. window: frames that the encoder sees. source: the file of the weights.
    """

    def __init__(self, settings: Mapping[str, Any], weights: Path, device: str | torch.device = "cpu") -> None:
        self.settings = dict(settings)
        self.source = weights
        self.device = torch.device(device)
        self.benchmark = get_benchmark(settings["data.benchmark"])
        self.class_names = self.benchmark.class_names
        self.window: int = settings["data.window"] or self.benchmark.window
        self.encoder = build_encoder(
            settings["model.name"],
            skeleton=get_skeleton(self.benchmark.skeleton),
            num_classes=len(self.class_names),
            num_persons=self.benchmark.num_persons,
            window=self.window,
            **settings["model.options"],
        )
        load_weights_file(self.encoder, weights)
        self.encoder.to(self.device).eval()
        self._evaluation = Evaluation(self.encoder)

    def batch(self, clips: Sequence[np.ndarray]) -> ClipBatch:
        """What the encoder sees of clips (T, M, V, 3), each with its own T and M: cropped, resampled, as a stream.

        Raises:
            DataError: a clip with other joints or more persons than the benchmark has, without frames, or with NaN.
        """
        store = pack_clips(clips, [f"clip {number}" for number in range(len(clips))], self.benchmark)
        settings = self.settings
        feeder = Feeder(
            store,
            self.benchmark,
            "test",
            stream=settings["data.stream"],
            variant=settings["data.variant"],
            window=self.window,
            # Checkpoints of earlier versions lack these settings.
            second_person=settings.get("data.second_person"),
            origin=settings.get("data.origin"),
            channels=self.encoder.in_channels,
        )
        return feeder.feed(torch.arange(len(clips)), epoch=0)

    @torch.inference_mode()
    def logits(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Logits (n, K) float32 of clips (T, M, V, 3) in metres, each with its own T and M. Raises as `batch`."""
        x, _, _, joints = self.batch(clips).to(self.device)
        return self._evaluation(x, joints).float().cpu().numpy()

    def predict(self, clip: np.ndarray, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of a clip (T, M, V, 3), each with its probability. Raises as `batch`."""
        return likeliest(self.logits([clip])[0], self.class_names, top)


def likeliest(logits: np.ndarray, class_names: Sequence[str], top: int = 5) -> list[tuple[str, float]]:
    """Names and probabilities (softmax) of the classes with the highest logits (K,)."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-logits, kind="stable")[:top]
    return [(class_names[index], float(powers[index] / powers.sum())) for index in order]
