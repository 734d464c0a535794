"""Apply a crop to pixels: Eq. 8 in time, bilinear interpolation in space.

With c = d = 0 in Eq. 3 the crop is separable. Time selects whole frames, so the frames of a crop are gathered first, as
uint8; only those are converted to float, augmented and resampled, and one grid serves all planes of a sample. The
backward pass is written by hand: the video takes no gradient, so it computes only those of the grid and of time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from paramcrop.crops.geometry import CropParams, affine_matrix, map_to_source, pixel_centres, to_pixels

CHANNELS = (1, 3)  # of grey and RGB videos
SPAN = 2  # output frames per chunk of the backward pass in time; bounds its memory
FrameDifference = Callable[[slice], tuple[Tensor, Tensor]]  # ``difference`` in ``crop_cube``
ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"round": torch.round, "floor": torch.floor}


def to_float(frames: Tensor) -> Tensor:
    """uint8 -> contiguous float32 in [0, 1]; floating-point frames are returned unchanged."""
    if frames.dtype != torch.uint8:
        return frames
    planes = torch.empty(frames.shape, device=frames.device)  # copy_ converts dtype and layout in one pass
    return planes.copy_(frames).mul_(1 / 255)


def crop_cube(
    video: Tensor,
    params: CropParams,
    size: tuple[int, int, int],
    prepare: Callable[[Tensor], Tensor] = to_float,
    rounding: str = "round",
) -> Tensor:
    """Cut and resample one cube per video; differentiable in every parameter, not in the video.

    Every output frame comes from one whole input frame, never from a blend of two. Eq. 8 passes the gradient of time
    straight through the rounding but does not say what d(view)/dt is at a whole frame. Here it is the central
    difference of the two neighbouring frames (one-sided at the ends), which only the backward pass computes.

    Args:
        video: (B, C, T, H, W), uint8 or float.
        params: six (B,) tensors, float32 or float64.
        size: (frames, height, width) of the output.
        prepare: stored frames (B, C, n, H, W) -> float frames of the same shape, for any n. It must treat each frame on
            its own; augmentation goes here.
        rounding: "round" as in the printed Eq. 8, or "floor" as in the text above it.

    Returns:
        (B, C, *size), in the dtype of the parameters.

    Raises:
        ValueError: the video is not a 5-dimensional tensor, its batch size differs from that of the parameters, its
            pixels are integers other than uint8, or ``size`` is not three numbers.
    """
    if not isinstance(video, Tensor):
        raise ValueError(f"video must be a tensor, but is a {type(video).__name__}; torch.from_numpy makes one")
    size = check_size(size)
    if video.ndim != 5 or len(video) != len(params.s_p):
        raise ValueError(
            f"video must be (B, C, T, H, W) with B = {len(params.s_p)} as in params, but is {tuple(video.shape)}"
        )
    if video.dtype != torch.uint8 and not video.dtype.is_floating_point:
        raise ValueError(
            f"video must be uint8 in [0, 255] or floating point in [0, 1], but is {video.dtype}; "
            ".to(torch.uint8) converts pixels from 0 to 255"
        )
    with torch.autocast(video.device.type, enabled=False):  # bfloat16's 8 mantissa bits are too few for coordinates
        matrix = affine_matrix(params)
        t = round_time(frame_positions(matrix, size[0], video.shape[2]), rounding)  # (B, n)
        index = t.detach().nan_to_num().long()  # NaN parameters must reach the loss, not fail as a bad index
        frames = prepare(gather_frames(video, index)).to(matrix.dtype)
        grid = image_grid(matrix, size[1:])

        def difference(span: slice) -> tuple[Tensor, Tensor]:
            """Next minus previous source frame of output frames, (B, C, n, H, W), and their gap in frames, (B, n)."""
            after, before = (index[:, span] + 1).clamp(max=video.shape[2] - 1), (index[:, span] - 1).clamp(min=0)
            change = prepare(gather_frames(video, after)) - prepare(gather_frames(video, before))
            return change.to(matrix.dtype), (after - before).clamp(min=1)  # a video of one frame has gap 0

        planes: Tensor = _Resample.apply(frames, grid, t, difference)
        view: Tensor = planes.unflatten(1, frames.shape[1:3])
        return view


def check_size(size: Any) -> tuple[int, int, int]:
    """The size of a view as a tuple.

    Raises:
        ValueError: it is not three whole numbers above 0.
    """
    numbers = tuple(size) if isinstance(size, Sequence) else ()
    if len(numbers) != 3 or any(not isinstance(n, int) or n < 1 for n in numbers):
        raise ValueError(f"size must be (frames, height, width), such as (16, 112, 112), but got {size!r}")
    return numbers


def check_video(video: Any) -> None:
    """Check that RGB or grey videos are (B, C, T, H, W).

    Raises:
        ValueError: the shape is that of another order, such as channels last; the message has the mend.
    """
    if not isinstance(video, Tensor) or video.ndim != 5 or video.shape[1] in CHANNELS:
        return  # ``crop_cube`` has its own errors
    orders = {4: "channels last; permute(0, 4, 1, 2, 3)", 2: "frames first; transpose(1, 2)"}
    for axis, order in orders.items():
        if video.shape[axis] in CHANNELS:
            raise ValueError(f"videos must be (B, C, T, H, W), but {tuple(video.shape)} seems to be {order} mends it")


def frame_positions(matrix: Tensor, n: int, frames: int) -> Tensor:
    """Eq. 4 along t: where the n output frames lie in the source -> (B, n), frame units, in [0, frames - 1]."""
    t = pixel_centres(n, matrix)
    points = torch.stack([torch.zeros_like(t), torch.zeros_like(t), t], -1)
    return to_pixels(map_to_source(matrix, points)[..., 2], frames)


def round_time(t: Tensor, rounding: str = "round") -> Tensor:
    """Eq. 8: t' = t - detach(t - round(t)), with ``t`` in frame units; the gradient passes straight through."""
    return t - (t - ROUNDINGS[rounding](t)).detach()


def gather_frames(video: Tensor, index: Tensor) -> Tensor:
    """(B, C, T, H, W) and frame numbers (B, n) -> (B, C, n, H, W), with the memory layout of ``video``."""
    rows = torch.arange(len(video), device=video.device)[:, None]
    stored = video.permute(0, 2, 3, 4, 1)
    if stored.is_contiguous():  # clips are stored as (B, T, H, W, C), so whole frames can be copied
        frames: Tensor = stored.flatten(0, 1).index_select(0, (rows * stored.shape[1] + index).flatten())
        return frames.reshape(*index.shape, *stored.shape[2:]).permute(0, 4, 1, 2, 3)
    return video.transpose(1, 2)[rows, index].transpose(1, 2)


def image_grid(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Eq. 3 and 4 in the image plane: where a view's pixels lie in the source -> (B, *size, 2), x and y."""
    return F.affine_grid(matrix[:, :2][..., [0, 1, 3]], [len(matrix), 1, *size], align_corners=False)


def resample(frames: Tensor, grid: Tensor) -> Tensor:
    """Bilinear resampling in the image plane: (B, C, n, H, W) at (B, h, w, 2) -> (B, C, n, h, w).

    Frames count as channels, because all frames of a sample share one grid.
    """
    sampled: Tensor = resample_planes(frames.flatten(1, 2), grid).unflatten(1, frames.shape[1:3])
    return sampled


def resample_planes(planes: Tensor, grid: Tensor) -> Tensor:
    """(B, planes, H, W) at (B, h, w, 2) -> (B, planes, h, w)."""
    sampled: Tensor = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled


def along_time(grad: Tensor, grid: Tensor, change: Tensor, gap: Tensor) -> Tensor:
    """<grad, d view / d t> per output frame -> (B, n).

    Args:
        grad: (B, C, n, h, w). grid: (B, h, w, 2).
        change, gap: (B, C, n, H, W) and (B, n), see ``difference`` in ``crop_cube``.
    """
    # Resampling is linear in the frames, so it commutes with the difference of frames.
    slope: Tensor = torch.linalg.vecdot(grad, resample(change, grid))
    return slope.sum((1, 3)) / gap


class _Resample(torch.autograd.Function):
    """``resample`` with gradients for the grid and for ``t`` (B, n): <grad, d view / d t> per output frame.

    ``difference`` returns the neighbouring frames of some output frames; see ``crop_cube``. It is called in the
    backward pass only, for ``SPAN`` frames at a time: no frame besides the view's own is kept from the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor, grid: Tensor, t: Tensor, difference: FrameDifference) -> Tensor:
        ctx.difference = difference
        finite = grid.nan_to_num()  # the last line restores the NaN, in one pixel
        ctx.save_for_backward(frames, finite)
        # The result is no view of another tensor (crop_cube splits its planes into C and n): autograd would forbid the
        # caller to normalise that in place.
        planes = resample_planes(frames.flatten(1, 2), finite)
        # NaN parameters must reach the loss: those of the image plane by the grid, those of time by t.
        planes.unflatten(1, frames.shape[1:3])[..., 0, 0] += 0 * (grid[:, 0, 0].sum(-1, keepdim=True) + t)[:, None]
        return planes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        """A second derivative is an error: ``difference`` hides how the slope depends on the grid and on t."""
        frames, grid = ctx.saved_tensors
        grad = grads[0].unflatten(1, frames.shape[1:3])
        of_grid = of_t = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[1]:
                # The operator behind F.grid_sample. Its mask [False, True] skips the gradient of the frames, which
                # nobody needs and which is as large as they are. 0, 1, False: bilinear, border, no align_corners.
                planes = grad.flatten(1, 2), frames.flatten(1, 2)
                of_grid = torch.ops.aten.grid_sampler_2d_backward(*planes, grid, 0, 1, False, [False, True])[1]
            if ctx.needs_input_grad[2]:
                spans = [slice(i, i + SPAN) for i in range(0, grad.shape[2], SPAN)]
                of_t = torch.cat([along_time(grad[:, :, span], grid, *ctx.difference(span)) for span in spans], 1)
        return None, of_grid, of_t, None
