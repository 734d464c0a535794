"""Flip and colour jitter of a batch on its device, with the same random numbers for every frame of a clip.

Each colour operation equals torchvision's, but takes one factor per sample instead of one per call. The random numbers
are drawn with the samples (``paramcrop.data.clips``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from paramcrop.crops.resample import to_float

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma


class Augmentation(NamedTuple):
    """The random numbers of one view of each sample."""

    flip: Tensor  # bool (B,): mirror in x
    order: Tensor  # int64 (B, 4): indices into OPERATIONS, first operation first
    factors: Tensor  # float32 (B, 4): brightness, contrast, saturation (1: none), hue shift in turns (0: none)


def augment(frames: Tensor, drawn: Augmentation) -> Tensor:
    """Flip, then jitter: (B, 3, n, H, W) uint8 or float in [0, 1] -> float32 in [0, 1], for any n.

    Contrast uses the mean of each frame, so that a frame's pixels do not depend on which other frames are in the batch.
    """
    flipped = torch.where(drawn.flip[:, None, None, None, None], frames.flip(-1), frames)
    return color_jitter(to_float(flipped), drawn.order, drawn.factors)


def color_jitter(frames: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """The four operations in each sample's order, clamped to [0, 1] after each one; (B, 3, n, H, W) -> the same shape.

    With ``order`` and ``factors`` on the CPU, finding the rows of an operation needs no synchronisation with a GPU.
    """
    frames, order, factors = frames.clone(), order.cpu(), factors.cpu()
    for place in range(order.shape[1]):
        for number, (operation, neutral) in enumerate(OPERATIONS):
            rows = ((order[:, place] == number) & (factors[:, number] != neutral)).nonzero()[:, 0]
            if len(rows):
                factor = factors[rows, number].to(frames.device)[:, None, None, None, None]
                rows = rows.to(frames.device)
                frames[rows] = operation(frames[rows], factor)
    return frames


def brightness(frames: Tensor, factor: Tensor) -> Tensor:
    return (frames * factor).clamp(0, 1)


def contrast(frames: Tensor, factor: Tensor) -> Tensor:
    mean = grey(frames).mean((-2, -1), keepdim=True)  # (B, 1, n, 1, 1)
    return torch.lerp(mean, frames, factor).clamp(0, 1)


def saturation(frames: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(grey(frames), frames, factor).clamp(0, 1)


def hue(frames: Tensor, turns: Tensor) -> Tensor:
    """Rotate the HSV hue by ``turns`` of the colour circle; value and saturation stay the same."""
    value, lowest = frames.amax(1, keepdim=True), frames.amin(1, keepdim=True)
    chroma = value - lowest
    r, g, b = frames.unbind(1)
    high, span = value[:, 0], chroma[:, 0].clamp(min=1e-12)
    sextant = torch.where(
        high == r, (g - b) / span, torch.where(high == g, 2 + (b - r) / span, 4 + (r - g) / span)
    )  # hue in sixths of a turn
    shifted = sextant[:, None] + 6 * turns
    # Channel n of (r, g, b) = (5, 3, 1) is V - C max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6.
    k = (shifted + frames.new_tensor([5.0, 3.0, 1.0])[:, None, None, None]).remainder(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def grey(frames: Tensor) -> Tensor:
    """(B, 3, ...) -> (B, 1, ...)."""
    return (frames * frames.new_tensor(GREY)[:, None, None, None]).sum(1, keepdim=True)


# In torchvision's order, each with its neutral factor.
OPERATIONS: tuple[tuple[Callable[[Tensor, Tensor], Tensor], float], ...] = (
    (brightness, 1.0),
    (contrast, 1.0),
    (saturation, 1.0),
    (hue, 0.0),
)
