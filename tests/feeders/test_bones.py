"""Bone-length scaling against the published numbers, and on skeletons that it was not published for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feeders import Feeder, get_benchmark
from feeders.transforms.bones import BoneScaling, pelvis
from graph import Skeleton, get_skeleton

NTU = get_skeleton("ntu")
PUBLISHED_BONES = (
    *((1, 2), (2, 21), (21, 3), (3, 4)),
    *((21, 5), (5, 6), (6, 7), (7, 8), (8, 23), (23, 22)),
    *((21, 9), (9, 10), (10, 11), (11, 12), (12, 25), (25, 24)),
    *((1, 13), (13, 14), (14, 15), (15, 16)),
    *((1, 17), (17, 18), (18, 19), (19, 20)),
)
"""(Near, far) joints, counted from 1, in the order of the published draws."""
HAND = Skeleton("hand", ("wrist", "palm", "thumb", "finger"), parents=(0, 0, 1, 1), centre=1, root=0)


def in_our_order(published):
    """By the joint at the far end."""
    return published[np.argsort([far for _, far in PUBLISHED_BONES])]


@pytest.mark.parametrize("case", ["two_persons", "absent_person", "zero_bones"])
def test_published_factors_and_poses(shared, case):
    with np.load(shared / "parity" / "heads" / "fr_head.npz") as arrays:
        pose, draws, factors, scaled = (
            arrays[f"scale/{case}/{name}"] for name in ("pose", "draws", "factors", "scaled")
        )
    scaling = BoneScaling(NTU, 0.2)
    uniform = torch.from_numpy(in_our_order(draws) / 0.4 + 0.5)
    ours = scaling.factors(uniform[None])
    np.testing.assert_allclose(ours[0].numpy(), in_our_order(factors), rtol=0, atol=1e-12)
    points = torch.from_numpy(pose).permute(1, 3, 2, 0)[None]
    np.testing.assert_allclose(
        scaling.scale(points, ours)[0].permute(3, 0, 2, 1).numpy(), scaled, rtol=0, atol=1e-12 * abs(scaled).max()
    )


@pytest.mark.parametrize(
    ("skeleton", "joint"), [(NTU, "base of spine"), (get_skeleton("nw-ucla"), "hip centre"), (HAND, "wrist")]
)
def test_the_pelvis_stays_where_it_is(skeleton, joint):
    assert skeleton.joint_names[pelvis(skeleton)] == joint
    points = torch.randn(2, 5, skeleton.num_joints, 3, dtype=torch.float64)
    scaling = BoneScaling(skeleton, 0.5)
    factors = scaling.factors(torch.rand(2, scaling.num_draws, dtype=torch.float64))
    scaled = scaling.scale(points, factors)
    index = pelvis(skeleton)
    assert torch.equal(scaled[..., index, :], points[..., index, :])
    for child, parent in skeleton.edges:
        before, after = (x[..., child, :] - x[..., parent, :] for x in (points, scaled))
        ratio = after.norm(dim=-1) / before.norm(dim=-1)
        assert (ratio - ratio[:, :1]).abs().max() < 1e-6, "one factor for all frames of a clip"
        assert 0.5 <= ratio.min() <= ratio.max() <= 1.5
        torch.testing.assert_close(after, before * ratio[..., None], rtol=0, atol=1e-9)


def test_left_and_right_share_a_factor():
    scaling = BoneScaling(NTU, 0.2)
    factors = scaling.factors(torch.rand(3, 24, dtype=torch.float64))
    of_joint = dict(zip(sorted(far - 1 for _, far in PUBLISHED_BONES), factors.T, strict=True))
    for left, right in NTU.left_right:
        assert torch.equal(of_joint[left], of_joint[right])
    assert len({float(value[0]) for value in of_joint.values()}) == 24 - len(NTU.left_right)


@pytest.mark.parametrize("benchmark", ["demo", "nw-ucla"])
def test_training_scales_and_testing_does_not(make_store, real_clips, benchmark):
    store = make_store([30, 80, 41], subjects=[1, 1, 11]) if benchmark == "demo" else real_clips.store

    def batch(split, bone_scale):
        feeder = Feeder(store, get_benchmark(benchmark), split, bone_scale=bone_scale, seed=1)
        return feeder.feed(torch.arange(1), 0).x

    assert torch.equal(batch("test", 0.2), batch("test", 0.0))
    assert not torch.allclose(batch("train", 0.2), batch("train", 0.0), atol=1e-3)
    assert torch.equal(batch("train", 0.2), batch("train", 0.2))
