"""Every configuration in the tree: what its name promises, and one real training step of what it builds."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import resolve
from engine.evaluate import stream_set
from engine.experiment import Experiment, build
from engine.schema import RunConfig, flatten
from engine.train import forward_backward, update
from feeders import BENCHMARKS, STREAMS, PackedStore
from feeders.demo.actions import ACTIONS
from feeders.demo.generator import perform, record
from feeders.demo.people import draw_person, draw_take
from graph import get_skeleton
from heads import Moment
from model import list_encoders

CONFIG = Path(__file__).resolve().parents[2] / "config"
FOLDERS = {name.partition("-fold")[0] for name in BENCHMARKS}
"""One for every benchmark; the folds of a data set share one."""
RUNS = sorted(path for folder in FOLDERS for path in (CONFIG / folder).glob("*.yaml"))
FRAGMENTS = sorted((*(CONFIG / "base").glob("*.yaml"), *(CONFIG / "ablation").glob("*.yaml")))
PUBLISHED = ("demo", "nw-ucla", "ntu60-xsub", "ntu60-xview", "ntu120-xsub", "ntu120-xset")
"""The benchmarks of the CSRE paper and the demo: every encoder is ready to train on them."""
NTU = tuple(name for name in PUBLISHED if name.startswith("ntu"))
TABLE_5 = {
    "none": None,
    "spatial": ["spatial"],
    "temporal": ["temporal"],
    "global": ["global"],
    "spatial_temporal_global": ["spatial", "temporal", "global"],
    "spatial_temporal": ["spatial", "temporal"],
}
TABLE_6 = (
    *(("random", "random"), ("random", "hard"), ("random", "both")),
    *(("hard", "random"), ("hard", "hard"), ("hard", "both"), ("both", "both")),
)
"""The rows of the CSRE paper: branches; positives and negatives."""
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


def test_the_folders_are_the_benchmarks_and_the_fragments():
    assert {folder.name for folder in CONFIG.iterdir()} == {"base", "ablation", "sweep", *FOLDERS}


@pytest.mark.parametrize("benchmark", PUBLISHED)
def test_every_encoder_has_a_file_with_and_without_csre(benchmark):
    expected = {f"{encoder}{csre}_joint" for encoder, csre in product(list_encoders(), ("_csre", ""))}
    assert expected <= {path.stem for path in (CONFIG / benchmark).iterdir()}


@pytest.mark.parametrize("benchmark", ["msr-action3d", "utkinect", "sbu"])
def test_the_small_benchmarks_have_two_encoders_with_and_without_csre(benchmark):
    expected = {f"{encoder}{csre}_joint" for encoder in ("hcn", "ctrgcn") for csre in ("_csre", "")}
    assert {path.stem for path in (CONFIG / benchmark).iterdir()} == expected


@pytest.mark.parametrize("path", RUNS, ids=case)
def test_a_configuration_is_what_its_name_says(path):
    config = config_of(path)
    assert config.name == path.stem
    assert config.data.benchmark.partition("-fold")[0] == path.parent.name
    assert path.stem.endswith(f"_{config.data.stream}")
    assert path.stem.startswith(config.model.name)
    assert ("_csre_" in path.stem) == config.csre.enabled


@pytest.mark.parametrize("path", [path for path in RUNS if "_csre_" in path.stem], ids=case)
def test_a_csre_run_differs_from_its_baseline_in_csre_alone(path):
    baseline = path.with_name(path.name.replace("_csre_", "_"))
    mine, plain = settings(path), settings(baseline)
    changed = {key for key in mine if mine[key] != plain[key]}
    if case(path) == "ntu60-xview/hyperformer_csre_joint":
        assert (mine["optim.lr"], plain["optim.lr"]) == (0.01, 0.025)  # of the authors' files for this protocol
        changed.remove("optim.lr")
    assert changed == {"csre.enabled"}


RIVALS = {
    "ntu120-xsub/ctrgcn_fr_head_joint": {
        "fr_head.enabled": True,
        "fr_head.version": "true_positives",
        "data.bone_scale": 0.2,
        "optim.epochs": 80,
    },
    "ntu120-xsub/ctrgcn_skeleton_gcl_joint": {"skeleton_gcl.enabled": True},
    "nw-ucla/ctrgcn_fr_head_joint": {"fr_head.enabled": True},
    "nw-ucla/ctrgcn_skeleton_gcl_joint": {"skeleton_gcl.enabled": True},
}
"""The released recipes of other training heads: what they change in CTR-GCN's."""


@pytest.mark.parametrize("name", RIVALS)
def test_another_head_differs_from_its_baseline_as_released(name):
    path = CONFIG / f"{name}.yaml"
    mine, plain = settings(path), settings(path.with_name("ctrgcn_joint.yaml"))
    assert {key: mine[key] for key in mine if mine[key] != plain[key]} == RIVALS[name]
    assert (mine["fr_head.weight"], mine["skeleton_gcl.temperature"], mine["skeleton_gcl.projection"]) == (
        *(0.1, 0.8, "frozen"),
    )


@pytest.mark.parametrize(
    ("encoder", "expected"),
    {
        "ctrgcn": {"lr": 0.1, "weight_decay": 4e-4, "epochs": 65, "milestones": [35, 55], "warmup_epochs": 5},
        "agcn": {"lr": 0.1, "weight_decay": 4e-4, "epochs": 65, "milestones": [35, 55], "warmup_epochs": 5},
        "hyperformer": {"lr": 0.025, "weight_decay": 4e-4, "epochs": 140, "milestones": [110, 120]},
        "blockgcn": {"lr": 0.05, "weight_decay": 4e-4, "epochs": 140, "milestones": [110, 120], "warmup_epochs": 5},
        "infogcn": {"lr": 0.1, "weight_decay": 5e-4, "epochs": 110, "milestones": [90, 100], "batch_size": 128},
        "hdgcn": {"lr": 0.1, "weight_decay": 4e-4, "epochs": 90, "milestones": [], "cosine": 1e-3, "warmup_epochs": 5},
        "hypergcn": {"lr": 0.05, "weight_decay": 4e-4, "epochs": 140, "milestones": [110, 120], "warmup_epochs": 5},
        "skateformer": {
            "name": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.1,
            "epochs": 500,
            "milestones": [],
            "cosine": 0.01,
            "warmup_epochs": 25,
            "batch_size": 128,
            "clip_norm": 1.0,
        },
        "hcn": {"lr": 1e-3, "weight_decay": 1e-4, "epochs": 400, "milestones": [], "decay": 0.99, "clip_norm": 32.0},
    }.items(),
)
@pytest.mark.parametrize("benchmark", NTU)
def test_the_published_recipes_on_ntu(benchmark, encoder, expected):
    """The recipe tables of the encoders' papers and repositories."""
    config = config_of(CONFIG / benchmark / f"{encoder}_joint.yaml")
    optim = flatten(config.optim)
    assert {key: optim[key] for key in expected} == expected
    assert optim["batch_size"] == expected.get("batch_size", 64)
    assert optim["gamma"] == (0.025 if (encoder, benchmark) == ("hyperformer", "ntu60-xview") else 0.1)
    assert config.data.window == (32 if encoder == "hcn" else 64)
    assert config.data.variant == ("centred" if encoder in ("hyperformer", "blockgcn", "hypergcn") else "plain")


@pytest.mark.parametrize("path", [path for path in RUNS if path.stem.endswith("_joint")], ids=case)
def test_the_streams_of_a_file_are_runs_of_one_set(path):
    own = path.with_name(path.name.replace("_joint", "_bone"))
    runs = []
    for stream in STREAMS:
        file = own if stream.startswith("bone") and own.exists() else path
        runs.append(resolve(["--config", str(file), "--data.stream", stream]).config)
    assert [run.name for run in runs] == [path.stem.removesuffix("joint") + stream for stream in STREAMS]
    assert len({stream_set(flatten(run)) for run in runs}) == 1


def test_a_set_is_known_by_what_its_runs_compute():
    def of(*words):
        return stream_set(flatten(resolve(["--config", str(CONFIG / "demo" / "hcn_joint.yaml"), *words]).config))

    plain = of()
    assert of("--acl.memory", "7", "--csre.temperature", "0.5", "--device", "cpu") == plain  # heads that are off
    assert of("--optim.lr", "0.5") != plain
    assert of("--csre.enabled", "true") != plain
    settings = flatten(resolve(["--config", str(CONFIG / "demo" / "hcn_joint.yaml")]).config)
    del settings["optim.ema_decay"]
    assert stream_set(settings) == plain  # of an earlier version, which lacked an option


@pytest.mark.parametrize("benchmark", ["ntu120-xsub", "nw-ucla", "demo"])
@pytest.mark.parametrize("row", TABLE_5)
def test_the_rows_of_table_5(benchmark, row):
    csre = over(benchmark, f"branches_{row}").csre
    assert (csre.branches if csre.enabled else None) == TABLE_5[row]


@pytest.mark.parametrize("benchmark", ["ntu120-xsub", "nw-ucla", "demo"])
@pytest.mark.parametrize(("positives", "negatives"), TABLE_6)
def test_the_rows_of_table_6(benchmark, positives, negatives):
    csre = over(benchmark, f"positives_{positives}_negatives_{negatives}").csre
    kinds = {"hard": (True, False), "random": (False, True), "both": (True, True)}
    assert csre.enabled
    assert (csre.positives.hard, csre.positives.random) == tuple(128 * used for used in kinds[positives])
    assert (csre.negatives.hard, csre.negatives.random) == tuple(512 * used for used in kinds[negatives])


def test_an_ablation_says_whether_it_is_a_row_of_the_paper():
    rows = {f"branches_{row}" for row in TABLE_5} | {f"positives_{one}_negatives_{other}" for one, other in TABLE_6}
    readme = (CONFIG / "ablation" / "README.md").read_text()
    for path in (CONFIG / "ablation").glob("*.yaml"):
        assert path.read_text().startswith("# Paper, Table ") == (path.stem in rows)
        line = next(line for line in readme.splitlines() if f"`{path.name}`" in line)
        assert (line.rstrip("| ").rpartition("| ")[2].startswith("yes")) == (path.stem in rows)
    assert rows <= {path.stem for path in (CONFIG / "ablation").glob("*.yaml")}


@pytest.mark.parametrize("path", RUNS, ids=case)
def test_skeleton_gcl_takes_as_many_rows_as_csre(path):
    """So that it has enough of them, too, on data sets with few clips of a class."""
    config = config_of(path)
    assert config.skeleton_gcl.positives == config.csre.positives
    assert config.skeleton_gcl.negatives == config.csre.negatives


def over(benchmark: str, ablation: str) -> RunConfig:
    """CTR-GCN + CSRE with an ablation laid over it."""
    files = (CONFIG / benchmark / "ctrgcn_csre_joint.yaml", CONFIG / "ablation" / f"{ablation}.yaml")
    config = resolve([word for file in files for word in ("--config", str(file))]).config
    assert config.name == f"ctrgcn_csre_joint+{ablation}"
    return config


@pytest.mark.parametrize("path", RUNS, ids=case)
def test_the_released_reading_goes_on_top_of_any_run(path):
    config = resolve(["--config", str(path), "--config", str(CONFIG / "base" / "csre_released.yaml")]).config
    assert (config.csre.enabled, config.csre.denominator, config.csre.weight) == (True, "split", 0.5)
    assert (config.csre.own_row, config.csre.too_few, config.csre.temperature) == ("include", "skip", 0.8)
    assert config.name == f"{path.stem}+csre_released"


@pytest.mark.parametrize("path", FRAGMENTS, ids=case)
def test_fragments_are_valid_alone(path):
    config_of(path)


def builds_the_same(path: Path) -> str:
    """Equal for configurations that differ only in the stream, in which clips of one data set train, or in what comes
    after the first step."""
    config = settings(path)
    for key in (
        "seed",
        "data.stream",
        "data.benchmark",
        "optim.epochs",
        "optim.milestones",
        "optim.gamma",
        "optim.batch_size",
    ):
        del config[key]
    benchmark = BENCHMARKS[config_of(path).data.benchmark]
    return f"{benchmark.skeleton} {benchmark.num_classes} {config}"


DISTINCT = list({builds_the_same(path): path for path in RUNS}.values())


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


def steps_quickly(path: Path) -> bool:
    """Slim encoders, those that are quick at any width, and all others on the smallest clips, with a head."""
    with_head = path.stem != f"{config_of(path).model.name}_{config_of(path).data.stream}"
    quick = path.parent.name.startswith("demo") or config_of(path).model.name == "hcn"
    return quick or (path.parent.name == "nw-ucla" and with_head)


def built(path: Path, packed) -> Experiment:
    words = ["--data.path", str(packed(config_of(path).data.benchmark)), "--device", "cpu"]
    return build(resolve(["--config", str(path), *words]).config)


@pytest.mark.parametrize("path", [path for path in DISTINCT if not steps_quickly(path)], ids=case)
def test_an_experiment_can_be_built(path, packed):
    assert built(path, packed).train_clips.feed(torch.arange(2), epoch=0).x.isfinite().all()


@pytest.mark.parametrize(
    "path", [path if steps_quickly(path) else pytest.param(path, marks=pytest.mark.slow) for path in DISTINCT], ids=case
)
def test_one_training_step(path, packed):
    run = built(path, packed)
    config = run.config
    run.encoder.train()
    before = [parameter.detach().clone() for parameter in run.encoder.parameters()]
    batch = run.train_clips.feed(torch.arange(BATCH if config.csre.enabled else 2), epoch=0)
    step = forward_backward(run, batch, Moment(epoch=1, step=1, steps=1))
    update(run, step)

    assert torch.isfinite(step.loss)
    branches = set(config.csre.branches) if config.csre.enabled else set()
    assert {name for name in step.losses if name in ("spatial", "temporal", "global")} == branches
    assert all(step.losses[branch] > 0 for branch in branches)
    assert any(not torch.equal(old, new) for old, new in zip(before, run.encoder.parameters(), strict=True))
    assert all(torch.isfinite(parameter).all() for parameter in run.encoder.parameters())


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_authors_trained_in_mixed_precision_may_use_tf32(path):
    optim = config_of(path).optim
    assert (optim.matmul == "high") == (optim.published_amp != "off")
