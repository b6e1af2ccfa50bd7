"""Every configuration in the tree: what its name promises, and one real training step of what it builds."""

from __future__ import annotations

import re
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from engine.attempt import attempt, update
from engine.config import resolve
from engine.experiment import build
from engine.schema import RunConfig, flatten
from feeders import BENCHMARKS, PackedStore
from feeders.choices import STREAMS
from feeders.demo.actions import ACTIONS
from feeders.demo.generator import perform, record
from feeders.demo.people import draw_person, draw_take
from graph import get_skeleton
from model import list_encoders

CONFIG = Path(__file__).resolve().parents[2] / "config"
BASE = CONFIG / "base"
RUNS = sorted(path for benchmark in BENCHMARKS for path in (CONFIG / benchmark).glob("*.yaml"))
ABLATIONS = sorted((CONFIG / "ablation").glob("*.yaml"))
PUBLISHED_CHOICE = {
    "branches_spatial_temporal",
    "positives_hard_negatives_both",
    "temperature_0.8",
}
"""Ablations that repeat what the paper settles on."""
BATCH = 3
"""Two clips of one class and one of another: the fewest that can be contrasted."""


@cache
def config_of(path: Path) -> RunConfig:
    resolved = resolve(["--config", str(path)])
    assert resolved is not None
    return resolved.config


def settings(path: Path) -> dict[str, object]:
    """Everything that a configuration decides, its own name aside."""
    return {key: value for key, value in flatten(config_of(path)).items() if key != "name"}


def case(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_every_folder_is_a_benchmark_and_has_every_encoder_and_stream_with_and_without_csre():
    assert {folder.name for folder in CONFIG.iterdir()} == {"base", "ablation", *BENCHMARKS}
    expected = {
        f"{encoder}{csre}_{stream}" for encoder, csre, stream in product(list_encoders(), ("_csre", ""), STREAMS)
    }
    for benchmark in BENCHMARKS:
        assert {path.stem for path in (CONFIG / benchmark).iterdir()} == expected


@pytest.mark.parametrize("path", RUNS, ids=case)
def test_a_configuration_is_what_its_name_says(path):
    config = config_of(path)
    assert config.name == path.stem
    assert config.data.benchmark == path.parent.name
    csre = "_csre" if config.csre.enabled else ""
    assert path.stem == f"{config.model.name}{csre}_{config.data.stream}"


@pytest.mark.parametrize("path", [path for path in RUNS if "_csre_" in path.stem], ids=case)
def test_a_plain_configuration_differs_from_its_twin_in_one_line(path):
    twin = path.with_name(path.name.replace("_csre_", "_"))
    mine, plain = path.read_text().splitlines(), twin.read_text().splitlines()
    assert [line for line in mine if line not in plain] == ["  - ../base/csre.yaml"]
    assert [line for line in mine if "csre.yaml" not in line] == plain


@pytest.mark.parametrize(
    ("encoder", "expected"),
    {
        "ctrgcn": {"lr": 0.1, "weight_decay": 4e-4, "epochs": 65, "milestones": [35, 55], "warmup_epochs": 5},
        "agcn": {"lr": 0.1, "weight_decay": 4e-4, "epochs": 65, "milestones": [35, 55], "warmup_epochs": 5},
        "hyperformer": {"lr": 0.025, "weight_decay": 4e-4, "epochs": 140, "milestones": [110, 120]},
        "blockgcn": {"lr": 0.05, "weight_decay": 4e-4, "epochs": 140, "milestones": [110, 120], "warmup_epochs": 5},
        "infogcn": {"lr": 0.1, "weight_decay": 5e-4, "epochs": 110, "milestones": [90, 100], "batch_size": 128},
        "hcn": {"lr": 1e-3, "weight_decay": 1e-4, "epochs": 400, "milestones": [], "decay": 0.99, "clip_norm": 32.0},
    }.items(),
)
@pytest.mark.parametrize("benchmark", ["ntu60-xsub", "ntu60-xview", "ntu120-xsub", "ntu120-xset"])
def test_the_published_recipes_on_ntu(benchmark, encoder, expected):
    """The recipe tables of the encoders' papers and repositories."""
    config = config_of(CONFIG / benchmark / f"{encoder}_joint.yaml")
    optim = flatten(config.optim)
    assert {key: optim[key] for key in expected} == expected
    assert optim["batch_size"] == expected.get("batch_size", 64)
    assert optim["gamma"] == (0.025 if (encoder, benchmark) == ("hyperformer", "ntu60-xview") else 0.1)
    assert config.data.window == (32 if encoder == "hcn" else 64)
    assert config.data.variant == ("centred" if encoder in ("hyperformer", "blockgcn") else "plain")


@pytest.mark.parametrize("path", ABLATIONS, ids=case)
def test_an_ablation_changes_only_csre(path):
    mine, reference = settings(path), settings(CONFIG / "ntu120-xsub" / "ctrgcn_csre_joint.yaml")
    changed = {key for key in reference if mine[key] != reference[key]}
    assert all(key.startswith("csre.") for key in changed)
    assert bool(changed) == (path.stem not in PUBLISHED_CHOICE)


def test_the_table_of_ablations_lists_every_file():
    listed = re.findall(r"`([\w.]+\.yaml)`", (CONFIG / "ablation" / "README.md").read_text())
    assert sorted(listed) == [path.name for path in ABLATIONS]


def test_fragments_are_valid_alone():
    for path in BASE.glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict)
        config_of(path)


def builds_the_same(path: Path) -> str:
    """Equal for configurations that differ only in the stream, in which clips of one data set train, or in what comes
    after the first step."""
    config = settings(path)
    for key in ("data.stream", "data.benchmark", "optim.epochs", "optim.milestones", "optim.gamma", "optim.batch_size"):
        del config[key]
    benchmark = BENCHMARKS[config_of(path).data.benchmark]
    return f"{benchmark.skeleton} {benchmark.num_classes} {config}"


DISTINCT = list({builds_the_same(path): path for path in (*RUNS, *ABLATIONS)}.values())


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The path of a store that fits a benchmark: a few clips of one and of two persons, made once."""
    folder = tmp_path_factory.mktemp("stores")

    @cache
    def path_of(name: str) -> Path:
        benchmark = BENCHMARKS[name]
        sides = ["train"] * BATCH + ["test"]
        numbers = [min(benchmark.split.values(side)) for side in sides]
        clips = [moving_people(number) for number in range(len(sides))]
        joints = get_skeleton(benchmark.skeleton).num_joints
        store = PackedStore.from_clips(
            [clip[:, : benchmark.num_persons, :joints] for clip in clips],
            labels=[0, 1, 1, 0],
            names=[f"clip {number}" for number in range(len(sides))],
            class_names=[f"class {number}" for number in range(benchmark.num_classes)],
            skeleton=benchmark.skeleton,
            metadata={benchmark.split.column: numbers},
        )
        store.save(folder / f"{name}.h5")
        return folder / f"{name}.h5"

    return path_of


def moving_people(number: int) -> np.ndarray:
    """Float32 (T, M, 25, 3): one person acts in even clips, two in odd ones."""
    rng = np.random.default_rng(number)
    people = (draw_person(rng), draw_person(rng))
    action = next(action for action in ACTIONS if bool(action.partner) == bool(number % 2))
    return record(perform(action, people, draw_take(people[0], 0.0, rng)), rng)


@pytest.mark.parametrize("path", DISTINCT, ids=case)
def test_one_training_step(path, packed):
    config = resolve(
        ["--config", str(path), "--data.path", str(packed(config_of(path).data.benchmark)), "--device", "cpu"]
    ).config
    run = build(config)
    run.encoder.train()
    before = [parameter.detach().clone() for parameter in run.encoder.parameters()]
    batch = run.train_clips.feed(torch.arange(BATCH if config.csre.enabled else 2), epoch=0)
    tried = attempt(run, batch, 1, 1)
    update(run, tried, 1, 1)

    assert torch.isfinite(tried.losses.total)
    branches = set(config.csre.branches) if config.csre.enabled else set()
    assert {name for name in tried.losses.terms if name in ("spatial", "temporal", "global")} == branches
    assert all(tried.losses.terms[branch] > 0 for branch in branches)
    assert any(not torch.equal(old, new) for old, new in zip(before, run.encoder.parameters(), strict=True))
    assert all(torch.isfinite(parameter).all() for parameter in run.encoder.parameters())
