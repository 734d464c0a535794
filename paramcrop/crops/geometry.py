"""Where a crop lies in its source: Eq. 3 and 4, boxes, and the two measures of Figure 5.

Conventions, fixed here for the whole project:

- videos are (B, C, T, H, W); coordinates are (x, y, t), each in [-1, 1] over the whole source;
- matrices map crop -> source;
- ``align_corners=False``: -1 and 1 are the outer edges of the first and last pixel (or frame), so pixel i of n lies at
  (2 i + 1) / n - 1;
- outside the source, the border is repeated.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CropParams(NamedTuple):
    """The six parameters of Eq. 3, one value per sample. Every policy returns them; ``crop_cube`` applies them.

    Each is float32 (B,).

    Attributes:
        s_p: spatial scale, crop width / source width, in (0, 1].
        s_t: temporal scale, crop length / source length, in (0, 1].
        theta: rotation in the image plane, radians; None: none, and the crop is an axis-aligned box that costs less.
        dx: centre offset, in units of half the source width.
        dy: the same, in units of half the source height.
        dt: the same, in units of half the source length.
    """

    s_p: Tensor
    s_t: Tensor
    theta: Tensor | None
    dx: Tensor
    dy: Tensor
    dt: Tensor


def affine_matrix(params: CropParams) -> Tensor:
    """Eq. 3, with a = b = c = d = 0 -> (B, 3, 4).

    The rotation entries are not multiplied by s_p, as in the printed equation: a rotated crop is also sheared and
    scaled.
    """
    zero = torch.zeros_like(params.s_p)
    theta = zero if params.theta is None else params.theta
    rows = [
        [params.s_p * theta.cos(), -theta.sin(), zero, params.dx],
        [theta.sin(), params.s_p * theta.cos(), zero, params.dy],
        [zero, zero, params.s_t, params.dt],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], 1)


def map_to_source(matrix: Tensor, points: Tensor) -> Tensor:
    """Eq. 4: crop coordinates (N, 3) -> source coordinates (B, N, 3)."""
    return points @ matrix[:, :, :3].mT + matrix[:, None, :, 3]


def pixel_centres(n: int, like: Tensor) -> Tensor:
    """Normalised coordinates of n pixels (or frames): (n,), with the device and dtype of ``like``."""
    return (2 * torch.arange(n, device=like.device, dtype=like.dtype) + 1) / n - 1


def to_pixels(coordinates: Tensor, n: int) -> Tensor:
    """Normalised coordinates -> pixel (or frame) units, clamped to [0, n - 1] (border padding).

    The gradient is 0 at the border and beyond, as in ``grid_sample``. That of ``clamp`` at the border itself depends on
    the version of torch.
    """
    return F.hardtanh(((coordinates + 1) * n - 1) / 2, 0, n - 1)


def crop_box(params: CropParams) -> Tensor:
    """The crop as a box in the unit cube: (B, 3, 2), axes (x, y, t), [low, high], in [0, 1].

    Rotation is ignored: the box of a rotated crop is its box before rotation.
    """
    centre = torch.stack([params.dx, params.dy, params.dt], -1)
    scale = torch.stack([params.s_p, params.s_p, params.s_t], -1)
    return (torch.stack([centre - scale, centre + scale], -1) + 1) / 2


def box_in_video(box: Tensor, cube: Tensor, flip: Tensor) -> Tensor:
    """A box in the (flipped) clip -> the same box in the whole video.

    Args:
        box: (B, 3, 2), in the coordinates of the clip that the crop is taken from.
        cube: (B, 3, 2), where R_1 or R_2 cut that clip from the video, in [0, 1] of the video.
        flip: bool (B,), whether the clip was mirrored in x before the crop.
    """
    mirrored = torch.stack([1 - box[:, 0].flip(-1), box[:, 1], box[:, 2]], 1)
    box = torch.where(flip[:, None, None], mirrored, box)
    low, size = cube[..., :1], cube[..., 1:] - cube[..., :1]
    return low + box * size


def iou(box_1: Tensor, box_2: Tensor) -> Tensor:
    """Intersection over union by volume of two sets of boxes (B, 3, 2) -> (B,) in [0, 1]."""
    low = torch.maximum(box_1[..., 0], box_2[..., 0])
    high = torch.minimum(box_1[..., 1], box_2[..., 1])
    intersection = (high - low).clamp(min=0).prod(-1)
    volumes = (box_1[..., 1] - box_1[..., 0]).prod(-1) + (box_2[..., 1] - box_2[..., 0]).prod(-1)
    return intersection / (volumes - intersection).clamp(min=1e-12)


def centre_distance(box_1: Tensor, box_2: Tensor) -> Tensor:
    """Manhattan distance between the centres of two sets of boxes (B, 3, 2) in the unit cube -> (B,).

    This is the distance of Figure 5. With a minimum scale of 0.5 its maximum is 3 x 0.5 = 1.5.
    """
    return (box_1.mean(-1) - box_2.mean(-1)).abs().sum(-1)
