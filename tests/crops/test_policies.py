from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from paramcrop.crops.geometry import CropParams, centre_distance, crop_box, iou
from paramcrop.crops.paramcrop import ParamCrop, Ranges
from paramcrop.crops.policies import (
    DistanceCrops,
    RandomCrops,
    WholeClip,
    constant,
    divide,
    manual_crops,
    simple_crops,
    smooth_step,
    uniform,
)
from paramcrop.settings.sections import Policies

RANGES = Ranges((0.5, 1.0), (0.5, 1.0), 0.0)


def noise(n: int = 4000, distribution: str = "normal") -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if distribution == "normal":
        return torch.randn(n, 2, 32, generator=generator)
    return torch.rand(n, 2, 32, generator=generator) * 2 - 1


def inside(params: CropParams) -> bool:
    box = crop_box(params)
    return bool((box >= -1e-5).all() and (box <= 1 + 1e-5).all())


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_any_noise_becomes_uniform(distribution: str) -> None:
    u = uniform(noise(distribution=distribution), distribution)
    assert u.min() >= 0 and u.max() <= 1
    histogram = torch.histc(u, 20, 0, 1) / u.numel()
    assert (histogram - 0.05).abs().max() < 0.002


def test_random_crops_fill_their_ranges_and_stay_inside() -> None:
    first, second = RandomCrops(Ranges((0.5, 1.0), (0.6, 0.9), 0.3))(noise())
    for params in (first, second):
        assert inside(params)
        assert params.theta is not None
        for value, low, high in ((params.s_p, 0.5, 1), (params.s_t, 0.6, 0.9), (params.theta, -0.3, 0.3)):
            assert low <= value.min() < low + 0.01 * (high - low)
            assert high - 0.01 * (high - low) < value.max() <= high
            assert value.mean().item() == pytest.approx((low + high) / 2, abs=0.01)
    assert abs(torch.corrcoef(torch.stack([first.dx, second.dx]))[0, 1]) < 0.05  # the views are independent


@pytest.mark.parametrize("axes", ["both", "spatial", "temporal"])
@pytest.mark.parametrize("distance", [0.0, 0.1, 0.4])
def test_pairs_have_the_given_distance_and_lie_inside_the_clip(distance: float, axes: str) -> None:
    first, second = DistanceCrops(constant(distance), RANGES, axes)(noise())
    assert inside(first) and inside(second)
    torch.testing.assert_close(
        centre_distance(crop_box(first), crop_box(second)), torch.full((4000,), distance), atol=1e-5, rtol=0
    )
    if axes == "spatial":
        assert (first.s_t == 1).all() and first.dt.abs().max() < 1e-6
    if axes == "temporal":
        assert (first.s_p == 1).all() and first.dx.abs().max() < 1e-6
    if distance and axes == "both":
        moved = torch.stack([second.dx - first.dx, second.dy - first.dy, second.dt - first.dt])
        shares = moved.abs().mean(1) / moved.abs().mean(1).sum()
        assert (shares - 1 / 3).abs().max() < 0.02  # no axis is preferred
        assert moved.mean(1).abs().max() < 0.02  # nor a direction


def test_hard_pairs_overlap_less_than_simple_pairs() -> None:
    simple, hard = (DistanceCrops(constant(d), RANGES)(noise()) for d in (0.1, 0.75))
    overlaps = [iou(crop_box(a), crop_box(b)).mean() for a, b in (simple, hard)]
    assert overlaps[0] > 0.4 > 0.2 > overlaps[1]
    assert (hard[0].s_p.max() - hard[0].s_p.min()) > 0.2  # the scale still varies


def test_a_distance_without_enough_room_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"the centre distance must be at most 1\.5, .* but is 1\.6"):
        DistanceCrops(constant(1.6), RANGES)
    with pytest.raises(ValueError, match=r"the room that the smallest scales leave, but is 0\.6"):
        DistanceCrops(smooth_step(0.1, 0.6), RANGES, "temporal")


def test_manual_simulation_moves_crops_apart_smoothly() -> None:
    policy = DistanceCrops(smooth_step(0.1, 0.6), RANGES)
    distances = [centre_distance(*map(crop_box, policy(noise(8), p / 20))).mean().item() for p in range(21)]
    assert distances[0] == pytest.approx(0.1, abs=1e-5) and distances[-1] == pytest.approx(0.6, abs=1e-5)
    assert distances[10] == pytest.approx(0.35, abs=1e-5)
    steps = [b - a for a, b in pairwise(distances)]
    assert min(steps) > 0
    assert max(steps) < 1.6 * 0.5 / 20 and steps[0] < 0.005 > steps[-1]  # flat at both ends


def test_parts_sum_to_the_total_and_fit() -> None:
    room = torch.tensor([[0.5, 0.1, 0.3]]).repeat(1000, 1)
    u = torch.rand(2, 1000, 3, generator=torch.Generator().manual_seed(1))
    parts = divide(0.6, room, u[0], u[1])
    torch.testing.assert_close(parts.sum(1), torch.full((1000,), 0.6))
    assert (parts >= -1e-6).all() and (parts <= room + 1e-6).all()
    torch.testing.assert_close(divide(0.9, room, u[0], u[1]), room)  # the parts fill all the room


def test_whole_clip_does_not_crop() -> None:
    first, second = WholeClip()(noise(3))
    assert torch.equal(crop_box(first), torch.tensor([0.0, 1.0]).expand(3, 3, 2))
    assert first is second


def test_a_crop_depends_only_on_its_own_noise() -> None:
    n = noise(6)
    for policy in (RandomCrops(RANGES), DistanceCrops(constant(0.3), RANGES)):
        together, alone = policy(n, 0.5)[1], policy(n[2:3], 0.5)[1]
        assert torch.equal(together.dx[2:3], alone.dx)


def test_rotation_is_independent_of_scale_and_position() -> None:
    first, _ = DistanceCrops(constant(0.3), Ranges((0.5, 1.0), (0.5, 1.0), math.pi / 6))(noise())
    assert first.theta is not None and first.theta.abs().max() <= math.pi / 6
    for other in (first.s_p, first.s_t, first.dx):
        assert abs(torch.corrcoef(torch.stack([first.theta, other]))[0, 1]) < 0.05


@pytest.mark.parametrize("name", ["simple", "manual"])
def test_simple_crops_overlap_as_much_as_paramcrops_do_at_the_start(name: str) -> None:
    """Every pair has one size and an IoU of .8 at least; so has manual simulation when training begins."""
    settings = Policies()
    policy = {
        "simple": simple_crops(settings.simple, RANGES, "both", "normal"),
        "manual": manual_crops(settings.manual, RANGES, "both", "normal"),
    }[name]
    first, second = policy(noise(), 0.0)
    assert torch.equal(first.s_p, second.s_p) and torch.equal(first.s_t, second.s_t)
    overlap = iou(crop_box(first), crop_box(second))
    assert overlap.min() >= 0.8 and first.s_p.std() > 0.1
    at_start = iou(*map(crop_box, ParamCrop()(noise(200))))
    assert overlap.mean() >= at_start.mean() - 0.05
