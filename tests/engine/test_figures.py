"""Figures of a run: what is drawn, read back from the axes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from common.colours import GREY
from engine import figures
from engine.evaluate import Accuracy, measure


@pytest.fixture
def drawn(monkeypatch, coarse_figures) -> list:
    """The figures that were saved, kept open for the test."""
    kept: list = []
    monkeypatch.setattr(figures.plt, "close", kept.append)
    yield kept
    monkeypatch.undo()
    for figure in kept:
        figures.plt.close(figure)


def names(number: int) -> list[str]:
    return [f"class {index}" for index in range(number)]


def accuracy_of(confusion: np.ndarray) -> Accuracy:
    pairs = [(i, j) for (i, j), count in np.ndenumerate(confusion) for _ in range(int(count))]
    labels, predicted = np.array(pairs).T
    return measure(np.eye(len(confusion))[predicted], labels)


def many_classes() -> Accuracy:
    """120 classes of 10 clips; classes 5 and 77 are taken for each other, class 3 has no clips."""
    confusion = 10 * np.eye(120, dtype=int)
    confusion[5, [5, 77]], confusion[77, [77, 5]], confusion[3] = (4, 6), (7, 3), 0
    return accuracy_of(confusion)


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_worst_pairs_are_ranked_by_the_share_of_their_class():
    confusion = np.array([[8, 2, 0], [30, 70, 0], [0, 0, 0]])
    assert figures.worst_pairs(confusion) == [(1, 0, 30, 30.0), (0, 1, 2, 20.0)]
    assert figures.worst_pairs(confusion, number=1) == [(1, 0, 30, 30.0)]
    assert figures.worst_pairs(np.eye(3)) == []


def test_few_classes_are_shown_all_and_of_many_the_confused_ones():
    assert figures.confused_classes(np.eye(20)) == list(range(20))
    assert figures.confused_classes(many_classes().confusion) == [5, 77]


def test_confused_classes_come_to_lie_side_by_side():
    order = figures.cluster_order(many_classes().confusion).tolist()
    assert sorted(order) == list(range(120))
    assert abs(order.index(5) - order.index(77)) == 1


def test_confusion_of_few_classes_has_their_names_and_numbers(drawn, tmp_path):
    accuracy = accuracy_of(np.array([[9, 1, 0], [0, 0, 0], [0, 0, 4]]))
    figures.draw_confusion(accuracy, names(3), "title", tmp_path / "c.png")
    matrix, pairs, bar = drawn[0].axes
    assert [label.get_text() for label in matrix.get_yticklabels()] == names(3)
    assert texts(matrix) == ["90", "10", "100"]
    assert [text.split() for text in texts(pairs)] == [["10", "%", "(1)", "class", "0", "→", "class", "1"]]
    assert matrix.images[0].get_array().mask[1].all(), "a class without clips is not 0 %"
    assert matrix.images[0].norm(5) > 0.15, "a few percent off the diagonal must be seen"
    assert drawn[0].get_suptitle() == "title: 92.86 % of 14 clips"
    boxes = [drawn[0]._suptitle.get_window_extent(), bar.get_window_extent()]
    assert not boxes[0].overlaps(boxes[1])


def test_confusion_of_many_classes_names_the_confused_ones_alone(drawn, tmp_path):
    figures.draw_confusion(many_classes(), names(120), "title", tmp_path / "c.png")
    everything, block, pairs, *_ = drawn[0].axes
    assert everything.images[0].get_array().shape == (120, 120)
    assert "".join(label.get_text() for label in everything.get_yticklabels()) == ""
    assert {label.get_text() for label in block.get_yticklabels()} == {"class 5", "class 77"}
    assert [text.split("  ")[1] for text in texts(pairs)] == ["class 5 → class 77", "class 77 → class 5"]


def test_png_has_200_dpi_and_lies_beside_a_pdf(tmp_path):
    figures.draw_tsne(np.zeros((2, 2)), np.array([0, 1]), names(2), "", tmp_path / "t.png", [0, 1])
    with Image.open(tmp_path / "t.png") as image:
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")


def test_bars_run_from_the_worst_class_and_an_absent_class_has_none(drawn, tmp_path):
    accuracy = accuracy_of(np.array([[9, 1, 0], [0, 0, 0], [2, 0, 2]]))
    figures.draw_per_class(accuracy, names(3), "title", tmp_path / "p.png")
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == [50, 90, 0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["class 2", "class 0", "class 1"]
    assert texts(axes) == ["50", "90", "no test clips"]
    assert axes.get_legend() is None, "which would cover a bar"


def test_of_many_classes_the_worst_30_have_bars_and_all_a_profile(drawn, tmp_path):
    figures.draw_per_class(many_classes(), names(120), "title", tmp_path / "p.png")
    bars, profile = drawn[0].axes
    assert [label.get_text() for label in bars.get_yticklabels()][:2] == ["class 5", "class 77"]
    assert len(bars.patches) == 30
    assert profile.lines[0].get_ydata().tolist() == [40, 70, *[100] * 117]


def test_every_loss_has_a_scale_of_its_own(drawn, tmp_path):
    losses = {"cross_entropy": 2.0, "conditional_latent": 0.1, "spatial": 900.0, "someone's": 3.0}
    train = [
        {"kind": "train", "at": e, "epoch": e, **losses, "loss": 905.1, "top1": 10.0, "active_spatial": 1.0, "lr": 0.1}
        for e in (1, 2)
    ]
    test = [{"kind": "test", "at": 1, "epoch": 1, "top1": 20.0}]
    figures.draw_curves([*train, *test, {"kind": "step", "epoch": 1, "step": 1}], "title", tmp_path / "c.png")
    panels = {axes.get_title("left"): axes for axes in drawn[0].axes if axes.lines}
    expected = ["cross entropy", "conditional latent", "spatial", "someone's", "sum of the losses"]
    assert list(panels) == [*expected, "top-1 accuracy [%]", "learning rate"]
    assert panels["spatial"].lines[0].get_ydata().tolist() == [900, 900]
    assert [len(line.get_xdata()) for line in panels["top-1 accuracy [%]"].lines] == [2, 1]


def test_a_loss_stands_between_its_bounds_and_similarities_have_a_panel(drawn, tmp_path):
    metrics = {"bound_spatial_lower": 4.4, "bound_spatial_upper": 9.4, "similarity_spatial_positives": 0.3}
    metrics |= {"similarity_spatial_hard_negatives": 0.6, "active_spatial": 1.0}
    losses = {"cross_entropy": 2.0, "spatial": 6.9, "loss": 8.9}
    train = [{"kind": "train", "at": e, "epoch": e, **losses, "top1": 10.0, **metrics, "lr": 0.1} for e in (1, 2)]
    figures.draw_curves(train, "title", tmp_path / "c.png")
    panels = {axes.get_title("left"): axes for axes in drawn[0].axes if axes.lines}
    expected = ["cross entropy", "spatial", "similarity, spatial", "sum of the losses", "top-1 accuracy [%]"]
    assert list(panels) == [*expected, "learning rate"]
    assert [line.get_ydata().tolist() for line in panels["spatial"].lines] == [[6.9] * 2, [4.4] * 2, [9.4] * 2]
    assert [text.get_text() for text in panels["spatial"].get_legend().texts] == ["lower bound", "upper bound"]
    assert [line.get_label() for line in panels["similarity, spatial"].lines] == ["positives", "hard negatives"]


def test_gradients_are_means_over_the_logged_steps_of_an_epoch(drawn, tmp_path):
    norms = ((1, 1.0, 4.0), (1, 3.0, 8.0), (3, 0.5, 2.0))
    steps = [{"kind": "step", "epoch": e, "gradient_cross_entropy": a, "gradient_spatial": b} for e, a, b in norms]
    train = [{"kind": "train", "epoch": e, "cross_entropy": 2.0, "loss": 2.0, "lr": 0.1} for e in (1, 2, 3)]
    figures.draw_curves([*train, *steps, {"kind": "step", "epoch": 2, "loss": 2.0}], "title", tmp_path / "c.png")
    panels = {axes.get_title("left"): axes for axes in drawn[0].axes if axes.lines}
    axes = panels["gradient norm at the last map"]
    lines = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines}
    assert lines == {"cross entropy": ([1, 3], [2.0, 0.5]), "spatial": ([1, 3], [6.0, 2.0])}
    assert axes.get_yscale() == "log"


def test_a_gradient_that_some_steps_lack_is_the_mean_of_the_others():
    steps = [{"epoch": 1, "gradient_a": 2.0}, {"epoch": 1, "gradient_a": 4.0, "gradient_b": 1.0}]
    assert figures.gradients_of(steps) == [{"epoch": 1, "gradient_a": 3.0, "gradient_b": 1.0}]


def test_a_single_epoch_is_a_point_at_a_whole_number(drawn, tmp_path):
    record = {"kind": "train", "at": 1, "epoch": 1, "cross_entropy": 2.0, "loss": 2.0, "top1": 10.0, "lr": 0.1}
    figures.draw_curves([record], "title", tmp_path / "c.png")
    axes = drawn[0].axes[0]
    assert axes.lines[0].get_marker() == "o"
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_an_epoch_without_a_counted_step_leaves_a_gap(drawn, tmp_path):
    empty = {"kind": "train", "at": 1, "epoch": 1, "lr": 0.1}
    figures.draw_curves([empty], "title", tmp_path / "c.png")
    assert [axes.get_title("left") for axes in drawn[0].axes] == ["top-1 accuracy [%]", "learning rate"]


def test_no_two_classes_of_a_tsne_look_alike_and_others_are_grey(drawn, tmp_path):
    labels = np.arange(120)
    figures.draw_tsne(
        np.random.default_rng(0).normal(size=(120, 2)), labels, names(120), "", tmp_path / "t.png", range(20)
    )
    grey, *chosen = drawn[0].axes[0].collections
    assert len(grey.get_offsets()) == 100
    assert tuple(grey.get_facecolor()[0][:3]) == pytest.approx(figures.mpl.colors.to_rgb(GREY))
    looks = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in chosen}
    assert len(looks) == 20
    legend = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert legend == ["other classes", *names(20)]


def test_tensorboard_gets_the_pictures(tmp_path):
    picture = tmp_path / "curves.png"
    Image.new("RGB", (30, 20)).save(picture)
    figures.add_to_tensorboard(tmp_path, tmp_path / "tensorboard", step=7)
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = list(EventFileLoader(str(file)).Load())
    (value,) = events[-1].summary.value
    assert (events[-1].step, value.tag) == (7, "figures/curves")
    assert picture.read_bytes() in value.tensor.string_val
