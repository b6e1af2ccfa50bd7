"""The four streams in both variants, against the published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feeders import STREAMS, VARIANTS, DataError
from feeders.streams import StreamBuilder, forward_difference
from feeders.transforms.ntu import NTUTransform
from feeders.transforms.nw_ucla import NWUCLATransform
from graph import get_skeleton


def build(stream, variant, skeleton_name):
    return StreamBuilder(stream, variant, get_skeleton(skeleton_name))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stream", STREAMS)
def test_ntu(published, published_clips, stream, variant):
    joints = NTUTransform(2, 64).test(published_clips.rows, torch.from_numpy(published["ntu_stream_clips"]))
    result = build(stream, variant, "ntu")(joints)
    np.testing.assert_allclose(result.numpy(), published[f"ntu_{variant}_{stream}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stream", STREAMS)
def test_nw_ucla(published, real_clips, stream, variant):
    clips = torch.tensor([real_clips.store.names.index(name) for name in published["ucla_names"]])
    joints = NWUCLATransform(get_skeleton("nw-ucla"), 1, 52).test(real_clips.store.rows, clips)
    result = build(stream, variant, "nw-ucla")(joints)
    np.testing.assert_allclose(result.numpy(), published[f"ucla_{variant}_{stream}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stream", STREAMS)
def test_joints_are_not_changed_and_an_absent_person_stays_zero(stream, variant):
    joints = torch.randn(2, 3, 6, 25, 2)
    joints[1, ..., 1] = 0
    before = joints.clone()
    result = build(stream, variant, "ntu")(joints)
    assert torch.equal(joints, before)
    assert (result[1, ..., 1] == 0).all()
    assert (result is joints) == (stream == "joint" and variant == "plain")


@pytest.mark.parametrize("skeleton_name", ["ntu", "nw-ucla"])
def test_the_root_keeps_its_trajectory_in_the_centred_variant_only(skeleton_name):
    skeleton = get_skeleton(skeleton_name)
    joints = torch.randn(2, 3, 6, skeleton.num_joints, 1)
    for stream in ("joint", "bone"):
        centred = build(stream, "centred", skeleton_name)(joints)
        assert torch.equal(centred[:, :, :, skeleton.root], joints[:, :, :, skeleton.root])
    assert (build("bone", "plain", skeleton_name)(joints)[:, :, :, skeleton.root] == 0).all()


def test_motion_is_the_difference_to_the_next_frame():
    x = torch.tensor([1.0, 4.0, 9.0, 7.0]).view(1, 1, 4, 1, 1)
    assert forward_difference(x).flatten().tolist() == [3, 5, -2, 0]
    assert forward_difference(x[:, :, :1]).flatten().tolist() == [0]


def test_a_wrong_word_gets_the_nearest_one():
    with pytest.raises(DataError, match=r"data\.stream: unknown value 'bone_motoin' .did you mean 'bone_motion"):
        build("bone_motoin", "plain", "ntu")
    with pytest.raises(DataError, match=r"data\.variant: unknown value 'centered' .did you mean 'centred"):
        build("joint", "centered", "ntu")
