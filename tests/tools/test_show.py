"""tools/show.py: what the pictures and the page hold, compared with the clips."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from common.colours import BLUE, ORANGE
from csre import CSRE
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.predictor import load_run
from feeders import Feeder, PackedStore, get_benchmark, open_store
from feeders.demo.generator import generate_demo
from feeders.feeder import ALONE
from fusion.scores import Scores, save_scores
from graph import get_skeleton
from tests.tools.untrained import untrained_run
from tools import explain, show, skeleton_drawing
from tools.skeleton_drawing import SIDE, TITLE, Panel

SKELETON = get_skeleton("ntu")


@pytest.fixture(scope="module")
def store():
    return generate_demo(seed=0, num_subjects=11, num_replications=1)


@pytest.fixture
def clip_file(store, tmp_path):
    path = tmp_path / "wave.npy"
    np.save(path, store.clip(0).numpy()[:12])
    return path


def content_of(path) -> dict:
    text = path.read_text()
    assert "http" not in text, "the page must not need a network"
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_page_holds_the_joints_of_the_clip(clip_file, tmp_path):
    assert show.main([str(clip_file), "--output", str(tmp_path / "x.html")]) == 0
    (clip,) = content_of(tmp_path / "x.html")["clips"]
    assert np.array_equal(np.array(clip["frames"], np.float32), np.load(clip_file).round(4))
    assert [tuple(edge) for edge in clip["edges"]] == list(SKELETON.edges)
    assert {clip["sides"][left] for left, _ in SKELETON.left_right} == {"left"}


def test_an_absent_person_is_not_in_the_page():
    positions = np.ones((3, 2, 25, 3))
    positions[1, 1] = 0
    content = json.loads(
        re.search(r'id="data">(.*?)</script>', skeleton_drawing.page([Panel("", positions, SKELETON)]))[1]
    )
    assert [person is None for frame in content["clips"][0]["frames"] for person in frame] == [0, 0, 0, 1, 0, 0]


def test_gif_shows_every_frame_with_the_joints_where_they_project(clip_file, tmp_path):
    assert show.main([str(clip_file), "--output", str(tmp_path / "x.gif")]) == 0
    clip = np.load(clip_file)
    panel = Panel("", clip, SKELETON)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == len(clip)
        for frame in (0, len(clip) - 1):
            gif.seek(frame)
            pixels = np.asarray(gif.convert("RGB")).astype(int)
            for name, colour in (("left foot", ORANGE), ("right foot", BLUE)):
                column, row = panel.project(clip[frame, 0, SKELETON.joint_names.index(name)], SIDE).round().astype(int)
                found = pixels[row + TITLE - 1 : row + TITLE + 2, column - 1 : column + 2]
                assert np.abs(found - ImageColor.getrgb(colour)).sum(axis=-1).min() < 60, (frame, name)


def test_strip_has_a_row_for_each_clip(clip_file, tmp_path):
    assert show.main([str(clip_file), str(clip_file), "--output", str(tmp_path / "x.png")]) == 0
    with Image.open(tmp_path / "x.png") as strip:
        assert strip.size == (8 * SIDE, 2 * (SIDE + 2 * TITLE))
        halves = np.asarray(strip).reshape(2, SIDE + 2 * TITLE, -1)
    assert (halves[0] == halves[1]).all()
    assert halves.min() < 100, "nothing was drawn"


@pytest.mark.parametrize("stream", ["joint", "bone", "joint_motion"])
def test_view_is_what_the_feeder_gives(store, stream):
    benchmark = get_benchmark("demo")
    feeder = Feeder(store, benchmark, "test", stream=stream, variant="centred")
    batch = feeder.feed(torch.tensor([3]), epoch=0)
    index = store.names.index(feeder.names[3])
    panel = show.view_of(show.Clip("x", store.clip(index).numpy()), benchmark, "test", stream, "centred")
    x = batch.x[0].permute(1, 3, 2, 0).numpy()
    joints = batch.joints[0].permute(1, 3, 2, 0).numpy()
    if stream == "joint_motion":
        assert np.array_equal(panel.positions, joints)
        longest = np.linalg.norm(panel.arrows, axis=-1).max()
        assert longest == pytest.approx(0.15 * np.ptp(joints[joints.any(axis=(2, 3))], axis=(0, 1)).max())
        assert np.allclose(panel.arrows / longest, x / np.linalg.norm(x, axis=-1).max(), atol=1e-6)
    else:
        assert np.array_equal(panel.positions, x)


def test_training_view_is_augmented(store):
    clip, benchmark = show.Clip("x", store.clip(0).numpy()), get_benchmark("demo")
    views = [
        show.view_of(clip, benchmark, view, seed=seed).positions
        for view, seed in (("test", 0), ("train", 1), ("train", 2))
    ]
    assert all(not np.allclose(one, other) for one, other in zip(views, views[1:] + views[:1], strict=True))


@pytest.mark.parametrize(("stream", "conf_of"), [("joint", "x"), ("bone", "x"), ("joint_motion", "joints")])
def test_clips_of_an_image_are_flat_and_upright_and_fade(stream, conf_of):
    """x to the right and y down in the image are -x and -y in a panel; the third number is no depth."""
    benchmark = get_benchmark("demo-2d")
    store = open_store(benchmark, None).store
    feeder = Feeder(store, benchmark, "test", stream=stream)
    batch = feeder.feed(torch.tensor([3]), epoch=0)
    clip = show.Clip("x", store.clip(store.names.index(feeder.names[3])).numpy())
    x, joints = (tensor[0].permute(1, 3, 2, 0).numpy() for tensor in (batch.x, batch.joints))
    panel = show.view_of(clip, benchmark, "test", stream)
    assert np.array_equal(panel.positions[..., :2], -(joints if stream == "joint_motion" else x)[..., :2])
    assert np.array_equal(panel.sureness, {"x": x, "joints": joints}[conf_of][..., 2])
    assert not panel.positions[..., 2].any()
    if stream == "joint_motion":
        assert not panel.arrows[..., 2].any()
        longest = np.linalg.norm(panel.arrows, axis=-1).max()
        assert np.allclose(
            panel.arrows[..., :2] / longest, -x[..., :2] / np.hypot(x[..., 0], x[..., 1]).max(), atol=1e-6
        )
    raw = show.view_of(clip, benchmark, "raw")
    nose, ankle = (raw.project(raw.positions[0, 0, joint], SIDE) for joint in (0, 15))
    assert nose[1] < ankle[1], "heads are at the top"


def test_an_unsure_joint_is_white():
    clip, sureness = np.random.default_rng(0).standard_normal((1, 1, 25, 3)), np.zeros((1, 1, 25))
    pictures = [
        np.asarray(skeleton_drawing._picture(Panel("", clip, SKELETON, sureness=share), 0, ""))
        for share in (sureness, sureness + 1, None)
    ]
    assert (pictures[0] == 255).all()
    assert (pictures[1] == pictures[2]).all()
    assert pictures[1].min() < 100


def test_two_classes_of_a_benchmark_side_by_side(demo, tmp_path):
    words = ["--benchmark", "demo", "--path", str(demo), "--class", "DRINK", "--class", "phone call"]
    assert show.main([*words, "--output", str(tmp_path / "x.html")]) == 0
    titles = [clip["title"] for clip in content_of(tmp_path / "x.html")["clips"]]
    assert [title.partition(" (")[0] for title in titles] == ["drink", "phone call"]


@pytest.mark.parametrize(("alone", "copied"), [([1, 0, 0], True), ([0, 0, 0], False), (None, False)])
def test_only_a_lone_actor_of_a_data_set_is_copied(monkeypatch, tmp_path, alone, copied):
    clips = [np.random.default_rng(0).normal(size=(9, persons, 25, 3)) for persons in (1, 1, 2)]
    names, marks = ["a", "b", "c"], {} if alone is None else {ALONE: alone}
    benchmark = get_benchmark("ntu120-xsub")
    store = PackedStore.from_clips(clips, [0] * 3, names, benchmark.class_names, "ntu", marks)
    monkeypatch.setattr(show, "open_store", lambda *_: SimpleNamespace(store=store))
    words = ["--benchmark", "ntu120-xsub", "--name", "a", "--view", "test", "--output", str(tmp_path / "x.html")]
    assert show.main(words) == 0
    (clip,) = content_of(tmp_path / "x.html")["clips"]
    assert {second is not None for _, second in clip["frames"]} == {copied}


def test_nw_ucla_clip_is_recognised(shared, tmp_path):
    source = shared / "data/NW-UCLA/all_sqe/a01_s01_e00_v01.json"
    assert show.main([str(source), "--view", "raw", "test", "--output", str(tmp_path / "x.html")]) == 0
    raw, tested = content_of(tmp_path / "x.html")["clips"]
    recorded = np.array(json.loads(source.read_text())["skeletons"])
    assert np.allclose(np.array(raw["frames"])[:, 0], recorded, atol=6e-5)
    assert len(tested["frames"]) == 52
    assert np.abs(np.array(tested["frames"])).max() == 1


def test_clips_of_sbu_are_recognised_by_their_joints(tmp_path):
    clip = np.random.default_rng(0).standard_normal((4, 2, 15, 3))
    np.save(tmp_path / "approach.npy", clip)
    assert show.main([str(tmp_path / "approach.npy"), "--output", str(tmp_path / "x.html")]) == 0
    (shown,) = content_of(tmp_path / "x.html")["clips"]
    assert [tuple(edge) for edge in shown["edges"]] == list(get_skeleton("sbu").edges)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="MP4 needs ffmpeg")
def test_mp4_has_every_frame(clip_file, tmp_path):
    assert show.main([str(clip_file), "--output", str(tmp_path / "x.mp4")]) == 0
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]
    counted = subprocess.run([*command, str(tmp_path / "x.mp4")], capture_output=True, text=True).stdout
    assert int(counted) == len(np.load(clip_file))


def test_mp4_without_ffmpeg_is_one_line(clip_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert show.main([str(clip_file), "--output", str(tmp_path / "x.mp4")]) == 2
    assert "ffmpeg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.npy"], "missing.npy: no such file"),
        (["--class", "wave"], "add --benchmark"),
        ([], "no clip given"),
        (["--benchmark", "demo", "--path", "DEMO", "--class", "wavee"], "did you mean 'wave'"),
        (["--benchmark", "demo", "--path", "DEMO", "--class", "wave", "--pick", "999"], "has 60 clips"),
        (["--benchmark", "demo", "--path", "DEMO", "--class", "wave", "--pick", "-1"], "has 60 clips"),
        (
            ["--benchmark", "demo", "--path", "DEMO", "--name", "S1"],
            "--name 'S1': not found; the data set has 720 clips",
        ),
        (["FEW"], "few: no built-in skeleton has 7 joints; add --benchmark NAME, or FILE.yaml"),
        (["CLIP", "--run", "r", "--view", "train"], "omit --view, or --run"),
        (["CLIP", "--run", "r", "--stream", "bone"], "omit --stream, or --run"),
        (["CLIP", "--run", "r", "--variant", "centred"], "omit --variant, or --run"),
        (["CLIP", "--run", "r", "--seed", "1"], "omit --seed, or --run"),
        (["CLIP", "--output", "x.jpg"], "unknown kind '.jpg'"),
        (["CLIP", "--benchmark", "nw-ucla"], "wave: 25 joints; benchmark nw-ucla has 20"),
    ],
)
def test_refusals_are_one_line(words, said, clip_file, demo, capsys):
    few = clip_file.with_name("few.npy")
    np.save(few, np.ones((3, 7, 3)))
    words = [{"CLIP": str(clip_file), "DEMO": str(demo), "FEW": str(few)}.get(word, word) for word in words]
    assert show.main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.fixture
def run(store, tmp_path):
    """A run with CSRE whose banks hold a few clips, and scores with two mistakes."""
    folder, labels = tmp_path / "run", torch.arange(12).repeat(3)
    settings = {"csre__enabled": True, "csre__dim": 16, "data__path": str(tmp_path / "clips.h5")}
    encoder = untrained_run(folder, data__benchmark="demo", model__name="tests.engine.tiny:TinyEncoder", **settings)
    csre = CSRE(encoder.feature_shape, labels, dim=16)
    with torch.no_grad():
        csre(torch.randn(36, 2, *encoder.feature_shape), labels, torch.arange(36))
    for path in (folder / "checkpoints").iterdir():
        content = {**load_checkpoint(path), "training": {"csre": csre.state_dict()}}
        save_checkpoint(path, content)
    store.save(tmp_path / "clips.h5")
    predicted = store.labels.numpy().copy()
    wrong = np.flatnonzero(predicted == 2)[:2]
    predicted[wrong] = 3
    names = list(store.names)
    save_scores(
        folder / "scores_best.npz", Scores(names, store.labels.numpy(), np.eye(12, dtype=np.float32)[predicted])
    )
    return folder, names[wrong[0]]


def test_confused_pair_of_a_run(run, tmp_path):
    folder, wrong = run
    assert show.main(["--run", str(folder), "--confused", "--output", str(tmp_path / "x.html")]) == 0
    first, second = content_of(tmp_path / "x.html")["clips"]
    assert first["title"].startswith(f"pick up ({wrong}), predicted: ")
    assert second["title"].startswith("put down (")
    assert len(first["frames"]) == 32


def test_colours_are_gradient_times_input_of_the_contrast(run, store, tmp_path):
    folder, _ = run
    predictor = load_run(folder)
    csre = explain.load_csre(predictor)
    clip = store.clip(0).numpy()
    joints, frames = explain.contributions(predictor, csre, clip, label=4)
    x = predictor.batch([clip]).x.double()
    encoder, csre = predictor.encoder.double(), csre.double()

    def similarity(branch: str, axis: int, place: int, factor: float) -> float:
        scaled = x.clone()
        scaled.select(axis, place).mul_(factor)
        with torch.no_grad():
            query = csre.project(encoder.features(scaled))[branch][0]
        return float(query @ explain.class_mean(csre, branch, 4, None).double())

    # Scaling a joint by 1 + e changes the similarity by e times the gradient x input of that joint.
    for weights, branch, axis in ((joints, "spatial", 3), (frames, "temporal", 2)):
        step = 1e-5
        slopes = [
            abs(similarity(branch, axis, place, 1 + step) - similarity(branch, axis, place, 1 - step))
            for place in range(len(weights))
        ]
        assert weights == pytest.approx(np.array(slopes) / max(slopes), abs=1e-3)
    words = [
        "--run",
        str(folder),
        "--class",
        "drink",
        "--explain",
        "press button",
        "--output",
        str(tmp_path / "x.html"),
    ]
    assert show.main(words) == 0
    content = content_of(tmp_path / "x.html")
    (shown,) = content["clips"]
    assert (len(shown["joint_weights"]), len(shown["frame_weights"])) == (25, 32)
    assert "gradient x input" in content["note"]


def test_a_run_without_csre_has_nothing_to_explain(clip_file, tmp_path, capsys):
    untrained_run(tmp_path / "plain", data__benchmark="demo", model__name="tests.engine.tiny:TinyEncoder")
    assert show.main([str(clip_file), "--run", str(tmp_path / "plain"), "--explain", "wave"]) == 2
    assert "trained without CSRE" in capsys.readouterr().err
    assert show.main([str(clip_file), "--explain", "wave"]) == 2
    assert "add --run RUN" in capsys.readouterr().err
