"""Write the encoder of a run as one file for other programs: `python tools/export.py --run RUN --format onnx`.

    onnx           for onnxruntime and others (needs requirements-optional.txt)
    torch_export   for torch.export.load, without this project
    state_dict     weights with their settings, for `load_run`; --names published: as the encoder's authors name them

The number of clips in a batch is free. The file says what the encoder expects (stream, window, skeleton, class names),
and it is read back and compared with the run before its name is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only tools/ would be on the path
# Threads that spin while they wait slow each other down many times; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from common.arguments import Parser
from common.errors import UserError
from common.files import user_path, write_atomically
from common.front_door import run_command
from engine.config import resolve
from engine.predictor import Predictor, load_run, settings_in
from engine.schema import flatten
from graph import get_skeleton
from model.published_weights import published_state_dict

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "state_dict": ".pt"}
TOLERANCE = 1e-4
"""Largest difference of a logit between the file and the run, as a share of the largest logit (at least 1)."""
CHECKED_BATCHES = (1, 3)
METADATA = "metadata.json"


class ExportError(UserError):
    """An encoder that cannot be exported, or a file that does not compute what the run does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 refused with a line on stderr."""
    return run_command("tools/export.py", lambda: print(export(_parser().parse(argv))))


def export(options: argparse.Namespace) -> Path:
    """Write the file, check it, and return its path; a file that fails the check is removed.

    Raises:
        ExportError: see there.
    """
    if options.config and options.run.exists() and (options.run.is_dir() or settings_in(options.run) is not None):
        raise ExportError("--config: what is named has its own configuration; omit it")
    resolved = resolve(["--config", str(options.config)]) if options.config else None
    predictor = load_run(options.run, options.epoch, settings=flatten(resolved.config) if resolved else None)
    name = options.run.resolve().name.removesuffix(".pt") + ("_published" if options.names == "published" else "")
    path = options.output or Path(f"{name}{SUFFIXES[options.format]}")
    if path.suffix != SUFFIXES[options.format]:
        raise ExportError(f"--output {path}: files of --format {options.format} end in {SUFFIXES[options.format]}")
    if options.names == "published" and options.format != "state_dict":
        raise ExportError("--names published goes with --format state_dict; other formats name no weights")
    if path.exists():
        raise ExportError(f"{path}: exists already; remove it, or name another file with --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = metadata_of(predictor)
    if options.format == "state_dict":
        write_state_dict(predictor, metadata, path, published=options.names == "published")
        computed = [load_run(path).encoder(*batch) for batch in _batches(predictor)]
    elif options.format == "torch_export":
        write_program(predictor, metadata, path)
        program = torch.export.load(path).module()
        computed = [program(*batch[: len(metadata["inputs"])]) for batch in _batches(predictor)]
    else:
        computed = write_onnx(predictor, metadata, path)
    try:
        _check(predictor, computed, path)
    except ExportError:
        path.unlink()
        raise
    return path


def metadata_of(predictor: Predictor) -> dict[str, Any]:
    """What a program needs to know to feed the encoder and to read its logits."""
    settings, benchmark = predictor.settings, predictor.benchmark
    skeleton = get_skeleton(benchmark.skeleton)
    return {
        "encoder": settings["model.name"],
        "benchmark": benchmark.name,
        "inputs": ["x", "joints"] if reads_joints(predictor) else ["x"],
        "input_shape": [
            "clips",
            predictor.encoder.in_channels,
            predictor.window,
            skeleton.num_joints,
            benchmark.num_persons,
        ],
        "stream": settings["data.stream"],
        "variant": settings["data.variant"],
        "window": predictor.window,
        "transforms": benchmark.transforms,
        "origin": settings.get("data.origin") or benchmark.origin,
        "second_person": settings.get("data.second_person") or benchmark.second_person,
        "skeleton": {
            "joints": skeleton.joint_names,
            "parents": skeleton.parents,
            "root": skeleton.root,
            "centre": skeleton.centre,
        },
        "class_names": predictor.class_names,
    }


def _batches(predictor: Predictor) -> list[tuple[Tensor, Tensor]]:
    """Stream and joints of one clip, and of three, of noise; the second person is absent from one."""
    batches = []
    for number in CHECKED_BATCHES:
        encoder = predictor.encoder
        shape = (number, encoder.in_channels, predictor.window, encoder.skeleton.num_joints, encoder.num_persons)
        x, joints = torch.randn(2, *shape, generator=torch.Generator().manual_seed(number)).unbind()
        for tensor in (x, joints):
            tensor[0, ..., 1:] = 0
        batches.append((x, joints))
    return batches


@torch.inference_mode()
def reads_joints(predictor: Predictor) -> bool:
    """Whether the encoder computes with the raw joints beside its stream."""
    x, joints = _batches(predictor)[-1]
    return not torch.equal(predictor.encoder(x, joints), predictor.encoder(x, x))


def write_state_dict(predictor: Predictor, metadata: dict[str, Any], path: Path, published: bool = False) -> None:
    """Weights with the settings and the metadata: `encoder` under our names, or `state_dict` under the published ones.

    Raises:
        EncoderError: no published weights of this encoder are known.
    """
    encoder = predictor.encoder
    weights = {"state_dict": published_state_dict(encoder)} if published else {"encoder": encoder.state_dict()}
    content = {**weights, "config": predictor.settings, "metadata": json.loads(json.dumps(metadata))}
    write_atomically(path, lambda file: torch.save(content, file))


def program_of(predictor: Predictor, inputs: Sequence[str]) -> torch.export.ExportedProgram:
    """The encoder as an exported program of these inputs, for any number of clips."""
    batch = torch.export.Dim("batch")
    arguments = _batches(predictor)[-1][: len(inputs)]
    with torch.no_grad():
        return torch.export.export(predictor.encoder, arguments, dynamic_shapes={name: {0: batch} for name in inputs})


def write_program(predictor: Predictor, metadata: dict[str, Any], path: Path) -> None:
    """A file for torch.export.load, which gives the metadata to its `extra_files`."""
    program = program_of(predictor, metadata["inputs"])
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def write_onnx(predictor: Predictor, metadata: dict[str, Any], path: Path) -> list[Tensor]:
    """A file for ONNX runtimes with each metadata entry as JSON; returns what onnxruntime computes with it.

    Raises:
        ExportError: the optional packages are missing, or ONNX has no word for an operation of the encoder.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"--format onnx needs {', '.join(missing)}: pip install -r requirements-optional.txt")
    import onnx
    import onnxruntime

    program = program_of(predictor, metadata["inputs"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            exported = torch.onnx.export(
                program, input_names=metadata["inputs"], output_names=["logits"], verbose=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().splitlines()[0][:200]
        raise ExportError(f"{metadata['encoder']}: the ONNX exporter has no form for it ({reason})") from None
    assert exported is not None, "no file was named"
    model = exported.model_proto
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    write_atomically(path, lambda file: file.write(model.SerializeToString()))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [
        torch.from_numpy(session.run(None, dict(zip(metadata["inputs"], map(np.asarray, batch), strict=False)))[0])
        for batch in _batches(predictor)
    ]


@torch.no_grad()
def _check(predictor: Predictor, computed: Sequence[Tensor], path: Path) -> None:
    for batch, logits in zip(_batches(predictor), computed, strict=True):
        expected = predictor.encoder(*batch)
        difference = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not difference <= TOLERANCE:
            raise ExportError(f"{path}: differs from the run by {difference:.1e} of the largest logit; not written")


def _parser() -> Parser:
    parser = Parser(prog="tools/export.py", description=__doc__)
    add = parser.add_argument
    add("--run", type=user_path, required=True, help="run folder, a checkpoint, or other weights of an encoder")
    add("--config", type=user_path, metavar="FILE", help="configuration of weights that carry none, such as weights/'s")
    add("--format", choices=SUFFIXES, required=True)
    add("--epoch", choices=("best", "last"), default="best", help="which weights of a run folder (default: best)")
    add("--names", choices=("ours", "published"), default="ours", help="of the weights in a state dict (default: ours)")
    add("--output", type=user_path, metavar="FILE", help="where to write (default: named like the run, in this folder)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
