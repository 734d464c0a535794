from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from paramcrop.data.batch import to_batch
from paramcrop.data.clips import (
    ClipSpec,
    cut_sample,
    draw_augmentation,
    draw_cubes,
    generator,
    resize,
    square_boxes,
    window_starts,
    with_planes,
)
from paramcrop.data.manifest import Manifest
from paramcrop.data.samples import cut_batch
from paramcrop.data.shards import read_videos
from paramcrop.data.uniform import UniformSpec, cut_uniform
from paramcrop.data.video import VideoReader, encode
from paramcrop.errors import VideoError

SPEC = ClipSpec(frames=8, size=32)


def rows(shards: tuple[str, Manifest], n: int) -> list[dict[str, Any]]:
    videos = list(read_videos(shards[0]))[:n]
    return [{"id": v.id, "video": v.video, "label": v.label, "epoch": 0, "position": i} for i, v in enumerate(videos)]


def test_a_sample_depends_only_on_seed_epoch_and_id(shards: tuple[str, Manifest]) -> None:
    some = rows(shards, 3)
    together, alone = cut_batch(some, SPEC, 0), cut_batch(some[1:2], SPEC, 0)
    for name, column in alone.items():
        np.testing.assert_array_equal(column[0], together[name][1], err_msg=name)
    for seed, epoch in ((1, 0), (0, 1)):
        other = cut_sample(some[1], SPEC, seed, epoch)
        assert not np.array_equal(other["noise"], alone["noise"][0])


def test_shapes_and_types(shards: tuple[str, Manifest]) -> None:
    columns = cut_batch(rows(shards, 2), SPEC, 0)
    shapes = {name: (column.shape, str(column.dtype)) for name, column in columns.items()}
    assert shapes == {
        "video": ((2, 2, 8, 32, 32, 3), "uint8"),
        "cube": ((2, 2, 3, 2), "float32"),
        "flip": ((2, 2), "bool"),
        "order": ((2, 2, 4), "int64"),
        "factors": ((2, 2, 4), "float32"),
        "noise": ((2, 2, 32), "float32"),
        "id": ((2,), "object"),
        "error": ((2,), "object"),
        "epoch": ((2,), "int64"),
        "position": ((2,), "int64"),
        "label": ((2,), "int64"),
        "substitute": ((2,), "object"),
    }


def test_each_view_is_cut_from_its_own_cube(shards: tuple[str, Manifest]) -> None:
    (row,) = rows(shards, 1)
    sample = cut_sample(row, replace(SPEC, random_box=(0.5, 0.9)), 0, 0)
    assert not np.array_equal(sample["cube"][0], sample["cube"][1])
    whole = VideoReader(row["video"]).read(np.arange(24))  # (24, 32, 40, 3)
    for view in range(2):
        (x0, x1), (y0, y1), (t0, t1) = sample["cube"][view]
        left, right, top, bottom = (round(float(v)) for v in (x0 * 40, x1 * 40, y0 * 32, y1 * 32))
        first = round(float(t0) * 24)
        assert round(float(t1 - t0) * 24) == 8
        clip = resize(whole[first : first + 8, top:bottom, left:right], 32)
        np.testing.assert_array_equal(sample["video"][view], clip)


def test_without_random_cubes_both_views_share_the_centre_square(shards: tuple[str, Manifest]) -> None:
    (row,) = rows(shards, 1)
    sample = cut_sample(row, replace(SPEC, random_cube=False), 0, 0)
    assert sample["video"].shape == (1, 8, 32, 32, 3)
    np.testing.assert_array_equal(sample["cube"][0], sample["cube"][1])
    np.testing.assert_allclose(sample["cube"][0][:2], [[0.1, 0.9], [0.0, 1.0]], atol=1e-6)


def test_a_clip_takes_every_third_frame_with_stride_3(shards: tuple[str, Manifest]) -> None:
    (row,) = rows(shards, 1)
    sample = cut_sample(row, replace(SPEC, random_cube=False, stride=3), 0, 0)
    first = round(float(sample["cube"][0, 2, 0]) * 24)
    whole = VideoReader(row["video"]).read(np.arange(24))  # (24, 32, 40, 3)
    np.testing.assert_array_equal(sample["video"][0], whole[first::3][:8, :, 4:36])


def test_a_setting_does_not_change_the_other_random_numbers(shards: tuple[str, Manifest]) -> None:
    (row,) = rows(shards, 1)
    with_cubes, without = (cut_sample(row, replace(SPEC, random_cube=on), 0, 0) for on in (True, False))
    for name in ("flip", "order", "factors", "noise"):
        np.testing.assert_array_equal(with_cubes[name], without[name])


def test_a_shared_window_keeps_separate_boxes() -> None:
    spec = replace(SPEC, share_window=True)
    u = draw_cubes(generator(0, 0, "v"), spec)
    starts, boxes = window_starts(u, spec, 300), square_boxes(u, spec, 240, 320)
    assert starts[0] == starts[1]
    assert not np.array_equal(boxes[0], boxes[1])


def test_cubes_stay_inside_and_reach_every_position() -> None:
    spec = ClipSpec(frames=4, stride=2, random_box=(0.5, 0.8))
    u = np.concatenate([draw_cubes(generator(0, e, "v"), spec) for e in range(400)])
    start, (top, left, side) = window_starts(u, spec, 12), square_boxes(u, spec, 20, 30).T
    assert set(start) == set(range(6))  # a window spans 7 of 12 frames
    assert top.min() == left.min() == 0
    assert (top + side).max() == 20 and (left + side).max() == 30
    assert set(side) == set(range(10, 17))


def test_short_videos_loop() -> None:
    pixels = np.stack([np.full((32, 32, 3), 40 * i, np.uint8) for i in range(5)])
    row = {"id": "short", "video": encode(pixels, 10.0).data}
    sample = cut_sample(row, replace(SPEC, frames=12, random_cube=False), 0, 0)
    brightness = sample["video"][0].mean((1, 2, 3))
    np.testing.assert_allclose(brightness, np.resize(brightness[:5], 12), atol=1)
    assert len(set(brightness.round())) == 5


def test_random_numbers_fill_their_ranges() -> None:
    spec = ClipSpec(jitter=0.8, brightness=0.8, hue=0.2, flip=0.5)
    drawn = [draw_augmentation(generator(0, e, "v"), spec) for e in range(500)]
    factors = np.concatenate([d["factors"] for d in drawn])
    neutral = (factors == [1, 1, 1, 0]).all(1)
    assert 0.15 < neutral.mean() < 0.25
    assert 0.19 < factors[:, :3].min() < 0.25 and 1.75 < factors[:, :3].max() < 1.81
    assert -0.2 <= factors[:, 3].min() < -0.19
    assert 0.45 < np.mean([d["flip"] for d in drawn]) < 0.55
    orders = Counter(tuple(o) for d in drawn for o in d["order"])
    assert len(orders) == 24
    noise = np.concatenate([d["noise"] for d in drawn])
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def as_clips(columns: dict[str, Any]) -> np.ndarray:
    clips: np.ndarray = to_batch(columns).to(torch.device("cpu")).video.numpy()
    return clips


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"random_cube": False},
        {"share_window": True},
        {"size": 24},
        {"stride": 3},
        {"frames": 40},  # the video has 24 and loops
        {"random_box": (1.0, 1.0)},
    ],
    ids=str,
)
def test_planes_become_the_clips_that_decord_gives_to_the_bit(
    shards: tuple[str, Manifest], changes: dict[str, Any]
) -> None:
    some, spec = rows(shards, 3), replace(SPEC, **changes)
    carried = cut_batch(some, with_planes(spec, 32), 0)
    clips = cut_batch(some, spec, 0)
    assert carried["video"].ndim == 5 and carried["video"].nbytes < clips["video"].nbytes
    np.testing.assert_array_equal(as_clips(carried), clips["video"])
    np.testing.assert_array_equal(carried["cube"], clips["cube"])
    if find_spec("decord"):
        np.testing.assert_array_equal(cut_batch(some, replace(spec, decoder="decord"), 0)["video"], clips["video"])


def test_training_and_evaluation_see_the_same_picture() -> None:
    """A clip of a whole video, of 32 x 46 pixels: with planes, as training reads it, and as an evaluation does."""
    pixels = np.random.default_rng(1).integers(0, 256, (8, 32, 46, 3)).astype(np.uint8)
    row = {"id": "a", "video": encode(pixels, 10.0).data, "epoch": 0, "position": 0, "label": 0}
    trained = cut_batch([row], with_planes(replace(SPEC, size=36, random_cube=False), 32), 0)
    assert "box" in trained
    evaluated = cut_uniform(row, UniformSpec(clips=1, frames=8, stride=1, size=36, box=1.0))
    np.testing.assert_array_equal(as_clips(trained)[0], evaluated)


def test_planes_in_rays_object_store_are_not_copied(shards: tuple[str, Manifest]) -> None:
    columns = cut_batch(rows(shards, 2), with_planes(SPEC, 32), 0)
    for column in columns.values():
        column.flags.writeable = False
    batch = to_batch(columns)
    assert batch.video.data_ptr() == columns["video"].ctypes.data
    assert batch.cube.data_ptr() != columns["cube"].ctypes.data
    on_device = batch.to(torch.device("cpu"))
    assert on_device.box is None and on_device.video.shape == (2, 2, 8, 32, 32, 3)
    assert torch.equal(batch.rows(slice(1, 2)).to(torch.device("cpu")).video, on_device.video[1:])


def test_an_upright_video_of_odd_boxes_is_cut_alike() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 50, 34, 3)).astype(np.uint8)
    row = {"id": "odd", "video": encode(pixels, 10.0).data, "epoch": 0, "position": 0, "label": 0}
    for seed in range(5):
        spec = replace(SPEC, random_box=(0.4, 0.95))
        carried = cut_batch([row], with_planes(spec, 34), seed)
        np.testing.assert_array_equal(as_clips(carried), cut_batch([row], spec, seed)["video"])


def test_a_row_that_fails_is_black_with_planes_too(shards: tuple[str, Manifest]) -> None:
    bad = [row | {"video": b"garbage"} for row in rows(shards, 2)]
    assert not as_clips(cut_batch(bad, with_planes(SPEC, 32), 0)).any()


def test_a_video_larger_than_its_manifest_says_is_an_error(shards: tuple[str, Manifest]) -> None:
    (row,) = rows(shards, 1)
    with pytest.raises(VideoError, match="no larger than the set's manifest says, but has 32 x 40 pixels"):
        cut_sample(row, with_planes(SPEC, 24), 0, 0)


def test_planes_travel_only_where_they_are_smaller() -> None:
    assert with_planes(ClipSpec(), 128).planes == 120
    assert with_planes(ClipSpec(), 256).planes == 0  # 232 x 232 planes are larger than a clip of 128 x 128
    assert with_planes(ClipSpec(), None).planes == 0
    assert with_planes(ClipSpec(decoder="decord"), 128).planes == 0
    assert with_planes(ClipSpec(autoaugment="imagenet"), 128).planes == 0


def test_resize_keeps_a_smooth_ramp() -> None:
    ramp = np.linspace(0, 255, 64)[None, None, :, None].repeat(64, 1).repeat(3, 3).repeat(2, 0).astype(np.uint8)
    small = resize(ramp, 16)
    assert small.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(small[0, 8, :, 0], np.linspace(6, 249, 16), atol=3)
    assert resize(small, 16) is small
