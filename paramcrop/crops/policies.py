"""Crop policies without parameters. They have ParamCrop's signature: (noise, progress) -> the crops of both views.

They are functions of the noise that each sample carries, so their crops do not depend on the worker or on the order of
the samples. ``uniform`` turns noise of either distribution into uniform numbers.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from paramcrop.crops.geometry import CropParams
from paramcrop.crops.paramcrop import Ranges, keep_axes, to_ranges

NUMBERS = 9  # noise values per view that these policies use; ``noise_size`` must be at least this
AXES = {"both": (0, 1, 2), "spatial": (0, 1), "temporal": (2,)}  # indices into (x, y, t)


class Policy(typing.Protocol):
    """A crop policy (setting ``policy``). Your own policy is an ``nn.Module`` with these methods."""

    training: bool

    def __call__(self, noise: Tensor, progress: float) -> tuple[CropParams, CropParams]:
        """The crops of both views of each clip. Define it as ``forward``.

        Args:
            noise: float32 (B, 2, m), m = ``cropper.noise_size``: one row per view, drawn per sample. Crops that depend
                only on this noise do not depend on the worker or on the order of the samples.
            progress: fraction of training done, in [0, 1].

        Returns:
            ``CropParams`` of each view, float32 (B,) each (``theta`` may be None); their gradient reaches
            ``parameters``.
        """
        ...

    def telemetry(self, noise: Tensor) -> dict[str, Tensor]:
        """Scalars to log besides the crops, by name; the names must be the same at every step."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Inherited from ``nn.Module``; trained by the croppers' optimizer."""
        ...

    def train(self, mode: bool = True) -> nn.Module:
        """Inherited from ``nn.Module``."""
        ...


def uniform(noise: Tensor, distribution: str) -> Tensor:
    """Noise ("normal", or "uniform" over [-1, 1]) -> uniform over [0, 1], float32, of the same shape."""
    noise = noise.float()
    return torch.special.ndtr(noise) if distribution == "normal" else (noise + 1) / 2


class WholeClip(nn.Module):
    """No crop of the clip: R_1 and R_2, which cut the clips from the video, are the only crops.

    With them on, these are the paper's random crops (Table 1's "random"); without, both views are one clip.
    """

    def forward(self, noise: Tensor, progress: float = 0.0) -> tuple[CropParams, CropParams]:
        one, zero = noise.new_ones(len(noise)), noise.new_zeros(len(noise))
        params = CropParams(one, one, None, zero, zero, zero)
        return params, params

    def telemetry(self, noise: Tensor) -> dict[str, Tensor]:
        return {}


class RandomCrops(nn.Module):
    """Nested random crops: scale, position and angle of each view are uniform over the ranges of Eq. 6.

    They lie within the clips that R_1 and R_2 cut at random. The paper's random crops are ``WholeClip``.

    Args:
        ranges, axes, noise: as in ``ParamCrop``.
    """

    def __init__(self, ranges: Ranges, axes: str = "both", noise: str = "normal") -> None:
        super().__init__()
        self.ranges, self.axes, self.noise = Ranges.of(ranges), axes, noise

    def forward(self, noise: Tensor, progress: float = 0.0) -> tuple[CropParams, CropParams]:
        u = uniform(noise, self.noise)
        first, second = (keep_axes(to_ranges(u[:, i, :6], self.ranges), self.axes) for i in range(2))
        return first, second

    def telemetry(self, noise: Tensor) -> dict[str, Tensor]:
        return {}


class DistanceCrops(nn.Module):
    """Random pairs of crops whose centres have a given Manhattan distance (the distance of Figure 5).

    The distance is constant in "simple" and "hard" and grows in "manual simulation" (Table 1).

    Args:
        distance: progress (fraction of training done, in [0, 1]) -> distance, in units of the clip.
        ranges, axes, noise: as in ``ParamCrop``. The maximum scale shrinks if the distance needs the room.
        alike: both crops of a pair have the same scales, so that close crops also overlap.

    Raises:
        ValueError: even the smallest scales leave too little room for the distance.
    """

    def __init__(
        self,
        distance: Callable[[float], float],
        ranges: Ranges,
        axes: str = "both",
        noise: str = "normal",
        alike: bool = False,
    ) -> None:
        super().__init__()
        self.distance, self.ranges, self.axes, self.noise, self.alike = distance, ranges, axes, noise, alike
        room = 3 - 2 * ranges.s_p[0] - ranges.s_t[0]
        room = {"both": room, "spatial": 2 * (1 - ranges.s_p[0]), "temporal": 1 - ranges.s_t[0]}[axes]
        largest = max(distance(0.0), distance(1.0))
        if largest > room:
            raise ValueError(
                f"the centre distance must be at most {room:g}, the room that the smallest scales leave, "
                f"but is {largest:g}"
            )

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
        """Uniform numbers (B, 2, 2) in [0, 1] -> scales of x, y and t, (B, 2, 3), that leave room for the distance."""
        (p_low, p_high), (t_low, t_high) = self.ranges.s_p, self.ranges.s_t
        u = u[:, :1].expand_as(u) if self.alike else u
        share = self._room_share(distance)
        p_high, t_high = min(p_high, 1 - (1 - p_low) * share), min(t_high, 1 - (1 - t_low) * share)
        s_p, s_t = p_low + u[..., 0] * (p_high - p_low), t_low + u[..., 1] * (t_high - t_low)
        s_p = torch.ones_like(s_p) if self.axes == "temporal" else s_p
        s_t = torch.ones_like(s_t) if self.axes == "spatial" else s_t
        return torch.stack([s_p, s_p, s_t], -1)

    def _room_share(self, distance: float) -> float:
        """Fraction of the room left by the smallest scales that ``distance`` needs."""
        rooms = (1 - self.ranges.s_p[0], 1 - self.ranges.s_p[0], 1 - self.ranges.s_t[0])
        return distance / max(sum(rooms[axis] for axis in AXES[self.axes]), 1e-12)

    def telemetry(self, noise: Tensor) -> dict[str, Tensor]:
        return {}


def place(scales: Tensor, distance: float, axes: tuple[int, ...], u: Tensor) -> Tensor:
    """Random centres of both crops at ``distance`` from each other, with both crops inside the clip.

    Args:
        scales: (B, 2, 3), which leave room for ``distance`` along ``axes``.
        u: (B, 2, 6), uniform over [0, 1]: division of the distance among the axes, its signs, the position.

    Returns:
        (B, 2, 3) in [0, 1].
    """
    room = 1 - scales.mean(1)  # largest distance of the centres, per axis
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
    """Split ``total`` into one part per axis, (B, n), none larger than its ``room`` (B, n).

    The axes take turns in the random order of ``order`` (B, >= n). Each part is uniform (``u``) between the least that
    the remaining axes cannot hold and the most that fits.
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
    """Table 1's "simple": crops of one size that stay close."""
    return DistanceCrops(constant(simple), ranges, axes, noise, alike=True)


def hard_crops(hard: float, ranges: Ranges, axes: str, noise: str) -> DistanceCrops:
    """Table 1's "hard": crops that stay far apart."""
    return DistanceCrops(constant(hard), ranges, axes, noise)


def manual_crops(manual: tuple[float, float], ranges: Ranges, axes: str, noise: str) -> DistanceCrops:
    """Table 1's "manual simulation": crops of one size that move apart on a fixed schedule."""
    return DistanceCrops(smooth_step(*manual), ranges, axes, noise, alike=True)


def smooth_step(start: float, end: float) -> Callable[[float], float]:
    """Schedule from ``start`` to ``end`` over progress p in [0, 1]: 3 p^2 - 2 p^3, flat at both ends."""

    def value(progress: float) -> float:
        p = min(max(progress, 0.0), 1.0)
        return start + (end - start) * p * p * (3 - 2 * p)

    return value


def constant(distance: float) -> Callable[[float], float]:
    def value(progress: float) -> float:
        return distance

    return value
