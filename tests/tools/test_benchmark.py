"""The benchmarks run and report what they promise; how fast anything is, is not a test's business."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from feeders import Feeder
from model import fitting_window, list_encoders
from tools.benchmark import encoder as benchmark_encoder
from tools.benchmark import fused as benchmark_fused
from tools.benchmark import step
from tools.benchmark.command import main
from tools.benchmark.encoder import CLIPS, count_macs, count_parameters, example

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def results_of(capsys):
    """Runs a command line; the numbers of its last line and everything that it prints."""

    def run(*words):
        assert main([*words, "--device", "cpu"]) == 0, capsys.readouterr().err
        output = capsys.readouterr().out
        return json.loads(output.splitlines()[-1]), output

    return run


def test_csre_benchmark_prints_both_comparisons(results_of):
    words = ["csre", "--rows", "400", "--classes", "4", "--clips", "2", "--seconds", "0.01"]
    results, output = results_of(*words)
    assert results["speed_up"] == pytest.approx(results["plain_step_ms"] / results["csre_step_ms"])
    assert results["training_step_ms"] > 0
    assert "times as fast as the plain loop" in output


def test_evaluation_benchmark_prints_the_ratio(results_of):
    words = ["--encoders", "hcn", "--batch", "5", "--rounds", "1", "--seconds", "0"]
    results, output = results_of("evaluation", *words)
    row = results["encoders"]["hcn"]
    assert results["absent"] == 4
    assert row["ratio"] == pytest.approx(row["encoder_ms"] / row["evaluation_ms"])
    assert f"{row['ratio']:.2f}" in output


@pytest.mark.parametrize(("names", "amp"), [(["hcn", "tacnn"], False), (["hcn"], True)])
def test_encoder_benchmark_prints_a_row_for_each(results_of, monkeypatch, names, amp):
    monkeypatch.setitem(benchmark_encoder.PRODUCT_SIZE, "cpu", 128)
    words = ["--encoders", *names, "--benchmark", "nw-ucla", "--window", "16", "--batch", "2"]
    words += ["--rounds", "1", "--seconds", "0", *(["--amp"] if amp else [])]
    results, output = results_of("encoder", *words)
    assert (results["benchmark"], results["window"], results["batch"], results["amp"]) == ("nw-ucla", 16, 2, amp)
    assert list(results["encoders"]) == names
    rate = results["product_flops_per_second"]
    for name, row in results["encoders"].items():
        encoder = CLIPS["nw-ucla"].build(name, window=16)
        assert row["parameters"] == sum(p.numel() for p in encoder.parameters())
        for what, passes in (("forward", 1), ("training", 3)):
            operations = 2 * passes * row["macs"] * row[f"{what}_clips_per_second"]
            assert row[f"{what}_fraction"] == pytest.approx(operations / rate)
            assert row[f"{what}_peak_bytes"] > 4 * row["parameters"]
        # A training step holds the gradients besides.
        assert row["training_peak_bytes"] > 8 * row["parameters"]
        assert f"\n{name} " in output


def test_fused_benchmark_prints_a_ratio_for_every_block(results_of, monkeypatch):
    titles = ["2S-AGCN, three subsets", "the same temporal branches, stride 2"]
    monkeypatch.setattr(benchmark_fused, "FUSIONS", {title: benchmark_fused.FUSIONS[title] for title in titles})
    results, output = results_of("fused", "--batch", "1", "--rounds", "1", "--seconds", "0")
    assert {title: list(blocks) for title, blocks in results["plain_over_fused"].items()} == {
        titles[0]: ["l2", "l6", "l9"],
        titles[1]: ["l5", "l8"],
    }
    table = output.splitlines()[:-1]
    for title, blocks in results["plain_over_fused"].items():
        assert min(blocks.values()) > 0
        assert len([line for line in table if title in line]) == len(blocks)


@pytest.mark.parametrize(("head", "amp"), [("csre", False), ("csre", True), ("fr_head", False)])
def test_step_benchmark_compares_steps_with_and_without_a_head(results_of, head, amp):
    encoder = "hcn" if head == "csre" else "stgcn"
    words = ["--encoders", encoder, "--head", head, "--batch", "2", "--rows", "12", "--rounds", "1", "--seconds", "0"]
    results, output = results_of("step", *words, *["--amp"] * amp)
    row = results["encoders"][encoder]
    assert (row["batch"], row["rows"]) == (2, 12)
    assert row["ratio"] == pytest.approx(row["ms"][1] / row["ms"][0])
    assert [2e3 / time for time in row["ms"]] == pytest.approx(row["clips_per_second"])
    assert row["peak_bytes"][1] > row["peak_bytes"][0] > 0
    assert f"\n{encoder} " in output
    assert "min/epoch" not in output


def test_step_benchmark_shows_minutes_of_an_epoch_beside_the_papers(results_of, monkeypatch):
    monkeypatch.setattr(step, "PAPER_COST", {("hcn", ""): (1.0, 10.0), ("hcn", "csre"): (1.0, 15.0)})
    words = ["--benchmark", "ntu", "--encoders", "hcn", "--batch", "2", "--rows", "12", "--rounds", "1"]
    results, output = results_of("step", *words, "--seconds", "0")
    row = results["encoders"]["hcn"]
    assert [63_026 / pace / 60 for pace in row["clips_per_second"]] == pytest.approx(row["minutes"])
    assert (row["paper_ratio"], row["paper_minutes"]) == (1.5, [10.0, 15.0])
    assert "10.0 -> 15.0" in output


def test_step_benchmark_names_an_encoder_that_cannot_have_the_head(results_of):
    words = ["--encoders", "hcn", "--head", "skeleton_gcl", "--rows", "12"]
    results, output = results_of("step", *words)
    assert results["encoders"] == {}
    assert "skeleton_gcl: SkeletonGCLHead reads relations" in output


def test_step_benchmark_refuses_a_batch_larger_than_an_epoch(capsys):
    assert main(["step", "--device", "cpu", "--encoders", "hcn", "--rows", "12"]) == 2
    assert "optim.batch_size: 64 is more than the 12 training clips" in capsys.readouterr().err


def steady_run(encoder, head, *words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    step.add_arguments(parser)
    return step.build_run(encoder, head, parser.parse_args(["--head", head or "csre", *words]))


@pytest.mark.parametrize(
    ("benchmark_name", "encoder", "batch"),
    [
        ("nw-ucla", "ctrgcn", 16),
        ("nw-ucla", "hcn", 64),
        ("nw-ucla", "skateformer", 128),
        ("ntu", "ctrgcn", 64),
        ("ntu", "infogcn", 128),
    ],
)
def test_step_benchmark_takes_the_batch_of_the_recipe(benchmark_name, encoder, batch):
    run = steady_run(encoder, "csre", "--benchmark", benchmark_name, "--rows", "12")
    assert run.config.optim.batch_size == batch
    assert list(run.heads) == ["csre"]


def test_step_benchmark_takes_optimiser_and_precision_from_recipe_and_words():
    run = steady_run("hcn", "", "--rows", "12", "--amp", "--matmul", "high", "--compile")
    assert isinstance(run.optimizer, torch.optim.Adam)
    assert (run.config.optim.clip_norm, run.config.optim.amp, run.config.optim.matmul) == (32.0, "bf16", "high")
    assert run.config.compile
    assert run.heads == {}


@pytest.mark.parametrize(
    ("benchmark_name", "encoder", "rows"),
    [("nw-ucla", "hcn", 5_100), ("nw-ucla", "skateformer", 10_200), ("ntu", "hcn", 63_026)],
)
def test_step_benchmark_has_an_epoch_of_the_real_size(monkeypatch, benchmark_name, encoder, rows):
    monkeypatch.setattr(step, "CLIPS", 12)
    run = steady_run(encoder, "", "--benchmark", benchmark_name)
    assert len(run.train_clips) == pytest.approx(rows, rel=0.01)


@pytest.mark.parametrize("section", ["csre", "skeleton_gcl"])
def test_step_benchmark_fills_banks(section):
    head = steady_run("ctrgcn", section, "--rows", "24").heads[section]
    written = [value for name, value in head.state_dict().items() if name.endswith("written")]
    assert written
    assert all(value.all() for value in written)


def test_step_benchmark_takes_whole_steps(monkeypatch):
    """Each draws a batch from the feeder, and updates encoder and head; the one before is resolved."""
    run = steady_run("hcn", "csre", "--rows", "12", "--batch", "4")
    trained = {**dict(run.encoder.named_parameters()), **dict(run.heads["csre"].trained.named_parameters())}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    fed, resolved, feed, resolve_step = [], [], Feeder.feed, step.resolve_step
    monkeypatch.setattr(Feeder, "feed", lambda self, clips, *rest: fed.append(clips) or feed(self, clips, *rest))
    monkeypatch.setattr(
        step, "resolve_step", lambda run, log, done: resolved.append(done) or resolve_step(run, log, done)
    )
    steps = step.training_steps(run)
    for taken in range(1, 5):
        next(steps)
        assert len(fed) == taken
    assert sorted(torch.cat(fed[:3]).tolist()) == list(range(12))
    assert [done.step.moment[:2] for done in resolved] == [(step.EPOCH, 1), (step.EPOCH, 2), (step.EPOCH, 3)]
    assert all(not torch.equal(parameter, before[name]) for name, parameter in trained.items())


@pytest.mark.parametrize(("benchmark_name", "frames"), [("ntu", 80), ("nw-ucla", 40)])
def test_step_benchmark_generates_clips_of_real_lengths(benchmark_name, frames):
    store = step.generated_store(step.BENCHMARKS[benchmark_name], 24)
    assert float(store.frames.float().mean()) == pytest.approx(frames, rel=0.2)
    assert len(store.frames.unique()) > 10


def test_it_runs_as_a_file_and_refuses_in_one_line():
    words = ["--threads", "1", "encoder", "--device", "cpu", "--encoders", "hcm"]
    done = subprocess.run(
        [sys.executable, "tools/benchmark.py", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "CPU, 1 threads" in done.stdout
    assert "encoder 'hcm' is unknown (did you mean 'hcn' or 'hdgcn'?)" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_encoder_that_cannot_be_built_is_refused(capsys):
    assert main(["encoder", "--device", "cpu", "--encoders", "hcn", "--window", "8"]) == 2
    assert "window: 8 frames halved four times" in capsys.readouterr().err


def test_a_batch_that_an_encoder_cannot_train_on_is_refused(capsys, monkeypatch):
    monkeypatch.setitem(benchmark_encoder.PRODUCT_SIZE, "cpu", 128)
    words = ["--device", "cpu", "--benchmark", "nw-ucla", "--window", "16", "--encoders", "blockgcn", "--batch", "1"]
    assert main(["encoder", *words]) == 2
    error = capsys.readouterr().err
    assert "BlockGCN: a batch of one clip of one person cannot be trained on" in error
    assert error.endswith("; here: --batch 2\n")


@pytest.mark.parametrize("words", [["--device", "cuda", "fused"], ["encoder", "--device", "cuda"]])
def test_a_missing_gpu_is_refused(capsys, monkeypatch, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(words) == 2
    assert capsys.readouterr().err == (
        "tools/benchmark.py: --device cuda: torch finds no GPU here; take --device cpu\n"
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["encoder", "--batch", "0"], "argument --batch: must be an integer >= 1, got '0'"),
        (["--threads", "none", "fused"], "argument --threads: must be an integer >= 1, got 'none'"),
        (["encoder", "--seconds", "-1"], "argument --seconds: must be a number of seconds >= 0, got '-1'"),
        (["fused", "--seconds", "inf"], "argument --seconds: must be a number of seconds >= 0, got 'inf'"),
        (["csre", "--seconds", "long"], "argument --seconds: must be a number of seconds >= 0, got 'long'"),
        (["csre", "--rows", "0"], "argument --rows: must be an integer >= 1, got '0'"),
        (["csre", "--classes", "0"], "argument --classes: must be an integer >= 1, got '0'"),
        (["csre", "--clips", "-1"], "argument --clips: must be an integer >= 1, got '-1'"),
        (["csre", "--rows", "3", "--clips", "4"], "--rows 3: fewer than the 4 clips of a batch; raise it"),
        (["evaluation", "--absent", "1.5"], "argument --absent: must be a number from 0 to 1, got '1.5'"),
        (["evaluation", "--absent", "nan"], "argument --absent: must be a number from 0 to 1, got 'nan'"),
        (["encoder", "--bach", "2"], "unknown option --bach"),
        (["encodr"], "invalid choice: 'encodr'"),
        ([], "the following arguments are required: subject"),
    ],
)
def test_words_that_cannot_be_used_are_refused_in_one_line(capsys, words, reason):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("tools/benchmark.py: ")
    assert reason in error
    assert error.count("\n") == 1


def test_macs_are_counted_per_clip_in_evaluation():
    encoder = CLIPS["nw-ucla"].build("hcn")
    assert encoder.training
    # Position and motion, 20 joints and 52 frames each: conv1 3 -> 64 (1x1), conv2 64 -> 52 (3 frames).
    points = 2 * 20 * 52 * (3 * 64 + 64 * 52 * 3)
    counted = count_macs(encoder)
    assert encoder.training, "left as it was"
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for stream in encoder.points.values():
            stream(torch.randn(1, 3, 20, 52))
    assert counter.get_total_flops() == 2 * points
    # conv3 20 -> 32 and conv4 32 -> 64 of both streams, conv5 128 -> 128, conv6 128 -> 256, all 3x3; two linear layers.
    convolutions = 2 * (52 * 52 * 20 * 32 + 26 * 26 * 32 * 64) + 13 * 13 * 128 * 128 + 6 * 6 * 128 * 256
    assert counted == points + 9 * convolutions + 256 * 9 * 512 + 512 * 10


def test_frozen_parameters_do_not_count():
    encoder = CLIPS["nw-ucla"].build("hcn")
    last = encoder.get_submodule("fc.output")
    assert isinstance(last, nn.Linear)
    before = count_parameters(encoder)
    last.bias.requires_grad_(False)
    assert before - count_parameters(encoder) == 10


@pytest.mark.parametrize("benchmark_name", list(CLIPS))
def test_every_encoder_takes_the_clips(benchmark_name):
    clips = CLIPS[benchmark_name]
    for name in list_encoders():
        encoder = clips.build(name)
        frames = fitting_window(name, clips.window)
        assert example(encoder, 2).shape == (2, 3, frames, encoder.skeleton.num_joints, clips.num_persons)
