"""A view as the input of the network: one crop of an augmented, normalised clip."""

from __future__ import annotations

import torch
from torch import Tensor

from paramcrop.crops.augment import Augmentation, augment
from paramcrop.crops.geometry import CropParams
from paramcrop.crops.resample import crop_cube, to_float
from paramcrop.models.layers import has_triton


def augmented_view(
    video: Tensor,
    params: CropParams,
    size: tuple[int, int, int],
    drawn: Augmentation | None,
    rounding: str = "round",
    mean: float = 0.0,
    std: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Flip, jitter, crop, normalise; differentiable (once) in every parameter of the crop, not in the video.

    ``plain_view`` is the definition. A GPU computes the same in one pass over the stored bytes and writes the view with
    channels last in memory.

    Args:
        video: (B, 3, T, H, W), uint8 or float in [0, 1].
        params: six (B,) tensors, float32 or float64; the GPU computes in float32.
        size: (frames, height, width) of the view.
        drawn: flip and jitter; None: neither.
        rounding: rounding of Eq. 8, "round" or "floor".
        mean, std: normalisation of the pixels, which are in [0, 1].
        dtype: type of a view that a GPU computes: that of the network.

    Returns:
        (B, 3, *size), in ``dtype`` from a GPU's kernels, elsewhere in the type of the parameters.
    """
    if not fits(video, params):
        return plain_view(video, params, size, drawn, rounding, mean, std)
    from paramcrop.crops.kernels import Job, fused_view

    if drawn is not None:
        drawn = Augmentation(*(x.to(video.device, non_blocking=True) for x in drawn))
    return fused_view(params, Job(video, size, drawn, rounding == "floor", mean, std, dtype))


def plain_view(
    video: Tensor,
    params: CropParams,
    size: tuple[int, int, int],
    drawn: Augmentation | None,
    rounding: str = "round",
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """``augmented_view`` in PyTorch's own operations, which define it and which CPUs run."""

    def prepare(frames: Tensor) -> Tensor:
        return to_float(frames) if drawn is None else augment(frames, drawn)

    view = crop_cube(video, params, size, prepare, rounding)
    return view if (mean, std) == (0.0, 1.0) else (view - mean) / std


def fits(video: Tensor, params: CropParams) -> bool:
    """Whether the kernels can take this clip: uint8 with three colours, on a GPU."""
    colour = video.ndim == 5 and video.shape[1] == 3 and video.dtype == torch.uint8
    return video.is_cuda and colour and params.s_p.shape == video.shape[:1] and has_triton()
