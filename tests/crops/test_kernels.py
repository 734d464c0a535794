"""The Triton kernels of the crop against their PyTorch form, on the CPU under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from paramcrop.crops.augment import Augmentation
from paramcrop.crops.geometry import CropParams, affine_matrix
from paramcrop.crops.kernels import Job, frame_numbers, fused_view
from paramcrop.crops.resample import frame_positions, round_time
from paramcrop.crops.views import plain_view

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def leaves(n: int, rotated: bool, seed: int = 0) -> CropParams:
    """Crops inside the source (before rotation)."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(6, n, generator=g)
    s_p, s_t = 0.5 + 0.45 * u[0], 0.5 + 0.45 * u[1]
    offsets = [(2 * u[3] - 1) * (1 - s_p), (2 * u[4] - 1) * (1 - s_p), (2 * u[5] - 1) * (1 - s_t)]
    s_p, s_t, theta, *offsets = (v.to(DEVICE).requires_grad_() for v in (s_p, s_t, (u[2] - 0.5) / 2, *offsets))
    return CropParams(s_p, s_t, theta if rotated else None, *offsets)


def drawn(n: int, seed: int = 0) -> Augmentation:
    """Every second sample without some of the operations."""
    g = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(4, generator=g) for _ in range(n)])
    factors = torch.rand(n, 4, generator=g) * 1.6 + 0.2
    factors[:, 3] = 0.4 * torch.rand(n, generator=g) - 0.2
    neutral = (torch.rand(n, 4, generator=g) < 0.5) & (torch.arange(n) % 2 == 1)[:, None]
    factors = torch.where(neutral, torch.tensor([1.0, 1.0, 1.0, 0.0]), factors)
    return Augmentation((torch.rand(n, generator=g) < 0.5).to(DEVICE), order.to(DEVICE), factors.to(DEVICE))


def clip(n: int, shape: tuple[int, int, int], stored: bool = True) -> Tensor:
    """uint8 (n, 3, *shape), channels last in memory as clips come, or not."""
    g = torch.Generator().manual_seed(1)
    if stored:
        return torch.randint(0, 256, (n, *shape, 3), dtype=torch.uint8, generator=g).permute(0, 4, 1, 2, 3).to(DEVICE)
    return torch.randint(0, 256, (n, 3, *shape), dtype=torch.uint8, generator=g).to(DEVICE)


def assert_equals_plain(params: CropParams, job: Job, rounding: str = "round") -> None:
    """Values to 1e-5 of pixels in [0, 1], gradients to 1e-4 of their size."""
    weight = torch.randn(len(job.video), 3, *job.size, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    plain = plain_view(job.video, params, job.size, job.drawn, rounding, job.mean, job.std)
    learned = [p for p in params if p is not None and p.requires_grad]
    expected = torch.autograd.grad((plain * weight).sum(), learned)
    view = fused_view(params, job)
    assert view.dtype == job.dtype and view.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(view, plain, atol=1e-5 / job.std, rtol=0)
    grads = torch.autograd.grad((view * weight).sum(), learned)
    for mine, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4 * float(other.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(("shape", "size"), [((9, 10, 13), (4, 7, 9)), ((5, 6, 6), (3, 9, 15)), ((1, 8, 5), (2, 3, 4))])
def test_equals_the_plain_form(shape: tuple[int, int, int], size: tuple[int, int, int], rotated: bool) -> None:
    job = Job(clip(3, shape), size, drawn(3), False, 0.45, 0.225, torch.float32)
    assert_equals_plain(leaves(3, rotated), job)


@pytest.mark.parametrize("stored", [True, False])
def test_one_sample_without_augmentation_however_it_lies_in_memory(stored: bool) -> None:
    video = clip(2, (6, 8, 9), stored)[1:, :, 1:, :, 1:]
    assert_equals_plain(leaves(1, True), Job(video, (3, 5, 4), None, False, 0.0, 1.0, torch.float32))


def test_floor_and_a_noncontiguous_gradient() -> None:
    job = Job(clip(2, (7, 9, 9)), (3, 5, 4), drawn(2, 1), True, 0.45, 0.225, torch.float32)
    assert_equals_plain(leaves(2, False), job, "floor")


@pytest.mark.parametrize(("frames", "n"), [(8, 3), (6, 4), (5, 5), (64, 16)])
def test_frames_are_the_same_at_ties_and_ends(frames: int, n: int) -> None:
    """Whole crops, where times lie between two frames or on the first and last; and beyond, and not a number."""
    one = torch.ones(5, device=DEVICE)
    dt = torch.tensor([0.0, 1 / frames, 3.0, -3.0, torch.nan], device=DEVICE)
    params = CropParams(one, one, None, 0 * one, 0 * one, dt)
    for rounding in ("round", "floor"):
        t = round_time(frame_positions(affine_matrix(params), n, frames), rounding)
        job = Job(clip(5, (frames, 2, 2)), (n, 2, 2), None, rounding == "floor", 0.0, 1.0, torch.float32)
        assert torch.equal(frame_numbers(params, job).long(), t.nan_to_num().long())


def test_time_differentiates_at_the_ends_as_the_plain_form() -> None:
    """In space a whole crop's pixels lie on the source's, where a blend has two slopes: left out."""
    one, zero = torch.ones(2, device=DEVICE), torch.zeros(2, device=DEVICE)
    params = CropParams(one, one.clone().requires_grad_(), None, zero, zero, zero.clone().requires_grad_())
    assert_equals_plain(params, Job(clip(2, (4, 6, 6)), (4, 6, 6), None, False, 0.0, 1.0, torch.float32))


@pytest.mark.parametrize("name", CropParams._fields)
def test_a_parameter_that_is_nan_shows_in_the_view(name: str) -> None:
    params = leaves(2, True)
    broken = getattr(params, name) + torch.tensor([0.0, torch.nan], device=DEVICE)
    job = Job(clip(2, (4, 6, 6)), (2, 4, 4), drawn(2), False, 0.0, 1.0, torch.float32)
    view = fused_view(params._replace(**{name: broken}), job)
    plain = plain_view(job.video, params._replace(**{name: broken}), job.size, job.drawn)
    assert view[0].isfinite().all() and torch.equal(view.isnan(), plain.isnan())
    view.nansum().backward()


def test_a_second_derivative_is_refused() -> None:
    params = leaves(1, False)
    view = fused_view(params, Job(clip(1, (4, 6, 6)), (2, 4, 4), None, False, 0.0, 1.0, torch.float32))
    (first,) = torch.autograd.grad(view.square().sum(), params.dx, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_view_can_be_changed_in_place() -> None:
    params = leaves(1, False)
    view = fused_view(params, Job(clip(1, (4, 6, 6)), (2, 4, 4), None, False, 0.0, 1.0, torch.float32))
    view.sub_(0.5).div_(2).sum().backward()
    assert params.dx.grad is not None


def test_a_view_in_the_networks_precision_is_the_rounded_one() -> None:
    params, video = leaves(2, False), clip(2, (4, 6, 6))
    job = Job(video, (2, 4, 4), drawn(2), False, 0.45, 0.225, torch.float32)
    view = fused_view(params, job)
    small = fused_view(params, job._replace(dtype=torch.bfloat16))
    torch.testing.assert_close(small.float(), view, atol=1e-6, rtol=1 / 128)  # the interpreter cuts bits off
    small.sum().backward()
    assert params.dt.grad is not None and params.dt.grad.isfinite().all()


def test_a_policy_with_nothing_to_learn_has_no_backward_pass() -> None:
    values = {name: p.detach() for name, p in leaves(2, True)._asdict().items()}
    job = Job(clip(2, (4, 6, 6)), (2, 4, 4), None, False, 0.0, 1.0, torch.float32)
    assert not fused_view(CropParams(**values), job).requires_grad
