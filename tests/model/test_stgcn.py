"""ST-GCN: its graph convolution, initial values, dropout, graph in the state and sizes, from its specification."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graph import get_skeleton, root_partition
from model import EncoderError, WeightsError, build_encoder, load_published_weights, load_weights_file
from model.blocks import shared_graph_convolution
from model.published_weights import published_state_dict
from tests.model.draws import assert_normal

PARAMETERS = [37_952, *[49_664] * 3, 181_632, *[197_632] * 2, 723_712, *[788_480] * 2]
"""Of l1 to l10, without the importance of the links."""


def build(graph="ntu", num_classes=60, num_persons=2, window=64, skeleton=None, **options):
    torch.manual_seed(0)
    skeleton = skeleton or get_skeleton(graph)
    return build_encoder(
        "stgcn", skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window, **options
    )


@pytest.fixture(scope="module")
def encoder():
    return build()


@pytest.mark.parametrize(("in_channels", "out_channels"), [(3, 8), (8, 8)])
def test_the_shared_graph_convolution_maps_first_and_mixes_the_bias_too(in_channels, out_channels):
    torch.manual_seed(0)
    convolution = nn.Conv2d(in_channels, 3 * out_channels, 1).double()
    topology = torch.randn(3, 5, 5, dtype=torch.float64)
    x = torch.randn(2, in_channels, 5, 6, dtype=torch.float64)
    u = convolution(x).unflatten(1, (3, out_channels))
    expected = torch.einsum("nkcvt,kvw->ncwt", u, topology)
    torch.testing.assert_close(shared_graph_convolution(x, topology, convolution), expected)


def test_the_importance_of_a_link_starts_at_one_and_has_no_effect_without_the_link(encoder):
    for block in encoder.blocks.values():
        assert torch.equal(block.gcn.importance, torch.ones(3, 25, 25))
    small = build("nw-ucla", 5, 1, 8, base_channels=4).double()
    small(torch.randn(2, 3, 8, 20, 1, dtype=torch.float64)).square().sum().backward()
    for block in small.blocks.values():
        links = torch.from_numpy(root_partition(small.skeleton)) != 0
        assert links.sum() == 58
        assert (block.gcn.importance.grad[~links] == 0).all()
        assert block.gcn.importance.grad[links].abs().max() > 0


def test_initial_weights(encoder):
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert_normal(layer.weight, 0.02)
            assert (layer.bias == 0).all(), name
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert_normal(layer.weight - 1, 0.02)
            assert (layer.bias == 0).all(), name


def test_persons_share_the_statistics_of_the_input(encoder):
    assert encoder.data_bn.norm.num_features == 25 * 3
    swapped = build("nw-ucla", 5, 2, 8, base_channels=4).train()
    x = torch.randn(2, 3, 8, 20, 2)
    torch.testing.assert_close(
        swapped.data_bn(x.flip(-1)), swapped.data_bn(x).unflatten(0, (2, 2)).flip(1).flatten(0, 1)
    )


def test_dropout_sits_in_all_blocks_but_the_first():
    encoder = build("nw-ucla", 5, 1, 8, base_channels=4, dropout=0.5)
    assert [getattr(block.main_drop, "p", 0) for block in encoder.blocks.values()] == [0, *[0.5] * 9]
    assert not any(isinstance(layer, nn.Dropout) and layer.p for layer in encoder.fc.modules())


def test_published_weights_of_another_graph_are_refused():
    thumbs, hands = build(base_channels=4), build(base_channels=4, tips_on_hands=True)
    sums = hands.blocks["l1"].gcn.adjacency.sum(dim=(1, 2))
    assert sums.tolist() == pytest.approx([9.11667, 13.13333, 2.75], abs=1e-5)
    with pytest.raises(WeightsError, match=r"^A: not the constant.* model\.options\.tips_on_hands true"):
        load_published_weights(hands, published_state_dict(thumbs))


def normalisation(name, size):
    entries = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{entry}": (size,) for entry in entries} | {f"{name}.num_batches_tracked": ()}


def shapes_of_pyskl(base, joints, classes):
    """Names and shapes of a PYSKL checkpoint, and the authors' name for each (None: the graph)."""
    shapes = normalisation("backbone.data_bn", 3 * joints)
    theirs = {name: name.removeprefix("backbone.") for name in shapes}
    for entry, shape in (("weight", (classes, 4 * base)), ("bias", (classes,))):
        shapes[f"cls_head.fc_cls.{entry}"] = shape
        theirs[f"cls_head.fc_cls.{entry}"] = f"fcn.{entry}"
    inputs = 3
    for i, outputs in enumerate([base] * 4 + [2 * base] * 3 + [4 * base] * 3):
        layers = {
            "gcn.conv": ("gcn.conv", (3 * outputs, inputs, 1, 1)),
            "gcn.bn": ("tcn.0", None),
            "tcn.conv": ("tcn.2", (outputs, outputs, 9, 1)),
            "tcn.bn": ("tcn.3", None),
        }
        if i in (4, 7):
            layers |= {"residual.conv": ("residual.0", (outputs, inputs, 1, 1)), "residual.bn": ("residual.1", None)}
        for layer, (published, kernel) in layers.items():
            name = f"backbone.gcn.{i}.{layer}"
            of_layer = normalisation(name, outputs)
            if kernel is not None:
                of_layer = {f"{name}.weight": kernel, f"{name}.bias": kernel[:1]}
            shapes |= of_layer
            theirs |= {full: full.replace(name, f"st_gcn_networks.{i}.{published}") for full in of_layer}
        shapes |= {f"backbone.gcn.{i}.gcn.{matrix}": (3, joints, joints) for matrix in ("A", "PA")}
        theirs |= {f"backbone.gcn.{i}.gcn.A": None, f"backbone.gcn.{i}.gcn.PA": f"edge_importance.{i}"}
        inputs = outputs
    return shapes, theirs


@pytest.mark.parametrize(("graph", "options"), [("coco", {}), ("ntu", {"tips_on_hands": True})])
def test_checkpoints_of_pyskl_are_those_of_the_authors_under_other_names(graph, options, tmp_path):
    encoders = [build(graph, base_channels=4, **options) for _ in range(2)]
    adjacency = encoders[0].blocks["l1"].gcn.adjacency
    shapes, theirs = shapes_of_pyskl(4, adjacency.shape[-1], 60)
    assert len(shapes) == 181
    generator = torch.Generator().manual_seed(1)
    state = {
        name: torch.tensor(3) if name.endswith("tracked") else torch.rand(shape, generator=generator)
        for name, shape in shapes.items()
    }
    state |= {f"backbone.gcn.{i}.gcn.A": adjacency.clone() for i in range(10)}
    file = tmp_path / "pyskl.pth"
    torch.save({"meta": {"epoch": 16}, "state_dict": state, "optimizer": {}}, file)
    assert load_weights_file(encoders[0], file) == "published weights"
    authors = {theirs[name]: tensor for name, tensor in state.items() if theirs[name] is not None}
    authors |= {"A": adjacency, "fcn.weight": authors["fcn.weight"][..., None, None]}
    assert len(authors) == 172
    load_published_weights(encoders[1], authors)
    for name, tensor in encoders[1].state_dict().items():
        assert torch.equal(encoders[0].state_dict()[name], tensor), name
    assert torch.equal(
        encoders[0].blocks["l5"].tcn.conv.weight[..., 0, 3], state["backbone.gcn.4.tcn.conv.weight"][:, :, 3, 0]
    )
    state["backbone.gcn.9.gcn.A"] = adjacency.mT
    with pytest.raises(WeightsError, match=r"^backbone\.gcn\.9\.gcn\.A: not the constant"):
        load_published_weights(encoders[0], state)


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "parameters"),
    [("ntu", 60, 2, 64, 3_098_832), ("ntu", 120, 2, 64, 3_114_252), ("nw-ucla", 10, 1, 52, 3_079_202)],
)
def test_number_of_parameters(graph, num_classes, persons, window, parameters):
    encoder = build(graph, num_classes, persons, window)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


def test_number_of_parameters_of_every_block(encoder):
    counts = [sum(p.numel() for p in block.parameters()) - 1_875 for block in encoder.blocks.values()]
    assert counts == PARAMETERS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 0}, "base_channels: must be an integer >= 1, got 0"),
        ({"dropout": 1.0}, r"dropout: must be a probability in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
