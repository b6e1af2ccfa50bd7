"""The projection heads: what they pool, how large they are, how they start, what they refuse."""

import math

import pytest
import torch

from csre import CSREError, ProjectionHead, load_published_heads

SHAPES = {"ntu": (216, 16, 25), "nw-ucla": (216, 13, 20)}


@pytest.mark.parametrize(("shape", "count"), [(SHAPES["ntu"], 295_622), (SHAPES["nw-ucla"], 240_326)])
def test_parameter_count_of_both_branches(shape, count):
    heads = [ProjectionHead(branch, shape) for branch in ("spatial", "temporal")]
    assert sum(parameter.numel() for head in heads for parameter in head.parameters()) == count


@pytest.mark.parametrize(("branch", "positions"), [("spatial", 20), ("temporal", 13), ("global", 1)])
def test_what_a_branch_keeps(branch, positions):
    head = ProjectionHead(branch, SHAPES["nw-ucla"])
    assert head.project.in_features == 27 * positions
    assert head(torch.randn(3, 2, *SHAPES["nw-ucla"])).shape == (3, 256)


@pytest.mark.parametrize(("branch", "blind_axis"), [("spatial", 3), ("temporal", 4), ("global", 3), ("global", 4)])
def test_a_branch_does_not_see_the_order_of_what_it_pools(branch, blind_axis):
    torch.manual_seed(0)
    head, features = ProjectionHead(branch, (8, 5, 4), dim=6), torch.randn(2, 2, 8, 5, 4)
    torch.testing.assert_close(head(features.roll(1, dims=blind_axis)), head(features))
    if branch != "global":
        assert not torch.allclose(head(features.roll(1, dims=7 - blind_axis)), head(features))


def test_values_by_hand():
    """One channel in, one out: y = w * x + b per joint, then the projection, then the mean over persons."""
    head = ProjectionHead("spatial", (1, 2, 2), dim=1, reduction=1)
    with torch.no_grad():
        for parameter, value in zip(head.parameters(), ([[[2.0]]], [1.0], [[1.0, 10.0]], [0.5]), strict=True):
            parameter.copy_(torch.tensor(value))
    first_person = [[1.0, 2.0], [3.0, 4.0]]  # (T, V): the means over time are 2 and 3, reduced 5 and 7, projected 75.5
    features = torch.tensor([[[first_person], [[[0.0, 0.0], [0.0, 0.0]]]]])  # absent person: reduced 1 and 1, 11.5
    torch.testing.assert_close(head(features), torch.tensor([[(75.5 + 11.5) / 2]]))


def test_start_values():
    torch.manual_seed(0)
    head = ProjectionHead("spatial", SHAPES["ntu"])
    assert head.project.bias.count_nonzero() == 0
    assert head.project.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)
    bound = 1 / math.sqrt(216)
    for parameter in (head.reduce.weight, head.reduce.bias):
        assert 0.8 * bound < parameter.abs().max() <= bound


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spatail", (8, 5, 4)), "did you mean 'spatial'"),
        (("spatial", (8, 5)), "feature_shape is (8, 5)"),
        (("spatial", (8, 0, 4)), "feature_shape is (8, 0, 4)"),
        (("spatial", (4, 5, 4)), "only 4 channels"),
        (("spatial", (8, 5, 4), 0), "dim must be an integer >= 1, not 0"),
        (("spatial", (8, 5, 4), 6, -1), "reduction must be an integer >= 1, not -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(CSREError) as caught:
        ProjectionHead(*arguments)
    assert message in str(caught.value)


def test_published_heads_that_do_not_fit_are_refused():
    heads = {branch: ProjectionHead(branch, SHAPES["nw-ucla"]) for branch in ("spatial", "temporal")}
    with pytest.raises(CSREError, match=r"std\.conv1\.weight is not in the state dict"):
        load_published_heads(heads, {"conv1.weight": torch.zeros(27, 216, 1)})
    of_ntu = {
        f"std.{name}.{kind}": torch.zeros(shape)
        for name, width in (("conv1", 216), ("convs", 675), ("conv2", 216), ("convt", 432))
        for kind, shape in (
            ("weight", (27, width, 1) if width == 216 else (256, width)),
            ("bias", (27,) if width == 216 else (256,)),
        )
    }
    with pytest.raises(CSREError, match=r"std\.convs\.weight has shape \(256, 675\), the head needs \(256, 540\)"):
        load_published_heads(heads, of_ntu)
