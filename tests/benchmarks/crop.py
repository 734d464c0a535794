"""Crop, forward and backward to the six parameters: uint8 (B, 3, 64, 128, 128) -> float (B, 3, 16, 112, 112).

The peer is the code that a user would write: convert the clip to float, affine_grid, Eq. 8 on the grid's times,
grid_sample. The second peer is kornia's 3-D warp, which has no Eq. 8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from shutil import which

import torch
import torch.nn.functional as F
from torch import Tensor

from paramcrop.crops.geometry import CropParams, affine_matrix
from paramcrop.crops.paramcrop import to_ranges
from paramcrop.crops.resample import (
    crop_cube,
    frame_positions,
    gather_frames,
    image_grid,
    resample,
    round_time,
    to_float,
)
from tests.benchmarks.timing import Line, Report, peak_bytes, take_turns

FRAMES, SIDE, SIZE = 64, 128, (16, 112, 112)
Crop = Callable[[Tensor, CropParams], Tensor]


def clips(batch: int, device: str) -> tuple[Tensor, Tensor]:
    """A batch with channels last, as decoding delivers it, and v of Eq. 5."""
    torch.manual_seed(0)
    stored = torch.randint(0, 256, (batch, FRAMES, SIDE, SIDE, 3), dtype=torch.uint8, device=device)
    return stored.permute(0, 4, 1, 2, 3), torch.rand(batch, 6, device=device) * 0.9 + 0.05


def peer(video: Tensor, params: CropParams) -> Tensor:
    """``x.float() / 255 -> affine_grid -> grid_sample``, with Eq. 8."""
    grid = F.affine_grid(affine_matrix(params), [len(video), 3, *SIZE], align_corners=False)
    t = ((grid[..., 2] + 1) * FRAMES - 1) / 2
    t = t - (t - t.round()).detach()
    grid = torch.cat([grid[..., :2], ((2 * t + 1) / FRAMES - 1)[..., None]], -1)
    return F.grid_sample(video.float() / 255, grid, padding_mode="border", align_corners=False)


def kornias(video: Tensor, params: CropParams) -> Tensor:
    from kornia.geometry.transform import warp_affine3d

    size = torch.tensor([SIDE, SIDE, FRAMES], device=video.device)
    out = torch.tensor([SIZE[2], SIZE[1], SIZE[0]], device=video.device)
    m = affine_matrix(params)
    scale = m[:, :, :3].diagonal(dim1=1, dim2=2) * size / out
    forward = torch.diag_embed(1 / scale)
    shift = ((m[:, :, 3] + 1) * size / 2 - scale * out / 2) / scale
    matrix = torch.cat([forward, -shift[..., None]], -1)
    warped: Tensor = warp_affine3d(video.float() / 255, matrix, SIZE, padding_mode="border", align_corners=False)
    return warped


def eager(video: Tensor, params: CropParams) -> Tensor:
    """Ours with autograd's backward pass, for which the forward pass computes and keeps d view / d t."""
    matrix = affine_matrix(params)
    t = round_time(frame_positions(matrix, SIZE[0], FRAMES))
    index, grid = t.detach().long(), image_grid(matrix, SIZE[1:])
    after, before = (index + 1).clamp(max=FRAMES - 1), (index - 1).clamp(min=0)
    change = resample(to_float(gather_frames(video, after)) - to_float(gather_frames(video, before)), grid.detach())
    slope = change / (after - before)[:, None, :, None, None]
    return resample(to_float(gather_frames(video, index)), grid) + slope * (t - t.detach())[:, None, :, None, None]


def ours(video: Tensor, params: CropParams) -> Tensor:
    return crop_cube(video, params, SIZE)


def both_ways(crop: Crop, video: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Forward and backward -> the gradient of v."""
    leaf = v.clone().requires_grad_()
    crop(video, to_ranges(leaf)).backward(weight)
    assert leaf.grad is not None
    return leaf.grad


def run(device: str) -> Report:
    batch = 8 if device == "cpu" else 64
    video, v = clips(batch, device)
    weight = torch.rand(batch, 3, *SIZE, device=device)
    ways: dict[str, Crop] = {"grid_sample, 3-D (peer)": peer, "kornia warp_affine3d": kornias}
    ways |= {"ours, by autograd": eager, "ours, compiled": torch.compile(eager, dynamic=False), "ours": ours}
    if device == "cpu" and not (which("g++") or which("clang++")):
        del ways["ours, compiled"]
    own = batch * 3 * SIZE[0] * SIZE[1] * SIZE[2] * 4
    whole = take_turns({n: partial(both_ways, c, video, v, weight) for n, c in ways.items()}, 7, device)
    with torch.no_grad():
        forward = take_turns({n: partial(c, video, to_ranges(v)) for n, c in ways.items()}, 7, device)
    memory = {n: peak_bytes(partial(both_ways, c, video, v, weight), device) - own for n, c in ways.items()}
    first = next(iter(ways))
    lines = [
        Line(
            name,
            1000 * whole[name] / batch,
            {
                "forward, ms": 1000 * forward[name] / batch,
                "times the peer": whole[first] / whole[name],
                "forward alone": forward[first] / forward[name],
                "MB a sample": memory[name] / batch / 1e6,
                "of the peer's": memory[name] / memory[first],
            },
        )
        for name in ways
    ]
    apart = (ours(video, to_ranges(v)) - peer(video, to_ranges(v))).abs().max().item()
    ours_note = '"ours" is crop_cube, whose backward pass is derived by hand; the two rows above it are the same maths'
    notes = [
        ours_note,
        f"largest difference to the peer: {apart:.1e}, for pixels in [0, 1]",
        "MB: peak, without the output; targets: 4 times as fast, 1/4 of the memory",
    ]
    return Report("crop, ms a sample: forward and backward", "ms", lines, notes)
