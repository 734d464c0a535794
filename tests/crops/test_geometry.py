from __future__ import annotations

import math

import pytest
import torch

from paramcrop.crops.geometry import (
    CropParams,
    affine_matrix,
    box_in_video,
    centre_distance,
    crop_box,
    iou,
    map_to_source,
    pixel_centres,
    to_pixels,
)


def params(s_p: float, s_t: float, dx: float, dy: float, dt: float, theta: float | None = None) -> CropParams:
    values = [torch.tensor([v]) for v in (s_p, s_t, 0.0 if theta is None else theta, dx, dy, dt)]
    return CropParams(values[0], values[1], None if theta is None else values[2], *values[3:])


def test_matrix_is_eq_3_as_printed() -> None:
    angle = math.pi / 6
    expected = [
        [0.6 * math.cos(angle), -0.5, 0, 0.1],  # the rotation entries are not scaled by s_p
        [0.5, 0.6 * math.cos(angle), 0, -0.2],
        [0, 0, 0.7, 0.3],
    ]
    matrix = affine_matrix(params(0.6, 0.7, 0.1, -0.2, 0.3, angle))
    torch.testing.assert_close(matrix, torch.tensor([expected]))


def test_no_rotation_is_rotation_by_zero() -> None:
    torch.testing.assert_close(
        affine_matrix(params(0.6, 0.7, 0.1, -0.2, 0.3)), affine_matrix(params(0.6, 0.7, 0.1, -0.2, 0.3, 0.0))
    )


def test_eq_4_maps_the_crops_corners_to_its_box() -> None:
    crop = params(0.5, 0.75, 0.2, -0.3, 0.1)
    corners = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    mapped = map_to_source(affine_matrix(crop), corners)[0]
    torch.testing.assert_close((mapped.T + 1) / 2, crop_box(crop)[0])


def test_pixels_and_coordinates_agree() -> None:
    torch.testing.assert_close(to_pixels(pixel_centres(7, torch.zeros(1)), 7), torch.arange(7.0))
    assert to_pixels(torch.tensor([-3.0, 3.0]), 7).tolist() == [0, 6]  # the border is repeated


def test_distance_and_iou_of_simple_boxes() -> None:
    whole, half = crop_box(params(1, 1, 0, 0, 0)), crop_box(params(0.5, 0.5, 0, 0, 0))
    assert iou(whole, whole).item() == pytest.approx(1)
    assert iou(whole, half).item() == pytest.approx(1 / 8)
    low, high = crop_box(params(0.5, 0.5, -0.5, -0.5, -0.5)), crop_box(params(0.5, 0.5, 0.5, 0.5, 0.5))
    assert iou(low, high).item() == 0
    assert centre_distance(low, high).item() == pytest.approx(1.5)  # the maximum at scale 0.5


def test_box_in_video_composes_and_unflips() -> None:
    box = torch.tensor([[[0.0, 0.25], [0.0, 0.5], [0.5, 1.0]]])
    cube = torch.tensor([[[0.2, 0.6], [0.0, 1.0], [0.5, 0.75]]])
    plain = box_in_video(box, cube, torch.tensor([False]))
    torch.testing.assert_close(plain, torch.tensor([[[0.2, 0.3], [0.0, 0.5], [0.625, 0.75]]]))
    flipped = box_in_video(box, cube, torch.tensor([True]))
    torch.testing.assert_close(flipped, torch.tensor([[[0.5, 0.6], [0.0, 0.5], [0.625, 0.75]]]))
