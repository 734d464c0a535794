from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paramcrop import ParamCrop, Ranges
from paramcrop.crops.geometry import crop_box
from paramcrop.crops.paramcrop import crop_mlp, early_stop, reverse_gradient, to_ranges
from paramcrop.crops.policies import RandomCrops


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("layers", "count"), [(1, 396), (2, 5_004), (3, 13_324)])
def test_parameter_counts_of_a_pair_match_table_7(layers: int, count: int) -> None:
    assert parameters(ParamCrop(layers=layers)) == count


def test_eq_5_is_sigmoid_of_relu_mlp() -> None:
    crop = ParamCrop()
    noise = crop.draw_noise(3)
    w_1, b_1, w_2, b_2 = crop.croppers[0].parameters()
    expected = torch.sigmoid((noise[:, 0] @ w_1.T + b_1).relu() @ w_2.T + b_2)
    torch.testing.assert_close(crop.values(noise)[0], expected)


def test_eq_6_bounds_offsets_by_the_predicted_scales() -> None:
    v = torch.rand(1000, 6)
    v[0], v[1] = 0.0, 1.0
    p = to_ranges(v, Ranges((0.5, 1.0), (0.4, 0.9), math.radians(30)))
    assert p.theta is not None
    assert (p.s_p[0].item(), p.s_p[1].item()) == (0.5, 1.0)
    assert (p.s_t[0].item(), p.s_t[1].item()) == pytest.approx((0.4, 0.9))
    assert (p.theta[0].item(), p.theta[1].item()) == pytest.approx((-math.pi / 6, math.pi / 6))
    assert (p.dx[0].item(), p.dt[0].item(), p.dx[1].item()) == pytest.approx((-0.5, -0.6, 0.0))
    box = crop_box(p)
    assert box.min() >= -1e-6 and box.max() <= 1 + 1e-6  # inside the source for every v


def test_eq_6_offset_gradient_reaches_the_scale() -> None:
    v = torch.tensor([[0.5, 0.5, 0.5, 0.9, 0.5, 0.5]], requires_grad=True)
    to_ranges(v).dx.sum().backward()
    assert v.grad is not None
    # dx = (2 v_dx - 1)(1 - s_p), s_p = 0.5 + 0.5 v_sp
    assert v.grad[0].tolist() == pytest.approx([-0.8 * 0.5, 0, 0, 2 * 0.25, 0, 0])


def test_eq_7_cuts_gradients_at_and_beyond_the_bounds() -> None:
    v = torch.tensor([0.1, 0.2, 0.21, 0.5, 0.79, 0.8, 0.9], requires_grad=True)
    stopped = early_stop(v, 0.2, 0.8)
    assert torch.equal(stopped, v)
    stopped.sum().backward()
    assert v.grad is not None
    assert v.grad.tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_eq_7_with_all_entries_outside_gives_zero_gradients_not_none() -> None:
    crop = ParamCrop(bounds=(0.5, 0.5))
    views = crop.views(torch.rand(2, 3, 8, 8, 8))
    (views[0].sum() + views[1].sum()).backward()
    for p in crop.parameters():
        assert p.grad is not None
        assert not p.grad.any()
    assert crop.telemetry(crop.draw_noise(4))["saturated"] == 1


def gradients(**settings: Any) -> tuple[Tensor, list[Tensor]]:
    """Gradients of a loss of two views with respect to a network's weight and to the croppers."""
    torch.manual_seed(0)
    crop = ParamCrop(size=(4, 6, 6), **settings)
    weight = torch.randn(3, requires_grad=True)
    video = torch.rand(4, 3, 8, 12, 12)
    view_1, view_2 = crop.views(video, noise=crop.draw_noise(4))
    loss = ((view_1 - view_2).pow(2).mean((2, 3, 4)) @ weight).sum()
    loss.backward()
    assert weight.grad is not None
    return weight.grad, [p.grad for p in crop.parameters() if p.grad is not None]


def test_reversal_flips_the_sign_of_the_croppers_gradients_only() -> None:
    network, croppers = gradients(reversal=True)
    network_without, croppers_without = gradients(reversal=False)
    torch.testing.assert_close(network, network_without)
    assert any(g.abs().max() > 0 for g in croppers)
    for g, g_without in zip(croppers, croppers_without, strict=True):
        torch.testing.assert_close(g, -g_without)


def test_reverse_gradient_is_the_identity_in_the_forward_pass() -> None:
    x = torch.randn(3, requires_grad=True)
    out = reverse_gradient(x)
    assert torch.equal(out, x)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1, -1, -1]


def test_the_two_croppers_share_neither_weights_nor_noise() -> None:
    crop = ParamCrop()
    noise = crop.draw_noise(2)
    assert not torch.equal(noise[:, 0], noise[:, 1])
    first, second = (next(mlp.parameters()) for mlp in crop.croppers)
    assert not torch.equal(first, second)


def test_untrained_crops_overlap_largely() -> None:
    from paramcrop.crops.geometry import centre_distance, iou

    boxes = [crop_box(p) for p in ParamCrop()(ParamCrop().draw_noise(256))]
    assert centre_distance(*boxes).mean() < 0.15
    assert iou(*boxes).mean() > 0.6


@pytest.mark.parametrize("axes", ["spatial", "temporal"])
def test_axes_that_are_not_selected_are_not_cropped(axes: str) -> None:
    crop = ParamCrop(axes=axes)
    params, _ = crop(crop.draw_noise(3))
    box = crop_box(params)
    kept = box[:, 2:] if axes == "spatial" else box[:, :2]
    torch.testing.assert_close(kept, torch.tensor([0.0, 1.0]).expand_as(kept))
    cut = box[:, :2] if axes == "spatial" else box[:, 2:]
    assert (cut[..., 1] - cut[..., 0]).max() < 0.99


def test_views_have_the_papers_size_or_any_other() -> None:
    view_1, view_2 = ParamCrop().views(torch.zeros(1, 3, 64, 128, 128, dtype=torch.uint8))
    assert view_1.shape == view_2.shape == (1, 3, 16, 112, 112)
    view_1, _ = ParamCrop(size=(3, 5, 9)).views(torch.rand(2, 3, 7, 10, 11))
    assert view_1.shape == (2, 3, 3, 5, 9)


def test_rotation_is_learned_when_it_is_on() -> None:
    crop = ParamCrop(ranges=Ranges(theta=math.radians(30)), size=(4, 8, 8))
    params, _ = crop(crop.draw_noise(16))
    assert params.theta is not None
    assert params.theta.abs().max() <= math.radians(30)
    crop.views(torch.rand(16, 3, 8, 16, 16))[0].pow(2).sum().backward()
    last = list(crop.croppers[0].parameters())[2].grad
    assert last is not None
    assert last[2].abs().max() > 0  # row of theta in the last layer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranges": Ranges(s_p=(0.9, 0.5))}, "minimum <= maximum"),
        ({"bounds": (0.8, 0.2)}, "v_l <= v_u"),
        ({"axes": "x"}, "axes must be"),
        ({"layers": 0}, "layers >= 1"),
        ({"noise": "poisson"}, "noise must be"),
        ({"rounding": "ceil"}, "rounding must be"),
        ({"ranges": 0.5}, r"ranges must be Ranges\(s_p=\(minimum, maximum\)"),
        ({"ranges": (0.5, 1.0)}, r"ranges must be Ranges\("),
        ({"ranges": ((0.5, 0.7, 1.0), (0.5, 1.0))}, r"ranges must be Ranges\("),
        ({"ranges": Ranges(theta=float("nan"))}, r"ranges must be Ranges\("),
        ({"ranges": ((0.9, 0.5), (0.5, 1.0))}, "minimum <= maximum"),
        ({"size": 112}, r"size must be \(frames, height, width\), such as \(16, 112, 112\), but got 112"),
        ({"size": (16, 112)}, "size must be"),
        ({"size": (16, 112.5, 112)}, "size must be"),
    ],
)
def test_errors_name_the_wrong_setting(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParamCrop(**settings)


def test_ranges_may_be_a_plain_tuple() -> None:
    plain: Any = ((0.4, 1.0), (0.5, 1.0))
    assert ParamCrop(ranges=plain).ranges == Ranges(s_p=(0.4, 1.0))
    turned: Any = (*plain, 0.1)
    assert RandomCrops(turned).ranges.theta == 0.1


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((2, 3, 8, 16, 16), np.uint8), "must be a tensor, but is a ndarray; torch.from_numpy"),
        (torch.zeros(2, 3, 8, 16, 16, dtype=torch.int64), r"but is torch.int64; .to\(torch.uint8\) converts"),
        (torch.zeros(2, 8, 16, 16, 3), r"seems to be channels last; permute\(0, 4, 1, 2, 3\) mends it"),
        (torch.zeros(2, 8, 3, 16, 16), r"seems to be frames first; transpose\(1, 2\) mends it"),
        (torch.zeros(3, 8, 16, 16), r"must be \(B, C, T, H, W\) with B = 3"),
    ],
)
def test_errors_of_views_name_the_mend(video: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParamCrop(size=(4, 8, 8)).views(video)


def test_batch_norm_between_layers() -> None:
    assert parameters(crop_mlp(batch_norm=True)) == 5_004 // 2 + 2 * 64


def test_only_entries_that_can_learn_count_as_saturated() -> None:
    """Without rotation theta's entry moves nothing, and an axis that is kept whole moves none of its own."""
    names = ("s_p", "s_t", "theta", "dx", "dy", "dt")
    learned = {
        "all": ParamCrop(Ranges(theta=0.5)),
        "no rotation": ParamCrop(),
        "space": ParamCrop(axes="spatial"),
        "time": ParamCrop(axes="temporal"),
        "one scale": ParamCrop(Ranges((0.5, 0.5), (1.0, 1.0))),
    }
    assert {key: [names[i] for i in crop.learned] for key, crop in learned.items()} == {
        "all": list(names),
        "no rotation": ["s_p", "s_t", "dx", "dy", "dt"],
        "space": ["s_p", "dx", "dy"],
        "time": ["s_t", "dt"],
        "one scale": ["dx", "dy"],
    }
    crop = ParamCrop(axes="spatial")
    with torch.no_grad():
        for *_, weight, bias in (list(cropper.parameters()) for cropper in crop.croppers):
            weight.zero_()
            bias.copy_(torch.tensor([9.0, 9.0, 9.0, 0.0, 0.0, 9.0]))  # s_p beyond its bound, dx and dy not
    assert crop.telemetry(crop.draw_noise(4))["saturated"].item() == pytest.approx(1 / 3)
    assert ParamCrop(Ranges((1.0, 1.0), (1.0, 1.0))).telemetry(torch.randn(4, 2, 32))["saturated"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_croppers_of_another_precision_crop_and_learn(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    crop = ParamCrop(size=(4, 8, 8)).to(dtype)
    first, second = crop.views(torch.randint(0, 256, (2, 3, 8, 16, 16), dtype=torch.uint8))
    assert first.dtype == torch.promote_types(dtype, torch.float32)
    (first * second).mean().backward()
    gradients = [p.grad for p in crop.parameters() if p.grad is not None]
    assert len(gradients) == 8 and all(g.dtype == dtype and g.isfinite().all() for g in gradients)
