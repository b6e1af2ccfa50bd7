"""Published weights and weight files go in, or are refused with the names that differ."""

from __future__ import annotations

import copy
import random
import re
from fractions import Fraction

import pytest
import torch

from graph import get_skeleton
from model import EncoderError, WeightsError, build_encoder, load_published_weights, load_weights_file
from model.published import Source, interleave
from model.published_weights import published_state_dict
from tests.model.test_registry import Flat

FIRST = "l1.gcn1.convs.0.conv1.weight"


def build(seed, num_classes=5, graph="nw-ucla"):
    torch.manual_seed(seed)
    skeleton = get_skeleton(graph)
    return build_encoder("ctrgcn", skeleton=skeleton, num_classes=num_classes, num_persons=1, window=8, base_channels=8)


def published_state(encoder):
    """A published state dict for this encoder with every entry of its own: shapes from our tensors, random values."""
    generator = torch.Generator().manual_seed(7)
    state = {}
    for ours, source in encoder.published_names().items():
        tensor = encoder.state_dict()[ours]
        for part in source.names:
            if tensor.ndim == 0:
                state[part] = torch.tensor(3)
            elif source.join is torch.stack:
                state[part] = torch.rand(*tensor.shape[1:], 1, 1, generator=generator)
            else:
                shape = (tensor.shape[0] // len(source.names), *tensor.shape[1:])
                state[part] = torch.rand(shape, generator=generator)
            if part.endswith("conv4.bias"):
                state[part] = state[part].flatten()
    return state


@pytest.fixture
def encoder():
    return build(seed=0)


@pytest.fixture
def published(encoder):
    return published_state(encoder)


def same_state(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_interleave():
    parts = [torch.tensor([1, 2]), torch.tensor([10, 20]), torch.tensor([100, 200])]
    assert interleave(parts).tolist() == [1, 10, 100, 2, 20, 200]


def test_the_prefix_of_wrappers_does_not_matter(encoder, published):
    load_published_weights(encoder, published)
    other = build(seed=1)
    load_published_weights(other, {f"module.{name}": tensor for name, tensor in published.items()})
    assert same_state(encoder, other)
    assert torch.equal(encoder.state_dict()["fc.linear.weight"], published["fc.weight"])
    assert encoder.state_dict()["blocks.l1.tcn.bn.num_batches_tracked"] == 3


@pytest.mark.parametrize("prefix", ["", "module."])
def test_entries_of_training_heads_are_ignored(encoder, published, prefix):
    plain = copy.deepcopy(encoder)
    load_published_weights(plain, published)
    for name in ("std.conv1.weight", "ren_low.spatio_cl_net.cl_fc.weight", "ren_fin.tempor_squeeze.1.running_mean"):
        published[name] = torch.full((2, 3), torch.nan)
    load_published_weights(encoder, {f"{prefix}{name}": value for name, value in published.items()})
    assert same_state(encoder, plain)


def test_missing_and_left_over_names_are_told_and_nothing_changes(encoder, published):
    before = copy.deepcopy(encoder)
    published["l1.gcn1.convs.0.convX.weight"] = published.pop(FIRST)
    published["other.fc.weight"] = torch.zeros(1)
    message = rf"1 missing: {re.escape(FIRST)}, 2 unexpected: l1.gcn1.convs.0.convX.weight; other.fc.weight"
    with pytest.raises(WeightsError, match=message):
        load_published_weights(encoder, published)
    assert same_state(encoder, before)


def test_many_names_are_counted_and_the_first_few_told(encoder, published):
    few = dict(list(published.items())[:10])
    with pytest.raises(
        WeightsError, match=rf"{len(published) - 10} missing: \S+; \S+; \S+ \.\.\., 0 unexpected"
    ) as error:
        load_published_weights(encoder, few)
    assert len(str(error.value)) < 500


def test_another_shape_is_told_and_nothing_changes(encoder, published):
    before = copy.deepcopy(encoder)
    published["l3.gcn1.PA"] = torch.zeros(3, 25, 25)
    with pytest.raises(WeightsError, match=r"l3.gcn1.PA \(3, 25, 25\), expected \(3, 20, 20\)"):
        load_published_weights(encoder, published)
    assert same_state(encoder, before)


def test_a_transposed_kernel_is_another_shape(encoder, published):
    name = "l1.gcn1.convs.0.conv3.weight"
    parts = {
        key: tensor.transpose(0, 1) for key, tensor in published.items() if key.startswith("l1.") and "conv3.w" in key
    }
    assert name in parts
    with pytest.raises(WeightsError, match=re.escape(name)):
        load_published_weights(encoder, published | parts)


def test_parts_that_do_not_fit_together(encoder, published):
    published["l2.tcn1.branches.1.0.bias"] = torch.zeros(7)
    published["l4.gcn1.convs.1.conv3.bias"] = torch.zeros(7)
    message = (
        r"2 tensors of another shape: l2.tcn1.branches.0.0.bias \(2,\) \+ l2.tcn1.branches.1.0.bias \(7,\) .* expected "
        r"\(8,\); .*l4.gcn1.convs.1.conv3.bias \(7,\)"
    )
    with pytest.raises(WeightsError, match=message):
        load_published_weights(encoder, published)


def test_weights_that_are_not_finite_are_refused(encoder, published):
    before = copy.deepcopy(encoder)
    published["l2.gcn1.PA"][0, 0, 0] = torch.nan
    with pytest.raises(WeightsError, match=r"1 tensors with NaN or infinity: blocks\.l2\.gcn\.topology"):
        load_published_weights(encoder, published)
    assert same_state(encoder, before)


def test_another_number_of_classes_is_told(published):
    with pytest.raises(WeightsError, match="weights are for 5 classes, the encoder has 8; build it with num_classes=5"):
        load_published_weights(build(seed=0, num_classes=8), published)


def test_an_encoder_without_published_weights():
    flat = Flat(skeleton=get_skeleton("ntu"), num_classes=3)
    with pytest.raises(EncoderError, match="Flat knows no published weights"):
        load_published_weights(flat, {})


def test_a_source_is_joined_along_channels_unless_told_otherwise():
    assert Source(("a", "b")).join is torch.cat


@pytest.fixture
def saved(tmp_path):
    def saved(content):
        torch.save(content, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return saved


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"encoder": state, "epoch": 3, "optimizer": {"state": {}}},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    ],
)
@pytest.mark.parametrize("kind", ["our own weights", "published weights"])
def test_files_are_recognised(encoder, published, saved, kind, wrap):
    load_published_weights(encoder, published)
    other = build(seed=1)
    assert not same_state(encoder, other)
    state = published if kind == "published weights" else encoder.state_dict()
    assert load_weights_file(other, saved(wrap(state))) == kind
    assert same_state(encoder, other)


def test_a_file_for_an_encoder_without_published_weights(saved):
    one, other = (Flat(skeleton=get_skeleton("ntu"), num_classes=3) for _ in range(2))
    assert load_weights_file(other, saved(one.state_dict())) == "our own weights"
    assert same_state(one, other)


def test_a_foreign_file_is_refused_with_the_names_that_differ(encoder, saved):
    foreign = saved(torch.nn.Linear(2, 2).state_dict())
    with pytest.raises(WeightsError, match=r"weights.pt: .*\d+ missing: .*2 unexpected: bias; weight"):
        load_weights_file(encoder, foreign)


def test_a_file_of_our_own_with_another_number_of_classes(encoder, saved):
    with pytest.raises(WeightsError, match=r"weights.pt: the weights are for 8 classes, the encoder has 5"):
        load_weights_file(encoder, saved(build(seed=1, num_classes=8).state_dict()))


def test_a_file_of_our_own_for_another_skeleton(encoder, saved):
    other = build(seed=1, graph="ntu").state_dict()
    with pytest.raises(
        WeightsError, match=r"\d+ tensors of another shape: data_bn.norm.weight \(75,\), expected \(60,\)"
    ):
        load_weights_file(encoder, saved(other))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor and no named tensors"),
        ({}, "holds a dict and no named tensors"),
        ({"epoch": 3, "lr": 0.1}, "'epoch' is a int where a tensor belongs"),
        ({"state_dict": {"weight": Fraction(1, 2)}}, "holds Python objects beside tensors"),
    ],
)
def test_a_file_without_weights(encoder, saved, content, message):
    with pytest.raises(WeightsError, match=f"weights.pt: .*{message}"):
        load_weights_file(encoder, saved(content))


def test_missing_damaged_and_strange_files(encoder, saved, tmp_path):
    with pytest.raises(WeightsError, match=r"absent.pt: no such file"):
        load_weights_file(encoder, tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match="no such file"):
        load_weights_file(encoder, tmp_path)
    whole = saved(encoder.state_dict())
    for content in (whole.read_bytes()[:5000], b"", b"no weights\n", b"\x80\x02garbage"):
        (tmp_path / "damaged.pt").write_bytes(content)
        with pytest.raises(WeightsError, match=r"damaged.pt: (cannot be read|is not a PyTorch file)") as error:
            load_weights_file(encoder, tmp_path / "damaged.pt")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("published", [False, True])
def test_fine_tuning_takes_all_but_a_classifier_of_other_classes(published, tmp_path):
    trained, fresh = build(1, num_classes=7), build(2, num_classes=5)
    names = {ours: source.names[0] for ours, source in trained.published_names().items()}
    torch.save(published_state_dict(trained) if published else trained.state_dict(), tmp_path / "w.pt")
    before = copy.deepcopy(fresh.state_dict())
    said = load_weights_file(fresh, tmp_path / "w.pt", fine_tune=True)
    kind = "published" if published else "our own"
    assert said == f"{kind} weights but their classifier of 7 classes; that of 5 classes starts from scratch"
    for name, tensor in fresh.state_dict().items():
        expected = before if name.startswith("fc.linear.") else trained.state_dict()
        assert torch.equal(tensor, expected[name]), (name, names[name])


def test_fine_tuning_with_the_same_classes_takes_the_classifier_too(tmp_path):
    trained, fresh = build(1), build(2)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    assert load_weights_file(fresh, tmp_path / "w.pt", fine_tune=True) == "our own weights"
    assert torch.equal(fresh.fc.linear.weight, trained.fc.linear.weight)


def test_other_differences_are_refused_in_fine_tuning_too(tmp_path):
    torch.save(build(1, num_classes=7, graph="ntu").state_dict(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="another shape"):
        load_weights_file(build(2), tmp_path / "w.pt", fine_tune=True)


@pytest.mark.filterwarnings("ignore")  # torch deprecates quantised tensors
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({3: torch.zeros(1)}, "parameter names must be text, got 3"),
        ({"w": torch.zeros(2, 2).to_sparse()}, "'w' is sparse"),
        ({"w": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}, "'w' is sparse or nested"),
        ({"w": torch.zeros(2, device="meta")}, "'w' is quantised, complex or without content"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "'w' is quantised, complex or without content"),
        ({"w": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)}, "'w' is quantised"),
    ],
    ids=["number as name", "sparse", "nested", "meta", "complex", "quantised"],
)
def test_tensors_that_are_no_weights(encoder, saved, entry, message):
    with pytest.raises(WeightsError, match=f"weights.pt: {message}"):
        load_weights_file(encoder, saved({**encoder.state_dict(), **entry}))


@pytest.mark.parametrize("fine_tune", [False, True])
@pytest.mark.parametrize("shape", [(), (3, 2)], ids=["one number", "two axes"])
def test_a_classifier_of_a_shape_that_none_has(saved, shape, fine_tune):
    encoder = Flat(skeleton=get_skeleton("ntu"), num_classes=3)
    path = saved({**encoder.state_dict(), "linear.bias": torch.zeros(shape)})
    with pytest.raises(WeightsError, match=r"another shape: linear\.bias"):
        load_weights_file(encoder, path, fine_tune=fine_tune)


def test_numbers_too_large_for_float32_are_not_finite(saved):
    encoder = Flat(skeleton=get_skeleton("ntu"), num_classes=3)
    path = saved({**encoder.state_dict(), "linear.bias": torch.full((3,), 1e300, dtype=torch.float64)})
    with pytest.raises(WeightsError, match="NaN or infinity"):
        load_weights_file(encoder, path)


def test_float8_is_read_as_any_number(saved):
    encoder = Flat(skeleton=get_skeleton("ntu"), num_classes=3)
    load_weights_file(encoder, saved({**encoder.state_dict(), "linear.bias": torch.ones(3).to(torch.float8_e4m3fn)}))
    assert encoder.linear.bias.tolist() == [1, 1, 1]


def test_any_damage_of_a_file_is_refused_or_harmless(saved, tmp_path):
    """Bytes changed at random where the archive describes its content: torch then raises whatever it meets first."""
    encoder = Flat(skeleton=get_skeleton("ntu"), num_classes=3)
    whole = saved(encoder.state_dict()).read_bytes()
    start = whole.index(b"data.pkl")
    places = [place for place in range(start, start + 400) if whole[place]]
    chance = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in chance.sample(places, 2):
            damaged[place] = chance.randrange(256)
        (tmp_path / "damaged.pt").write_bytes(damaged)
        try:
            load_weights_file(encoder, tmp_path / "damaged.pt")
        except WeightsError as error:
            assert "damaged.pt" in str(error)
