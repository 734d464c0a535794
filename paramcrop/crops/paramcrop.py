"""The learned crop: noise -> MLP (Eq. 5) -> gradient reversal -> early stopping (Eq. 7) -> ranges (Eq. 6), per view."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paramcrop.crops.geometry import CropParams
from paramcrop.crops.resample import ROUNDINGS, check_size, check_video, crop_cube, to_float
from paramcrop.models.mlp import mlp

NAMES = ("s_p", "s_t", "theta", "dx", "dy", "dt")  # the order of Eq. 5 and 6


class Ranges(NamedTuple):
    """Minimum and maximum in Eq. 6 of the parameters whose range is a setting."""

    s_p: tuple[float, float] = (0.5, 1.0)
    s_t: tuple[float, float] = (0.5, 1.0)
    theta: float = 0.0  # rotation in [-theta, theta], radians; 0: no rotation

    @classmethod
    def of(cls, ranges: tuple[Any, ...]) -> Ranges:
        """``Ranges``, or a plain tuple of its fields, such as ((0.5, 1), (0.5, 1)).

        Raises:
            ValueError: it is something else, or a range is not in order.
        """
        try:
            (p_low, p_high), (t_low, t_high), theta = made = cls(*ranges)
            finite = all(math.isfinite(x) for x in (p_low, p_high, t_low, t_high, theta))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            needed = "Ranges(s_p=(minimum, maximum), s_t=(minimum, maximum), theta=radians)"
            raise ValueError(f"ranges must be {needed}, but is {ranges!r}")
        for name, low, high in (("s_p", p_low, p_high), ("s_t", t_low, t_high)):
            if not 0 < low <= high <= 1:
                raise ValueError(f"0 < minimum <= maximum <= 1 must hold for {name}, but got {low=}, {high=}")
        return made


PAPER_RANGES = Ranges()


def crop_mlp(noise_size: int = 32, hidden: int = 64, layers: int = 2, batch_norm: bool = False) -> nn.Sequential:
    """Eq. 5 before its sigmoid: (B, noise_size) -> (B, 6), ``layers`` linear layers with bias and ReLU in between.

    Eq. 5 prints no bias, but the parameter counts of Table 7 (396 and 0.005M for a pair) require one.

    Raises:
        ValueError: ``layers`` is below 1.
    """
    if layers < 1:
        raise ValueError(f"layers >= 1 must hold, but got {layers=}")
    return mlp([noise_size, *[hidden] * (layers - 1), len(NAMES)], batch_norm)


def early_stop(v: Tensor, lower: float = 0.2, upper: float = 0.8) -> Tensor:
    """Eq. 7: entries of v at or beyond a bound keep their value and pass no gradient.

    It stops gradients, not weights: other samples and momentum still move the shared weights.
    """
    # where(), not a branch: if all entries are cut, the weights then get zero gradients, not None, which DDP rejects.
    return torch.where(outside(v, lower, upper), v.detach(), v)


def outside(v: Tensor, lower: float, upper: float) -> Tensor:
    """Where Eq. 7 cuts the gradient: bool, with the shape of v."""
    return (v <= lower) | (v >= upper)


def to_ranges(v: Tensor, ranges: Ranges = PAPER_RANGES) -> CropParams:
    """Eq. 6: v (B, 6) in (0, 1) -> parameters.

    The range of an offset is plus or minus (1 - s), where s is the predicted scale and is not detached. So every crop
    lies inside the source, and the gradient of an offset also reaches its scale.
    """

    def between(low: Tensor | float, high: Tensor | float, entry: Tensor) -> Tensor:
        return low + entry * (high - low)

    v_sp, v_st, v_theta, v_dx, v_dy, v_dt = v.unbind(-1)
    s_p, s_t = between(*ranges.s_p, v_sp), between(*ranges.s_t, v_st)
    theta = between(-ranges.theta, ranges.theta, v_theta) if ranges.theta else None
    dx, dy = between(s_p - 1, 1 - s_p, v_dx), between(s_p - 1, 1 - s_p, v_dy)
    return CropParams(s_p, s_t, theta, dx, dy, between(s_t - 1, 1 - s_t, v_dt))


def draw_noise(n: int, size: int, distribution: str = "normal", generator: torch.Generator | None = None) -> Tensor:
    """Noise for n videos and both croppers: float32 (n, 2, size), on the generator's device (default: CPU)."""
    device = generator.device if generator is not None else None
    if distribution == "uniform":
        return torch.rand(n, 2, size, generator=generator, device=device) * 2 - 1
    return torch.randn(n, 2, size, generator=generator, device=device)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


def reverse_gradient(x: Tensor) -> Tensor:
    """Identity in the forward pass, gradient times -1 in the backward pass.

    The optimiser minimises the loss with respect to everything after this layer and maximises it with respect to
    everything before it.
    """
    reversed_: Tensor = _Reverse.apply(x)
    return reversed_


class ParamCrop(nn.Module):
    """Two croppers that learn to make two views hard to match. Each has its own weights and its own noise.

    ``forward`` predicts the crops and ``crop_cube`` applies them; ``views`` does both. Minimise a loss of the views as
    usual: with ``reversal`` the croppers maximise it.

    Args:
        ranges: scales and rotation (Eq. 6).
        bounds: (v_l, v_u) of the early stopping (Eq. 7); None: no early stopping.
        reversal: True: the croppers maximise the loss. False: they minimise it (Table 3).
        axes: "both", "spatial" or "temporal"; the other axes are not cropped (Table 13).
        layers, noise_size, hidden, batch_norm: the MLP (Eq. 5). Table 7's parameter counts imply 2, 32 and 64.
        noise: "normal" or "uniform" over [-1, 1]; the paper does not state it.
        size: (frames, height, width) of a view from ``views``.
        rounding: rounding of Eq. 8, "round" or "floor".

    Raises:
        ValueError: a range or bound is not in order, or a choice is unknown.
    """

    def __init__(
        self,
        ranges: Ranges = PAPER_RANGES,
        bounds: tuple[float, float] | None = (0.2, 0.8),
        reversal: bool = True,
        axes: str = "both",
        layers: int = 2,
        noise_size: int = 32,
        hidden: int = 64,
        batch_norm: bool = False,
        noise: str = "normal",
        size: tuple[int, int, int] = (16, 112, 112),
        rounding: str = "round",
    ) -> None:
        super().__init__()
        ranges, size = Ranges.of(ranges), check_size(size)
        if bounds is not None and not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ValueError(f"0 <= v_l <= v_u <= 1 must hold, but got {bounds=}")
        if axes not in ("both", "spatial", "temporal"):
            raise ValueError(f"axes must be 'both', 'spatial' or 'temporal', but got {axes!r}")
        if noise not in ("normal", "uniform"):
            raise ValueError(f"noise must be 'normal' or 'uniform', but got {noise!r}")
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {tuple(ROUNDINGS)}, but got {rounding!r}")
        self.croppers = nn.ModuleList(crop_mlp(noise_size, hidden, layers, batch_norm) for _ in range(2))
        self.ranges, self.bounds, self.reversal, self.axes = ranges, bounds, reversal, axes
        self.noise_size, self.noise, self.size, self.rounding = noise_size, noise, size, rounding

    def draw_noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise for n videos and both croppers: float32 (n, 2, noise_size); see the function ``draw_noise``."""
        return draw_noise(n, self.noise_size, self.noise, generator)

    def values(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 5: noise (B, 2, m) -> v of each cropper before Eq. 7, (B, 6) in (0, 1), float32.

        Of croppers in float64 it is float64. Croppers in half precision compute in it, but their crops do not: 8 bits
        are too few for coordinates.
        """
        dtype = next(self.parameters()).dtype
        with torch.autocast(noise.device.type, enabled=False):
            v_1, v_2 = (cropper(noise[:, i].to(dtype)) for i, cropper in enumerate(self.croppers))
        precise = torch.promote_types(dtype, torch.float32)
        return torch.sigmoid(v_1.to(precise)), torch.sigmoid(v_2.to(precise))

    def forward(self, noise: Tensor, progress: float = 0.0) -> tuple[CropParams, CropParams]:
        """Predict both crops.

        Args:
            noise: (B, 2, m), see ``draw_noise``.
            progress: fraction of training done, in [0, 1]. It belongs to the signature of every policy; unused here.
        """
        first, second = (self._params(v) for v in self.values(noise))
        return first, second

    def telemetry(self, noise: Tensor) -> dict[str, Tensor]:
        """Scalars to log: ``saturated``, the fraction of v's entries that can learn whose gradient Eq. 7 cuts."""
        with torch.no_grad():
            v = torch.stack(self.values(noise))
            if self.bounds is None or not self.learned:
                return {"saturated": v.new_zeros(())}
            # One entry after the other: a list as index would be copied to the GPU, which a CUDA graph cannot record.
            cut = outside(torch.stack([v[..., i] for i in self.learned], -1), *self.bounds)
            return {"saturated": cut.float().mean()}

    @property
    def learned(self) -> list[int]:
        """Entries of v, in the order of ``NAMES``, that change a crop: those whose range and axis leave them room."""
        (p_low, p_high), (t_low, t_high) = self.ranges.s_p, self.ranges.s_t
        spatial, temporal = self.axes != "temporal", self.axes != "spatial"
        moves = {
            "s_p": spatial and p_low < p_high,
            "s_t": temporal and t_low < t_high,
            "theta": spatial and self.ranges.theta != 0,
            "dx": spatial and p_low < 1,
            "dy": spatial and p_low < 1,
            "dt": temporal and t_low < 1,
        }
        return [i for i, name in enumerate(NAMES) if moves[name]]

    def views(
        self, video_1: Tensor, video_2: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Crop two views of RGB videos: (B, C, T, H, W) -> two tensors (B, C, *size), float32.

        Pixels are uint8 in [0, 255], which become [0, 1], or floating point in any range, which stay as they are.

        Args:
            video_2: source of the second view, if it has another augmentation or another window in time than the first.
            noise: see ``draw_noise``; None: drawn here.

        Raises:
            ValueError: a video is no tensor of this shape and dtype.
        """
        for video in (video_1, video_2):
            if video is not None:
                check_video(video)
        noise = self.draw_noise(len(video_1)) if noise is None else noise
        first, second = self(noise.to(video_1.device))
        video_2 = video_1 if video_2 is None else video_2
        return (
            crop_cube(video_1, first, self.size, to_float, self.rounding),
            crop_cube(video_2, second, self.size, to_float, self.rounding),
        )

    def _params(self, v: Tensor) -> CropParams:
        if self.reversal:
            v = reverse_gradient(v)
        if self.bounds is not None:
            v = early_stop(v, *self.bounds)
        return keep_axes(to_ranges(v, self.ranges), self.axes)


def keep_axes(params: CropParams, axes: str) -> CropParams:
    """Table 13: "spatial" keeps the whole length, "temporal" the whole frame.

    Unused parameters are multiplied by zero instead of replaced, so that their weights get zero gradients for DDP.
    """
    if axes == "spatial":
        return params._replace(s_t=params.s_t * 0 + 1, dt=params.dt * 0)
    if axes == "temporal":
        return params._replace(s_p=params.s_p * 0 + 1, theta=None, dx=params.dx * 0, dy=params.dy * 0)
    return params
