"""Values and gradients of the fast crop against affine_grid and 3-D grid_sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paramcrop import ParamCrop
from paramcrop.crops.geometry import CropParams, affine_matrix
from paramcrop.crops.resample import SPAN, crop_cube, frame_positions, gather_frames, round_time, to_float

SHAPES = [((8, 12, 14), (4, 7, 9)), ((64, 16, 12), (16, 12, 16)), ((5, 9, 9), (5, 9, 9))]


def random_params(n: int, rotated: bool, dtype: torch.dtype = torch.float64, seed: int = 0) -> CropParams:
    """Crops inside the source (before rotation); each parameter is a leaf."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(6, n, generator=g, dtype=dtype)
    s_p, s_t = 0.5 + 0.45 * u[0], 0.5 + 0.45 * u[1]
    offsets = [(2 * u[3] - 1) * (1 - s_p), (2 * u[4] - 1) * (1 - s_p), (2 * u[5] - 1) * (1 - s_t)]
    theta = ((u[2] - 0.5) / 2).requires_grad_() if rotated else None
    leaves = [p.requires_grad_() for p in (s_p, s_t, *offsets)]
    return CropParams(leaves[0], leaves[1], theta, *leaves[2:])


def reference(video: Tensor, params: CropParams, size: tuple[int, int, int], shift: int = 0) -> Tensor:
    """One 3-D grid whose times are rounded by Eq. 8, then shifted by whole frames; it has gradients in space only."""
    frames = video.shape[2]
    grid = F.affine_grid(affine_matrix(params), [len(video), video.shape[1], *size], align_corners=False)
    t = ((grid[..., 2].detach() + 1) * frames - 1) / 2
    t = (t.round() + shift).clamp(0, frames - 1)
    grid = torch.stack([grid[..., 0], grid[..., 1], (2 * t + 1) / frames - 1], -1)
    return F.grid_sample(video, grid, padding_mode="border", align_corners=False)


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("rotated", [False, True])
def test_values_equal_grid_sample(shape: tuple[int, int, int], size: tuple[int, int, int], rotated: bool) -> None:
    video = torch.randint(0, 256, (6, 3, *shape), dtype=torch.uint8)
    params = random_params(6, rotated, torch.float32)
    expected = reference(video.float() / 255, params, size)
    torch.testing.assert_close(crop_cube(video, params, size), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("rotated", [False, True])
def test_gradients_equal_grid_sample(shape: tuple[int, int, int], size: tuple[int, int, int], rotated: bool) -> None:
    video, weight = torch.rand(6, 2, *shape, dtype=torch.float64), torch.randn(6, 2, *size, dtype=torch.float64)
    ours, theirs = random_params(6, rotated), random_params(6, rotated)
    (crop_cube(video, ours, size) * weight).sum().backward()
    (reference(video, theirs, size) * weight).sum().backward()
    for name in ("s_p", "theta", "dx", "dy"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine is not None:
            torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-6)
    # In time: the central difference of whole frames (one-sided at the ends), computed from two shifted references.
    frames = shape[0]
    c = (2 * torch.arange(size[0], dtype=torch.float64) + 1) / size[0] - 1
    t = ((theirs.s_t[:, None] * c + theirs.dt[:, None] + 1) * frames - 1) / 2
    index = t.round().clamp(0, frames - 1)
    gap = (index + 1).clamp(max=frames - 1) - (index - 1).clamp(min=0)
    change = reference(video, theirs, size, +1) - reference(video, theirs, size, -1)
    inside = (t > 0) & (t < frames - 1)  # the border is repeated outside, so the derivative is zero
    d_t = (change * weight).sum((1, 3, 4)).detach() / gap * inside
    torch.testing.assert_close(ours.dt.grad, d_t.sum(1) * frames / 2, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.s_t.grad, (d_t * c).sum(1) * frames / 2, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rotated", [False, True])
def test_gradcheck_in_space(rotated: bool) -> None:
    frames = torch.rand(2, 1, 2, 6, 5, dtype=torch.float64)

    def space(s_p: Tensor, theta: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
        params = CropParams(s_p, torch.ones(2), theta if rotated else None, dx, dy, torch.zeros(2))
        return crop_cube(frames, params, (2, 4, 3))

    p = random_params(2, True)
    assert p.theta is not None
    assert torch.autograd.gradcheck(space, (p.s_p, p.theta, p.dx, p.dy), eps=1e-7, atol=1e-4)


def test_time_derivative_is_one_sided_at_the_ends() -> None:
    video = torch.tensor([10.0, 13.0, 20.0], dtype=torch.float64).view(1, 1, 3, 1, 1)
    ones, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for offset, slope in ((-1.9 / 3, 3.0), (0.0, 5.0), (1.9 / 3, 7.0)):  # frame 0, 1, 2, just inside the clamp
        dt = torch.tensor([offset], dtype=torch.float64, requires_grad=True)
        crop_cube(video, CropParams(ones, ones, None, zero, zero, dt), (1, 1, 1)).sum().backward()
        assert dt.grad is not None
        assert dt.grad.item() == pytest.approx(slope * 3 / 2)  # dt = 2/3 is one of three frames


@pytest.mark.parametrize(("rounding", "op"), [("round", torch.round), ("floor", torch.floor)])
def test_each_output_frame_is_one_input_frame(rounding: str, op: Callable[[Tensor], Tensor]) -> None:
    video = torch.randint(0, 256, (4, 3, 11, 6, 6), dtype=torch.uint8)
    p = random_params(4, False, torch.float32)
    whole = p._replace(s_p=torch.ones(4), dx=torch.zeros(4), dy=torch.zeros(4))
    view = crop_cube(video, whole, (7, 6, 6), rounding=rounding)
    index = op(frame_positions(affine_matrix(whole), 7, 11)).long()
    for b in range(4):
        torch.testing.assert_close(view[b], video[b, :, index[b]].float() / 255, atol=1e-6, rtol=0)


def test_eq_8_rounds_forward_and_passes_the_gradient() -> None:
    t = torch.tensor([0.2, 1.5, 2.7], requires_grad=True)
    rounded = round_time(t)
    assert rounded.tolist() == [0, 2, 3]
    assert round_time(t, "floor").tolist() == [0, 1, 2]
    rounded.sum().backward()
    assert t.grad is not None
    assert t.grad.tolist() == [1, 1, 1]


def test_identity_crop_is_the_video() -> None:
    video = torch.rand(2, 3, 6, 5, 7)
    one, zero = torch.ones(2), torch.zeros(2)
    torch.testing.assert_close(crop_cube(video, CropParams(one, one, None, zero, zero, zero), (6, 5, 7)), video)


def test_forward_reads_only_the_frames_of_the_view() -> None:
    touched: list[int] = []

    def prepare(frames: Tensor) -> Tensor:
        touched.append(frames.shape[2])
        return frames.float()

    params = random_params(2, False, torch.float32)
    view = crop_cube(torch.zeros(2, 3, 64, 8, 8, dtype=torch.uint8), params, (16, 4, 4), prepare)
    assert touched == [16]
    view.sum().backward()
    assert touched == [16] + [SPAN, SPAN] * (16 // SPAN)  # the backward pass reads their neighbours in chunks


def test_geometry_stays_in_float32_under_autocast() -> None:
    video, params = torch.rand(2, 3, 8, 16, 16), random_params(2, False, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        view = crop_cube(video, params, (4, 8, 8))
    assert view.dtype == torch.float32
    torch.testing.assert_close(view, crop_cube(video, params, (4, 8, 8)))


def test_nan_parameters_reach_the_view() -> None:
    params = random_params(2, False, torch.float32)
    broken = params._replace(dx=params.dx + torch.tensor([0.0, torch.nan]))
    view = crop_cube(torch.rand(2, 3, 8, 16, 16), broken, (4, 8, 8))
    assert view[0].isfinite().all() and not view[1].isfinite().all()
    view.sum().backward()


def test_the_memory_layout_of_a_clip_does_not_matter() -> None:
    stored = torch.randint(0, 256, (3, 9, 8, 10, 3), dtype=torch.uint8)  # clips are stored channels last
    video, index = stored.permute(0, 4, 1, 2, 3), torch.tensor([[0, 8], [3, 3], [7, 1]])
    frames = gather_frames(video, index)
    assert torch.equal(frames, gather_frames(video.contiguous(), index))
    assert all(torch.equal(frames[b, :, i], video[b, :, index[b, i]]) for b in range(3) for i in range(2))
    planes = to_float(frames)
    assert planes.is_contiguous() and planes.dtype == torch.float32
    torch.testing.assert_close(planes, frames.double() / 255, check_dtype=False)
    assert to_float(planes) is planes


def test_a_policy_without_parameters_has_no_backward_pass() -> None:
    params = random_params(2, False, torch.float32)
    drawn = {name: value.detach() for name, value in params._asdict().items() if value is not None}
    assert not crop_cube(torch.rand(2, 3, 8, 16, 16), CropParams(theta=None, **drawn), (4, 8, 8)).requires_grad


def test_a_batch_size_mismatch_is_reported_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"B = 3 as in params, but is \(2, 3, 8, 4, 4\)"):
        crop_cube(torch.zeros(2, 3, 8, 4, 4), random_params(3, False), (2, 2, 2))


def test_a_second_derivative_is_refused_not_wrong() -> None:
    """The slopes in space and time depend on the crop; the first derivative does not say how."""
    video = torch.rand(1, 3, 6, 12, 12, dtype=torch.float64)
    params = CropParams(*(torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.7, 0.7, 0.1, 0, 0, 0)))
    view = crop_cube(video, params, (4, 8, 8))
    (first,) = torch.autograd.grad(view.square().sum(), params.s_p, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_views_can_be_normalised_in_place() -> None:
    crops = ParamCrop(size=(4, 8, 8))
    video = torch.randint(0, 256, (2, 3, 8, 16, 16), dtype=torch.uint8)
    noise = crops.draw_noise(2)
    gradients = []
    for normalise in (lambda x: (x - 0.45) / 0.225, lambda x: x.sub_(0.45).div_(0.225)):
        first, second = map(normalise, crops.views(video, noise=noise))
        gradients.append(torch.autograd.grad((first * second).mean(), list(crops.parameters())))
    for plain, in_place in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, in_place)


@pytest.mark.parametrize("name", CropParams._fields)
def test_a_parameter_that_is_not_a_number_shows_in_every_plane(name: str) -> None:
    video = torch.randint(0, 256, (2, 3, 8, 16, 16), dtype=torch.uint8)
    params = CropParams(*(torch.tensor([v, v]) for v in (0.7, 0.7, 0.1, 0.0, 0.0, 0.0)))
    view = crop_cube(video, params._replace(**{name: torch.tensor([torch.nan, 0.1])}), (4, 8, 8))
    assert view[0].isnan().flatten(2).any(-1).all() and not view[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.bool])
def test_pixels_are_bytes_or_floating_point(dtype: torch.dtype) -> None:
    params = CropParams(*(torch.tensor([v]) for v in (0.7, 0.7, 0.1, 0.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match=f"must be uint8 in .* but is {dtype}"):
        crop_cube(torch.ones(1, 3, 6, 12, 12).to(dtype), params, (4, 8, 8))
