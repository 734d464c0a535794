"""Frames that show their numbers."""

from __future__ import annotations

import numpy as np


def counting(frames: int) -> np.ndarray:
    """Every frame shows its number in seven bits, as white or black squares: uint8 (frames, 32, 56, 3)."""
    bits = np.arange(frames)[:, None] >> np.arange(7) & 1
    squares = np.repeat(np.repeat(bits.reshape(frames, 1, 7), 8, 2), 32, 1)[..., :56]
    return (squares[..., None] * 200 + 28).astype(np.uint8).repeat(3, 3)


def numbers_in(pixels: np.ndarray) -> list[int]:
    """What ``counting`` wrote into each of these frames."""
    squares = pixels[:, 4:28, :, 1].mean(1).reshape(len(pixels), 7, 8)[..., 2:6].mean(2)
    found: list[int] = ((squares > 128) << np.arange(7)).sum(1).tolist()
    return found
