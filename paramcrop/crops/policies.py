"""Crop policies with nothing to learn, with ParamCrop's signature: (noise, progress) -> the crops of both views.

They are functions of the same noise, which travels with the samples, so their crops too depend on neither worker nor
order. Whatever the noise's distribution, ``uniform`` makes it uniform.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from paramcrop.crops.geometry import CropParams
from paramcrop.crops.paramcrop import Ranges, keep_axes, to_ranges

NUMBERS = 9  # of a view's noise that a policy here uses; less noise cannot drive it
AXES = {"both": (0, 1, 2), "spatial": (0, 1), "temporal": (2,)}  # of (x, y, t)


def uniform(noise: Tensor, distribution: str) -> Tensor:
    """Noise ("normal", or "uniform" over [-1, 1]) -> uniform over [0, 1], same shape, float32."""
    noise = noise.float()
    return torch.special.ndtr(noise) if distribution == "normal" else (noise + 1) / 2


class WholeClip(nn.Module):
    """No crop: both views are the whole clip."""

    def forward(self, noise: Tensor, progress: float = 0.0) -> tuple[CropParams, CropParams]:
        one, zero = noise.new_ones(len(noise)), noise.new_zeros(len(noise))
        params = CropParams(one, one, None, zero, zero, zero)
        return params, params

    def telemetry(self, noise: Tensor) -> dict[str, Tensor]:
        return {}


class RandomCrops(nn.Module):
    """Scale, place and angle of each view drawn uniformly from all that Eq. 6 allows: Table 1's "random".

    Args:
        ranges, axes, noise: as ParamCrop's.
    """

    def __init__(self, ranges: Ranges, axes: str = "both", noise: str = "normal") -> None:
        super().__init__()
        self.ranges, self.axes, self.noise = ranges, axes, noise

    def forward(self, noise: Tensor, progress: float = 0.0) -> tuple[CropParams, CropParams]:
        u = uniform(noise, self.noise)
        first, second = (keep_axes(to_ranges(u[:, i, :6], self.ranges), self.axes) for i in range(2))
        return first, second

    def telemetry(self, noise: Tensor) -> dict[str, Tensor]:
        return {}


class DistanceCrops(nn.Module):
    """Pairs of crops whose centres have a set Manhattan distance (Figure 5's measure), otherwise drawn at random.

    "Simple" and "hard" keep it, "manual simulation" raises it (Table 1).

    Args:
        distance: of progress (share of training done, in [0, 1]), in units of the clip.
        ranges, axes, noise: as ParamCrop's. Scales are drawn only as large as leaves room for the distance.

    Raises:
        ValueError: the smallest scales leave no room for a distance.
    """

    def __init__(
        self, distance: Callable[[float], float], ranges: Ranges, axes: str = "both", noise: str = "normal"
    ) -> None:
        super().__init__()
        self.distance, self.ranges, self.axes, self.noise = distance, ranges, axes, noise
        room = 3 - 2 * ranges.s_p[0] - ranges.s_t[0]
        room = {"both": room, "spatial": 2 * (1 - ranges.s_p[0]), "temporal": 1 - ranges.s_t[0]}[axes]
        wanted = max(distance(0.0), distance(1.0))
        if wanted > room:
            raise ValueError(f"the smallest scales must leave room for the centre distance, {wanted}, but leave {room}")

    def forward(self, noise: Tensor, progress: float = 0.0) -> tuple[CropParams, CropParams]:
        u = uniform(noise, self.noise)
        distance = self.distance(progress)
        scales = self.draw_scales(u[:, :, :2], distance)  # (B, 2, 3)
        centres = place(scales, distance, AXES[self.axes], u[:, :, 2:8])  # (B, 2, 3), in [0, 1]
        theta = self.ranges.theta * (2 * u[:, :, 8] - 1) if self.ranges.theta else None
        first, second = (
            CropParams(
                *(scales[:, i, 0], scales[:, i, 2], None if theta is None else theta[:, i]),
                *(2 * centres[:, i] - 1).unbind(-1),
            )
            for i in range(2)
        )
        return first, second

    def draw_scales(self, u: Tensor, distance: float) -> Tensor:
        """(B, 2, 2) in [0, 1] -> scales of x, y and t, (B, 2, 3): uniform from the smallest to what leaves room."""
        (p_low, p_high), (t_low, t_high) = self.ranges.s_p, self.ranges.s_t
        share = self._room_share(distance)
        p_high, t_high = min(p_high, 1 - (1 - p_low) * share), min(t_high, 1 - (1 - t_low) * share)
        s_p, s_t = p_low + u[..., 0] * (p_high - p_low), t_low + u[..., 1] * (t_high - t_low)
        s_p = torch.ones_like(s_p) if self.axes == "temporal" else s_p
        s_t = torch.ones_like(s_t) if self.axes == "spatial" else s_t
        return torch.stack([s_p, s_p, s_t], -1)

    def _room_share(self, distance: float) -> float:
        """The share of the room that the smallest scales leave which ``distance`` needs."""
        rooms = (1 - self.ranges.s_p[0], 1 - self.ranges.s_p[0], 1 - self.ranges.s_t[0])
        return distance / max(sum(rooms[axis] for axis in AXES[self.axes]), 1e-12)

    def telemetry(self, noise: Tensor) -> dict[str, Tensor]:
        return {}


def place(scales: Tensor, distance: float, axes: tuple[int, ...], u: Tensor) -> Tensor:
    """Centres of both crops, so far apart, somewhere inside the clip.

    Args:
        scales: (B, 2, 3), which leave room for ``distance`` along ``axes``.
        u: (B, 2, 6) uniform over [0, 1]: how the distance is divided among the axes, its signs, the place.

    Returns:
        (B, 2, 3) in [0, 1].
    """
    room = 1 - scales.mean(1)  # of the centres' distance, per axis
    apart = divide(distance, room[:, list(axes)], u[:, 0, :3], u[:, 1, :3])
    delta = torch.zeros_like(room)
    delta[:, list(axes)] = apart
    delta = torch.where(u[:, 0, 3:] < 0.5, delta, -delta)  # second centre minus first
    half = scales / 2
    low = torch.maximum(half[:, 0], half[:, 1] - delta)
    high = torch.minimum(1 - half[:, 0], 1 - half[:, 1] - delta)
    first = low + u[:, 1, 3:] * (high - low)
    return torch.stack([first, first + delta], 1)


def divide(total: float, room: Tensor, order: Tensor, u: Tensor) -> Tensor:
    """``total`` as a sum of one part per axis, (B, n), none above its ``room`` (B, n).

    Axis by axis, in the order of ``order`` (B, >= n): a part uniform (``u``) among those that leave the rest possible.
    """
    n = room.shape[1]
    turn = order[:, :n].argsort(1)
    room = room.gather(1, turn)
    left, parts = torch.full_like(room[:, 0], total), []
    for i in range(n):
        least = (left - room[:, i + 1 :].sum(1)).clamp(min=0)
        part = least + u[:, i] * (torch.minimum(room[:, i], left) - least)
        parts.append(part)
        left = left - part
    return torch.zeros_like(room).scatter(1, turn, torch.stack(parts, 1))


def simple_crops(simple: float, ranges: Ranges, axes: str, noise: str) -> DistanceCrops:
    """Table 1's "simple": crops that stay close."""
    return DistanceCrops(constant(simple), ranges, axes, noise)


def hard_crops(hard: float, ranges: Ranges, axes: str, noise: str) -> DistanceCrops:
    """Table 1's "hard": crops that stay far apart."""
    return DistanceCrops(constant(hard), ranges, axes, noise)


def manual_crops(manual: tuple[float, float], ranges: Ranges, axes: str, noise: str) -> DistanceCrops:
    """Table 1's "manual simulation": crops that grow apart by a plan."""
    return DistanceCrops(smooth_step(*manual), ranges, axes, noise)


def smooth_step(start: float, end: float) -> Callable[[float], float]:
    """Progress in [0, 1] -> from ``start`` to ``end``, level at both ends: 3 p^2 - 2 p^3 of the way."""

    def value(progress: float) -> float:
        p = min(max(progress, 0.0), 1.0)
        return start + (end - start) * p * p * (3 - 2 * p)

    return value


def constant(distance: float) -> Callable[[float], float]:
    def value(progress: float) -> float:
        return distance

    return value
