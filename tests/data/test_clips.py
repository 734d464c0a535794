from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from paramcrop.data.clips import (
    ClipSpec,
    cut_sample,
    draw_augmentation,
    draw_cubes,
    generator,
    resize,
    square_boxes,
    window_starts,
)
from paramcrop.data.manifest import Manifest
from paramcrop.data.samples import cut_batch
from paramcrop.data.shards import read_videos
from paramcrop.data.video import VideoReader, encode

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


def test_resize_keeps_a_smooth_ramp() -> None:
    ramp = np.linspace(0, 255, 64)[None, None, :, None].repeat(64, 1).repeat(3, 3).repeat(2, 0).astype(np.uint8)
    small = resize(ramp, 16)
    assert small.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(small[0, 8, :, 0], np.linspace(6, 249, 16), atol=3)
    assert resize(small, 16) is small
