"""docs/encoders.md: every number in its tables is what the code and the configurations say."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from engine.config import resolve
from engine.schema import RunConfig
from model import list_encoders
from tests.documents import REPOSITORY, read, section, table
from tools.benchmark.encoder import CLIPS, count_macs, count_parameters

PAGE = read("docs/encoders.md")
MAPS = table(section(PAGE, "The map that CSRE contrasts"))
SIZES, PUBLISHED = (table(part) for part in re.split(r"^The parameters are", section(PAGE, "Size"), flags=re.MULTILINE))
WINDOWS = table(section(PAGE, "HCN"))

encoders = pytest.mark.parametrize("name", list_encoders())


@cache
def build(name, benchmark, window=None):
    return CLIPS[benchmark].build(name, window)


def shown(shape):
    return " x ".join(map(str, shape))


NTU = ("ntu60-xsub", "ntu60-xview", "ntu120-xsub", "ntu120-xset")
TABLES = {"maps": MAPS, "sizes": SIZES, "published": PUBLISHED}


@pytest.mark.parametrize("rows", TABLES.values(), ids=TABLES)
def test_every_encoder_has_one_row(rows):
    assert list(rows) == list_encoders()


def test_every_encoder_has_its_quirks():
    for row in MAPS.values():
        title = re.split(r"[,(]", row["paper"])[0].strip()
        assert section(PAGE, title).count("\n- ") >= 1


@encoders
def test_feature_shapes(name):
    assert MAPS[name]["NTU, 64 frames"] == shown(build(name, "ntu").feature_shape)
    assert MAPS[name]["NW-UCLA, 52 frames"] == shown(build(name, "nw-ucla").feature_shape)


@encoders
def test_parameters(name):
    classes_120 = replace(CLIPS["ntu"], num_classes=120)
    row = SIZES[name]
    assert row["parameters, NTU 60"] == f"{count_parameters(build(name, 'ntu')):,}"
    assert row["parameters, NTU 120"] == f"{count_parameters(classes_120.build(name)):,}"
    assert row["parameters, NW-UCLA"] == f"{count_parameters(build(name, 'nw-ucla')):,}"


@encoders
def test_macs(name):
    assert SIZES[name]["MACs, NTU 60"] == f"{count_macs(build(name, 'ntu')):,}"
    assert SIZES[name]["MACs, NW-UCLA"] == f"{count_macs(build(name, 'nw-ucla')):,}"


@encoders
def test_what_the_published_code_counts(name, shared):
    row = PUBLISHED[name]
    for column, graph in (("published code, NTU 60", "ntu"), ("published code, NW-UCLA", "ucla")):
        file = shared / "parity" / "encoders" / f"{name}_{graph}.npz"
        if not file.exists() and row[column] == "-":
            pytest.skip(f"the fixtures have no counts of a published {name}")
        with np.load(file) as arrays:
            counted = f"{int(arrays['macs']):,}"
        # HCN was counted for 32 frames on NTU, which its remark says.
        assert counted in (row["why ours differs"] if row[column] == "-" else row[column])
    for column, ours in (("published code, NTU 60", "MACs, NTU 60"), ("published code, NW-UCLA", "MACs, NW-UCLA")):
        if row[column] != "-":
            assert (row[column] == SIZES[name][ours]) == row["why ours differs"].startswith("it does not")


@pytest.mark.parametrize("window", [32, 64])
def test_hcn_by_window(window):
    encoder = build("hcn", "ntu", window)
    assert WINDOWS[str(window)] == {
        "X on NTU": shown(encoder.feature_shape),
        "parameters, NTU 60": f"{count_parameters(encoder):,}",
        "MACs, NTU 60": f"{count_macs(encoder):,}",
    }


def test_what_is_said_of_hcn_on_ntu():
    assert f"HCN with 32 frames on NTU (`hcn64`: with 64), where its map is {WINDOWS['32']['X on NTU']}." in PAGE
    for benchmark in NTU:
        config = config_of(f"{benchmark}/hcn_joint.yaml")
        assert (config.data.window, config.model.options["hidden"]) == (32, 256)
    narrow = CLIPS["ntu"].build("hcn", 32, hidden=256)
    assert f"HCN has {count_parameters(narrow):,} parameters (NTU 60)." in PAGE
    wide = config_of("ntu60-xsub/hcn64_joint.yaml")
    assert (wide.data.window, wide.model.options["hidden"]) == (64, 512)


def test_what_is_said_of_narrow_mlps():
    narrow = CLIPS["nw-ucla"].build("skateformer", **config_of("nw-ucla/skateformer_joint.yaml").model.options)
    assert f"`mlp_ratio` of 1 that it is trained with on NW-UCLA, SkateFormer has {count_parameters(narrow):,}" in PAGE
    assert f"{count_macs(narrow):,}, which ours is, too" in PUBLISHED["skateformer"]["why ours differs"]
    assert config_of("ntu60-xsub/skateformer_joint.yaml").model.options == {}


def test_what_is_said_of_the_topology():
    assert "`topology: published`, which the configurations train with" in section(PAGE, "BlockGCN")
    for benchmark in ("nw-ucla", *NTU):
        assert config_of(f"{benchmark}/blockgcn_csre_joint.yaml").model.options["topology"] == "published"


def test_what_the_quirks_say_of_the_configurations():
    assert "The configurations use 8" in section(PAGE, "InfoGCN")
    assert config_of("nw-ucla/infogcn_joint.yaml").model.options["order"] == 8
    assert "whose bone configurations select them" in " ".join(section(PAGE, "Hyperformer").split())
    for stream, partition in (("bone", "published_bone"), ("joint", "published")):
        options = config_of(f"nw-ucla/hyperformer_{stream}.yaml").model.options
        assert options.get("partition", "published") == partition


def config_of(path: str) -> RunConfig:
    resolved = resolve(["--config", str(REPOSITORY / "config" / path)])
    assert resolved is not None
    return resolved.config
