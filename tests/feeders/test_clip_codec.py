"""The encoding of clips: every bit comes back, and it is small where clips are like those of a sensor."""

from __future__ import annotations

import numpy as np
import pytest

from feeders.clip_codec import clip_digest, decode_clip, encode_clip


def motion(frames: int, persons: int, seed: int, noise: float = 0.001) -> np.ndarray:
    """Smooth motion with noise, printed and parsed with seven digits as in raw files, then moved to the origin."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None, None, None] / 30
    places = np.array([0, 0, 3]) + rng.normal(0, 0.5, (1, persons, 25, 3))
    course = 0.1 * np.sin(2 * time + rng.uniform(0, 6, (1, persons, 25, 3)))
    positions = places + course + rng.normal(0, noise, (frames, persons, 25, 3))
    parsed = np.array([float(f"{value:.7g}") for value in positions.ravel()], np.float32).reshape(positions.shape)
    return parsed - parsed[0, 0, 1]


def assert_comes_back(clip: np.ndarray) -> None:
    again = decode_clip(encode_clip(clip), clip.shape, clip.dtype)
    assert (again.shape, again.dtype) == (clip.shape, clip.dtype)
    assert again.tobytes() == clip.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 2, 25, 3), (300, 2, 25, 3), (7, 1, 20, 3)])
def test_random_numbers_come_back(shape, dtype):
    rng = np.random.default_rng(0)
    assert_comes_back(rng.standard_normal(shape).astype(dtype))
    assert_comes_back(np.round(rng.standard_normal(shape), 4).astype(dtype))
    assert_comes_back(np.zeros(shape, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_kind_of_number_comes_back(dtype):
    """Each series mixes ordinary numbers with one special value."""
    limits = np.finfo(dtype)
    special = [-0.0, 0.0, limits.max, limits.min, limits.tiny, limits.smallest_subnormal, -limits.smallest_subnormal]
    special += [
        1.0,
        -1.0,
        2.0**31,
        -(2.0**31),
        2.0**-31,
        2.0**63,
        2.0**-100,
        2.0**100,
        np.nan,
        np.inf,
        -np.inf,
        limits.eps,
    ]
    clip = np.random.default_rng(1).standard_normal((5, 1, len(special), 3)).astype(dtype)
    clip[2, 0, :, 0] = special
    clip[:, 0, :, 1] = np.array(special)
    clip[:, 0, :, 2] = np.arange(5)[:, None]
    clip[3, 0, :, 2] = special
    assert_comes_back(clip)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_drawn_at_random_come_back(dtype):
    rng = np.random.default_rng(2)
    bits = np.frombuffer(rng.bytes(40 * 75 * np.dtype(dtype).itemsize), dtype).reshape(40, 1, 25, 3)
    assert_comes_back(bits)


def test_motion_comes_back_and_is_small():
    """Eighty frames, every fifth clip with two persons: less than a tenth of 300 padded frames of two persons."""
    clips = [motion(80, 1 + (i == 4), seed=i) for i in range(5)]
    for clip in clips:
        assert_comes_back(clip)
    assert np.mean([len(encode_clip(clip)) for clip in clips]) <= 300 * 150 * 4 / 10


def test_an_absent_person_costs_next_to_nothing():
    clip = motion(80, 1, seed=3)
    with_absent = np.concatenate([clip, np.zeros_like(clip)], axis=1)
    assert_comes_back(with_absent)
    assert len(encode_clip(with_absent)) < 1.02 * len(encode_clip(clip))


def test_bytes_of_another_shape_are_refused():
    data = encode_clip(motion(20, 1, seed=0))
    for shape in ((19, 1, 25, 3), (21, 1, 25, 3), (20, 2, 25, 3)):
        with pytest.raises(ValueError, match="shape"):
            decode_clip(data, shape, np.dtype(np.float32))
    for altered in (data[:-1], data[:40], data + b"x", b"", b"no such bytes"):
        with pytest.raises(ValueError):
            decode_clip(altered, (20, 1, 25, 3), np.dtype(np.float32))


def test_the_digest_tells_content_type_and_shape_apart():
    clip = motion(20, 2, seed=0)
    moved = clip.copy()
    moved[-1, -1, -1, -1] = np.nextafter(moved[-1, -1, -1, -1], np.float32(9))
    others = [moved, clip.astype(np.float64), clip.reshape(40, 1, 25, 3), clip[::-1]]
    assert len({clip_digest(c) for c in (clip, *others)}) == 5
    assert clip_digest(np.asfortranarray(clip)) == clip_digest(clip)
