"""The topological encoding: persistence against Kruskal's algorithm, every step against the fixtures, the choices."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from model import EncoderError
from model.topology import DynamicTopology, StructureElements, persistence_deaths, point_distances
from tests.model.parity import SKELETONS, Fixture, largest_difference


def kruskal(distances):
    """Edge lengths of a minimum spanning tree, ascending."""
    points = range(len(distances))
    group = list(points)
    lengths = []
    for length, v, w in sorted((distances[v][w].item(), v, w) for v in points for w in points if v < w):
        if group[v] != group[w]:
            lengths.append(length)
            group = [group[v] if other == group[w] else other for other in group]
    return lengths


def joints_like(clips, persons=2, num_joints=20, seed=0):
    return torch.randn(clips, 3, 8, num_joints, persons, generator=torch.Generator().manual_seed(seed))


def rows_one_by_one(topology, joints, *, whole_batch):
    """(N, S): the definition, clip by clip."""
    distances = [point_distances(clip.mean(dim=(1, 3)).T.unsqueeze(0))[0] for clip in joints]
    rows = []
    for clip in distances:
        scaled = clip / (max(other.max() for other in distances) if whole_batch else clip.max())
        deaths = kruskal(torch.stack([(scaled - row).square().sum(dim=1).sqrt() for row in scaled]))
        rows.append(topology.elements(torch.tensor([deaths]))[0])
    return torch.stack(rows)


@pytest.fixture(params=list(SKELETONS))
def fixture(request, shared):
    return Fixture(shared / "parity" / "encoders" / f"blockgcn_{request.param}.npz", "blockgcn", request.param)


@pytest.mark.parametrize("num_points", [2, 3, 5, 9, 20, 25, 33])
def test_bars_die_at_the_edges_of_a_minimum_spanning_tree(num_points):
    distances = point_distances(torch.randn(6, num_points, 3, generator=torch.Generator().manual_seed(num_points)))
    deaths = persistence_deaths(distances)
    assert deaths.shape == (6, num_points - 1)
    for clip, expected in zip(deaths, distances, strict=True):
        assert clip.sort().values.tolist() == kruskal(expected)


def test_bars_of_a_chain_in_any_order_of_its_points():
    """Neighbours are 1, 2, 4, 8, ... apart, so nothing but neighbours is joined, over paths as long as can be."""
    positions = 2.0 ** torch.arange(25)
    for seed in range(5):
        order = torch.randperm(25, generator=torch.Generator().manual_seed(seed))
        deaths = persistence_deaths(point_distances(positions[order].view(1, 25, 1)))
        assert deaths.sort().values.tolist() == [positions[:24].tolist()]


def test_equal_distances_and_equal_points():
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    deaths = persistence_deaths(point_distances(corners.expand(2, 6, 2)))
    assert deaths.sort().values.tolist() == [[0, 0, 1, 1, 1]] * 2


def test_a_single_point_has_no_bar():
    assert persistence_deaths(torch.zeros(3, 1, 1)).shape == (3, 0)


def test_structure_elements_one_by_one():
    elements = StructureElements(4)
    with torch.no_grad():
        elements.sharpness.copy_(1 + torch.rand(4, 2))
    deaths = torch.rand(3, 6)
    encoded = elements(deaths)
    for clip in range(3):
        for k in range(4):
            (c0, c1), (s0, s1) = elements.centres[k].tolist(), elements.sharpness[k].tolist()
            expected = sum(math.exp(-((s0 * c0) ** 2) - (s1 * (c1 - death)) ** 2) for death in deaths[clip].tolist())
            assert encoded[clip, k].item() == pytest.approx(expected, rel=1e-5)


def test_initial_structure_elements():
    elements = StructureElements(64)
    assert (elements.sharpness == 3).all()
    assert 0 <= elements.centres.min() < 0.1 < 0.9 < elements.centres.max() < 1


def test_every_step_gives_the_published_numbers(fixture):
    joints = fixture.joints()
    distances = point_distances(joints.mean(dim=(2, 4)).transpose(1, 2))
    assert largest_difference(distances / distances.max(), fixture.expected("distances")) <= 1e-6

    deaths = persistence_deaths(point_distances(fixture.expected("distances")))
    assert largest_difference(deaths.sort().values, fixture.expected("deaths")) <= 1e-6

    state = fixture.published_state()
    topology = DynamicTopology(64, "published")
    with torch.no_grad():
        topology.elements.centres.copy_(state["topo.pl.centres"])
        topology.elements.sharpness.copy_(state["topo.pl.sharpness"])
        rows = topology(joints)
    assert largest_difference(rows, fixture.expected("topology").repeat(joints.shape[-1], 1)) <= 1e-6


@pytest.mark.parametrize("persons", [1, 2, 3])
@pytest.mark.parametrize(("choice", "whole_batch"), [("own", False), (None, False), ("matched", True)])
def test_each_clip_describes_its_own_persons(choice, whole_batch, persons):
    topology = DynamicTopology(6, choice)
    joints = joints_like(4, persons)
    joints[2] *= 2
    expected = rows_one_by_one(topology, joints, whole_batch=whole_batch)
    assert largest_difference(expected[1:2], expected[:1]) > 1e-2
    torch.testing.assert_close(topology(joints), torch.stack([row for row in expected for _ in range(persons)]))


@pytest.mark.parametrize("persons", [1, 2, 3])
def test_published_rows_are_tiled_over_the_batch(persons):
    topology = DynamicTopology(6, "published")
    joints = joints_like(4, persons)
    joints[2] *= 2
    expected = rows_one_by_one(topology, joints, whole_batch=True)
    torch.testing.assert_close(topology(joints), torch.stack([row for _ in range(persons) for row in expected]))


def test_own_topology_does_not_depend_on_other_clips_nor_on_the_size_of_the_person():
    topology = DynamicTopology(8)
    joints = joints_like(3)
    others = torch.cat([joints[:1], 5 * joints_like(4, seed=1)])
    torch.testing.assert_close(topology(others)[:2], topology(joints)[:2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(topology(4 * joints), topology(joints))
    for choice in ("matched", "published"):
        of_batch = DynamicTopology(8, choice)
        assert largest_difference(of_batch(others)[:1], of_batch(joints)[:1]) > 1e-2


@pytest.mark.parametrize("choice", ["own", "matched", "published"])
def test_clips_without_extent_have_bars_of_length_zero(choice):
    """All joints in one place, in one clip of the batch or in all: zero-length bars, and no division by zero."""
    topology = DynamicTopology(8, choice)
    nothing = topology.elements(torch.zeros(1, 19)).expand(2, 8)
    torch.testing.assert_close(topology(torch.zeros(1, 3, 8, 20, 2)), nothing)
    joints = joints_like(2)
    joints[0] = 3
    rows = topology(joints)
    own = rows[:2] if choice != "published" else rows[::2]
    torch.testing.assert_close(own, nothing, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(rows).all()


def test_two_equal_joints_leave_as_many_bars():
    topology = DynamicTopology(8, "own")
    joints = joints_like(1)
    joints[:, :, :, 4] = joints[:, :, :, 9]
    expected = rows_one_by_one(topology, joints, whole_batch=False).expand(2, 8)
    torch.testing.assert_close(topology(joints), expected)


def test_gradient_reaches_the_elements_alone():
    topology = DynamicTopology(8)
    joints = joints_like(2).requires_grad_()
    topology(joints).sum().backward()
    assert joints.grad is None
    for parameter in topology.parameters():
        assert (parameter.grad != 0).all()
        assert torch.isfinite(parameter.grad).all()


class CountingMode(TorchDispatchMode):
    """Counts the operations that torch runs."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN204
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_no_loop_over_the_batch_and_no_look_at_values():
    counts = []
    for clips in (2, 16):
        with CountingMode() as mode:
            DynamicTopology(8)(joints_like(clips))
        counts.append(mode.count)
    assert counts[0] == counts[1]
    on_meta = DynamicTopology(8).to("meta")  # tensors there have no values to wait for
    assert on_meta(joints_like(2).to("meta")).shape == (4, 8)


def test_weights_remember_what_they_were_trained_with():
    trained = {choice: DynamicTopology(8, choice) for choice in ("own", "matched", "published")}
    joints = joints_like(3)
    for topology in trained.values():
        for undecided in (DynamicTopology(8), copy.deepcopy(DynamicTopology(8))):
            undecided.load_state_dict(topology.state_dict())
            assert torch.equal(undecided(joints), topology(joints))


@pytest.mark.parametrize("choice", ["own", "matched", "published"])
def test_an_explicit_choice_outlasts_loaded_weights(choice):
    chosen = copy.deepcopy(DynamicTopology(8, choice))
    before = chosen.trained_as.tolist()
    for other in ("own", "matched", "published"):
        chosen.load_state_dict(DynamicTopology(8, other).state_dict())
        assert chosen.trained_as.tolist() == before
    assert DynamicTopology(8, choice).trained_as.tolist() == before


@pytest.mark.parametrize("choice", ["own", "matched", "published"])
def test_an_average_of_weights_remembers_it_too(choice):
    topology = DynamicTopology(8, choice)
    average = AveragedModel(topology, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
    for _ in range(5):
        average.update_parameters(topology)
    assert torch.equal(average.module.trained_as, topology.trained_as)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            "publshed",
            r"topology: 'publshed' is unknown \(did you mean 'published'\?\); known are own, matched, published",
        ),
        (True, "topology: True is unknown"),
        (["own"], r"topology: \['own'\] is unknown"),
    ],
)
def test_an_unknown_choice_is_refused(choice, message):
    with pytest.raises(EncoderError, match=message):
        DynamicTopology(8, choice)
