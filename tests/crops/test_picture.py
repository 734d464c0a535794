"""Colours and scaling of stored planes: known values, torch's own scaling, and the Triton kernel in its interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from paramcrop.crops.picture import plain_clips, scaled, tap_count, taps, to_rgb

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def planes(n: int, frames: int, side: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, frames, side * 3 // 2, side), dtype=torch.uint8, generator=g)


def one_colour(y: int, u: int, v: int) -> list[int]:
    stored = torch.tensor([y] * 4 + [u, v], dtype=torch.uint8).view(1, 3, 2)
    rgb = to_rgb(stored)
    assert (rgb == rgb[:, :, :1, :1]).all()
    return rgb[0, :, 0, 0].tolist()


@pytest.mark.parametrize(
    ("stored", "colour"),
    [
        ((16, 128, 128), (0, 0, 0)),
        ((235, 128, 128), (255, 255, 255)),
        ((126, 128, 128), (128, 128, 128)),
        ((81, 90, 240), (255, 0, 0)),  # BT.601's bars, of ITU-R BT.601
        ((145, 54, 34), (0, 255, 0)),
        ((41, 240, 110), (0, 0, 255)),
        ((0, 128, 128), (0, 0, 0)),  # outside the limited range: clamped
        ((255, 128, 128), (255, 255, 255)),
    ],
)
def test_the_matrix_and_range_are_bt601s_limited(stored: tuple[int, int, int], colour: tuple[int, ...]) -> None:
    assert np.abs(np.array(one_colour(*stored)) - colour).max() <= 2


def test_colours_are_the_exact_ones_rounded_down() -> None:
    stored = planes(1, 4, 32)[0]
    y = stored[:, :32].double().numpy() - 16
    u, v = (
        c.repeat(2, 1).repeat(2, 2) for c in stored[:, 32:].reshape(4, 2, 16, 16).double().numpy().swapaxes(0, 1) - 128
    )
    exact = 255 / 219 * y, 255 / 224 * u, 255 / 224 * v
    red, green, blue = exact[0] + 1.402 * exact[2], 0, exact[0] + 1.772 * exact[1]
    green = exact[0] - 0.344136 * exact[1] - 0.714136 * exact[2]
    for colour, found in zip((red, green, blue), to_rgb(stored).numpy().swapaxes(0, 1), strict=True):
        difference = np.clip(colour, 0, 255) - found
        assert difference.min() > -0.1 and difference.max() < 3.1 and difference.mean() < 1.5


def test_a_chroma_sample_is_for_its_four_pixels() -> None:
    stored = torch.full((1, 12, 8), 128, dtype=torch.uint8)
    stored[0, 8:].view(2, 4, 4)[1, 1, 2] = 200  # V of rows 2 and 3, columns 4 and 5
    red = to_rgb(stored)[0, 0] > 140
    assert red.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


@pytest.mark.parametrize("side", [1, 2, 84, 97, 111, 112, 128, 129, 150, 224])
def test_taps_are_torchs_weights(side: int) -> None:
    """Torch scales uint8 in whole numbers: the columns first, rounded, then the rows."""
    frames = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))
    start, weight, shift = taps(side, 128)
    assert weight.shape == (128, tap_count(side, 128))
    place = np.minimum(start[:, None] + np.arange(weight.shape[1]), side - 1)
    whole = frames.numpy().astype(np.int64)
    across = np.clip((whole[..., place] * weight).sum(-1) + (1 << shift - 1) >> shift, 0, 255)
    down = np.clip((across[..., place, :] * weight[..., None]).sum(-2) + (1 << shift - 1) >> shift, 0, 255)
    np.testing.assert_array_equal(scaled(frames, 128).numpy(), down)


BOXES = [[0, 0, 20, 16], [1, 3, 17, 16], [5, 4, 15, 16], [3, 2, 16, 16]]


def test_clips_are_squares_of_the_colours_scaled() -> None:
    stored = planes(4, 2, 22)
    clips = plain_clips(stored, torch.tensor(BOXES))
    for clip, some, (top, left, side, size) in zip(clips, stored, BOXES, strict=True):
        square = to_rgb(some)[..., top : top + side, left : left + side]
        torch.testing.assert_close(clip, scaled(square, size).permute(0, 2, 3, 1))


@pytest.mark.parametrize("size", [16, 24, 13])  # 13: rows and columns become fewer, with up to five taps
def test_the_kernel_makes_the_same_bytes(size: int) -> None:
    pytest.importorskip("triton")
    from paramcrop.crops.picture_kernel import fused_clips

    stored, boxes = planes(4, 2, 22).to(DEVICE), torch.tensor([[*box[:3], size] for box in BOXES])
    assert torch.equal(fused_clips(stored, boxes).cpu(), plain_clips(stored, boxes).cpu())
