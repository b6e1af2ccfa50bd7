"""tools/export.py: each kind of file, read back without this project where it should need none."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from engine.predictor import load_run
from model import fitting_window, load_published_weights, load_weights_file
from model.published_weights import published_state_dict
from tests.engine.tiny import TinyEncoder
from tests.model.slim import slim, some_encoders
from tests.tools.untrained import untrained_run
from tools import export

TINY = "tests.engine.tiny:TinyEncoder"
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def make_run(folder, name="ctrgcn", benchmark="demo", **settings):
    settings = {
        "model__options": slim(name),
        "data__benchmark": benchmark,
        "data__window": fitting_window(name, 16),
    } | settings
    return untrained_run(folder, model__name=name, **settings)


def clips(predictor, number, seed=0):
    shape = (number, 3, predictor.window, predictor.encoder.skeleton.num_joints, predictor.encoder.num_persons)
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)).unbind()


class JointsReader(TinyEncoder):
    """Computes with the raw joints, too."""

    def extract(self, x, joints):
        return super().extract(x + 0.5 * joints, joints)


READS_JOINTS = ("blockgcn", f"{__name__}:JointsReader")


@pytest.mark.parametrize("name", [*some_encoders("stgcn"), READS_JOINTS[1]])
def test_exported_program_takes_any_number_of_clips(name, tmp_path):
    encoder = make_run(tmp_path / "run", name)
    words = ["--run", str(tmp_path / "run"), "--format", "torch_export", "--output", str(tmp_path / "e.pt2")]
    assert export.main(words) == 0
    files = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "e.pt2", extra_files=files).module()
    metadata = json.loads(files["metadata.json"])
    assert metadata["inputs"] == (["x", "joints"] if name in READS_JOINTS else ["x"])
    predictor = load_run(tmp_path / "run")
    for number in (1, 2, 7):
        batch = clips(predictor, number)
        with torch.no_grad():
            assert torch.allclose(program(*batch[: len(metadata["inputs"])]), encoder(*batch), atol=1e-4)


def test_file_says_what_the_encoder_expects(tmp_path):
    make_run(tmp_path / "run", "hcn", data__stream="bone_motion", data__variant="centred")
    words = ["--run", str(tmp_path / "run"), "--format", "torch_export", "--output", str(tmp_path / "e.pt2")]
    assert export.main(words) == 0
    files = {"metadata.json": ""}
    torch.export.load(tmp_path / "e.pt2", extra_files=files)
    found = json.loads(files["metadata.json"])
    assert (found["stream"], found["variant"], found["window"]) == ("bone_motion", "centred", 16)
    assert found["input_shape"] == ["clips", 3, 16, 25, 2]
    assert found["class_names"][:2] == ["drink", "phone call"]
    assert found["skeleton"]["joints"][found["skeleton"]["root"]] == "spine between shoulders"


def test_one_person_and_one_clip(tmp_path):
    encoder = make_run(tmp_path / "run", TINY, benchmark="nw-ucla")
    words = ["--run", str(tmp_path / "run"), "--format", "torch_export", "--output", str(tmp_path / "e.pt2")]
    assert export.main(words) == 0
    program = torch.export.load(tmp_path / "e.pt2").module()
    x, _ = clips(load_run(tmp_path / "run"), 1)
    with torch.no_grad():
        assert torch.allclose(program(x), encoder(x), atol=1e-4)


def test_state_dict_is_a_run_of_its_own(tmp_path):
    make_run(tmp_path / "run", TINY, data__stream="bone")
    words = ["--run", str(tmp_path / "run"), "--format", "state_dict", "--output", str(tmp_path / "e.pt")]
    assert export.main(words) == 0
    clip = np.random.default_rng(0).normal(size=(30, 2, 25, 3))
    first, second = load_run(tmp_path / "run"), load_run(tmp_path / "e.pt")
    assert np.array_equal(first.logits([clip]), second.logits([clip]))
    assert first.settings == second.settings


@pytest.mark.parametrize("name", some_encoders("ctrgcn", "blockgcn", "hcn"))
def test_published_names_and_back_to_the_bit(name, tmp_path):
    encoder = make_run(tmp_path / "run", name, **({"model__options": {}} if name == "blockgcn" else {}))
    if name == "blockgcn":  # a run that was trained as the published weights were
        load_published_weights(encoder, random_published(encoder))
        content = torch.load(tmp_path / "run/checkpoints/best.pt", weights_only=True)
        torch.save({"encoder": encoder.state_dict(), "config": content["config"]}, tmp_path / "run.pt")
    source = tmp_path / ("run.pt" if name == "blockgcn" else "run")
    words = ["--run", str(source), "--format", "state_dict", "--names", "published", "--output", str(tmp_path / "e.pt")]
    assert export.main(words) == 0
    state = torch.load(tmp_path / "e.pt", weights_only=True)["state_dict"]
    assert not state.keys() & encoder.state_dict().keys() or name == "hcn"
    other = make_run(tmp_path / "other", name, seed=1, **({"model__options": {}} if name == "blockgcn" else {}))
    assert load_weights_file(other, tmp_path / "e.pt") == "published weights"
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


def random_published(encoder):
    encoder.topology.trained_as.copy_(torch.tensor([True, True]))
    return published_state_dict(encoder)


@pytest.mark.skipif(not HAS_ONNX, reason="needs requirements-optional.txt")
@pytest.mark.parametrize("name", [*some_encoders("stgcn"), READS_JOINTS[1]])
def test_onnx_computes_the_same(name, tmp_path):
    import onnx
    import onnxruntime

    encoder = make_run(tmp_path / "run", name)
    words = ["--run", str(tmp_path / "run"), "--format", "onnx", "--output", str(tmp_path / "e.onnx")]
    assert export.main(words) == 0
    session = onnxruntime.InferenceSession(tmp_path / "e.onnx", providers=["CPUExecutionProvider"])
    inputs = [entry.name for entry in session.get_inputs()]
    assert inputs == (["x", "joints"] if name in READS_JOINTS else ["x"])
    for number in (1, 5):
        batch = clips(load_run(tmp_path / "run"), number)
        with torch.no_grad():
            expected = encoder(*batch).numpy()
        fed = {key: tensor.numpy() for key, tensor in zip(inputs, batch, strict=False)}
        bound = 1e-4 * max(1.0, float(np.abs(expected).max()))
        assert np.abs(session.run(["logits"], fed)[0] - expected).max() <= bound
    properties = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "e.onnx").metadata_props}
    assert properties["class_names"][0] == "drink"


@pytest.mark.skipif(HAS_ONNX, reason="the packages are installed")
def test_onnx_without_its_packages_says_how_to_get_them(tmp_path, capsys):
    make_run(tmp_path / "run", TINY)
    assert export.main(["--run", str(tmp_path / "run"), "--format", "onnx"]) == 2
    assert "requirements-optional.txt" in capsys.readouterr().err


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run", TINY)
    write = export.write_state_dict

    def corrupt(predictor, metadata, path, published=False):
        write(predictor, metadata, path, published)
        content = torch.load(path, weights_only=True)
        content["encoder"]["linear.bias"] += 1
        torch.save(content, path)

    monkeypatch.setattr(export, "write_state_dict", corrupt)
    words = ["--run", str(tmp_path / "run"), "--format", "state_dict", "--output", str(tmp_path / "e.pt")]
    assert export.main(words) == 2
    assert "differs from the run" in capsys.readouterr().err
    assert not (tmp_path / "e.pt").exists()


def test_no_file_is_overwritten(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run", TINY)
    checkpoints = tmp_path / "run" / "checkpoints"
    before = (checkpoints / "best.pt").read_bytes()
    monkeypatch.chdir(checkpoints)  # the default name of the file is that of the checkpoint
    words = ["--run", "best.pt", "--format", "state_dict"]
    assert export.main(words) == 2
    assert "best.pt: exists already" in capsys.readouterr().err
    assert (checkpoints / "best.pt").read_bytes() == before
    assert export.main([*words, "--output", "other.pt"]) == 0
    assert export.main([*words, "--output", "other.pt"]) == 2


def test_published_names_belong_to_a_state_dict(tmp_path, capsys):
    make_run(tmp_path / "run", TINY)
    assert export.main(["--run", str(tmp_path / "run"), "--format", "torch_export", "--names", "published"]) == 2
    assert "--format state_dict" in capsys.readouterr().err


def test_weights_without_settings_are_exported_with_their_configuration(tmp_path, capsys):
    make_run(tmp_path / "run", TINY)
    bare, out = tmp_path / "bare.pt", tmp_path / "out.pt"
    torch.save(load_run(tmp_path / "run").encoder.state_dict(), bare)
    words = ["--run", str(bare), "--format", "state_dict", "--output", str(out)]
    assert export.main(words) == 2
    assert "add --config FILE" in capsys.readouterr().err
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{benchmark: demo}}\nmodel: {{name: '{TINY}'}}\n")
    assert export.main([*words, "--config", str(config)]) == 0
    assert load_run(out).class_names == load_run(tmp_path / "run").class_names
    capsys.readouterr()
    for carries in (tmp_path / "run", out):
        assert export.main(["--run", str(carries), "--config", str(config), "--format", "onnx"]) == 2
        assert "has its own configuration" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_said_to_be_missing(tmp_path, capsys):
    assert export.main(["--run", str(tmp_path / "nope"), "--format", "state_dict"]) == 2
    assert "no such run" in capsys.readouterr().err
