from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from timm.optim.lars import Lars as TimmLars
from torch import nn

from paramcrop.evaluation.fitting.finetune import Training, learning_rate
from paramcrop.training.optim import (
    Lars,
    cosine_decay,
    cropper_group,
    load_optimizer,
    lr_factor,
    make_optimizer,
    network_groups,
    set_lr,
)


def test_lars_equals_a_scalar_reference() -> None:
    w = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = Lars([{"params": [w], "lr": 0.5, "momentum": 0.9, "weight_decay": 0.1, "adapt": True}], trust=0.02)
    value, velocity = [3.0, 4.0], [0.0, 0.0]
    for grad in ([0.6, 0.8], [-0.3, 0.4], [0.0, 1.0]):
        w.grad = torch.tensor([grad])
        optimizer.step()
        size, slope = math.hypot(*value), math.hypot(*grad)
        ratio = 0.02 * size / (slope + 0.1 * size)
        velocity = [0.9 * v + ratio * (g + 0.1 * x) for v, g, x in zip(velocity, grad, value, strict=True)]
        value = [x - 0.5 * v for x, v in zip(value, velocity, strict=True)]
        assert w[0].tolist() == pytest.approx(value, rel=1e-5)


def test_lars_equals_timms() -> None:
    """Tensors of several sizes and twenty random gradients."""
    random = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=random) for shape in ((4, 3), (2, 3, 3, 3), (7, 1))]
    ours, theirs = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    group = {"lr": 0.7, "momentum": 0.9, "weight_decay": 0.02}
    lars = Lars([{"params": ours, "adapt": True, **group}], trust=0.01)
    reference = TimmLars([{"params": theirs, **group}], trust_coeff=0.01)
    for _ in range(20):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=random)
            b.grad = a.grad.clone()
        lars.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_group_without_adapt_equals_torchs_sgd() -> None:
    ours, theirs = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    lars = Lars([{"params": [ours], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "adapt": False}])
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(5):
        for p in (ours, theirs):
            p.grad = torch.tensor([0.3, -0.1]) * (step + 1)
        lars.step()
        sgd.step()
        torch.testing.assert_close(ours, theirs)


def test_lars_moves_a_tensor_that_starts_at_zero() -> None:
    w = nn.Parameter(torch.zeros(2, 2))
    optimizer = Lars([{"params": [w], "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-6, "adapt": True}])
    w.grad = torch.ones(2, 2)
    optimizer.step()
    assert (w < 0).all()


def test_lars_state_survives_saving() -> None:
    def steps(n: int, state: dict[str, object] | None, start: torch.Tensor) -> tuple[torch.Tensor, dict[str, object]]:
        w = nn.Parameter(start.clone())
        optimizer = Lars([{"params": [w], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "adapt": True}])
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(n):
            w.grad = torch.ones(2, 2)
            optimizer.step()
        return w.detach(), optimizer.state_dict()

    start = torch.ones(2, 2)
    half, state = steps(2, None, start)
    torch.testing.assert_close(steps(2, state, half)[0], steps(4, None, start)[0], rtol=0, atol=0)


def test_every_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    network, cropper = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(2, 6)
    groups = network_groups([network], 0.3, 0.9, 1e-6) + cropper_group(cropper, 0.004, 0.9, 0.0, "constant", False)
    optimizer = make_optimizer(groups, "sgd")
    held = [p for g in optimizer.param_groups for p in g["params"]]
    assert len(held) == len(set(held)) == len(list(network.parameters())) + len(list(cropper.parameters()))
    assert [(len(g["params"]), g["weight_decay"], g["adapt"]) for g in optimizer.param_groups] == [
        (1, 1e-6, True),
        (3, 0.0, False),
        (2, 0.0, False),
    ]


def test_a_policy_without_parameters_adds_no_group() -> None:
    assert cropper_group(nn.Identity(), 0.1, 0.9, 0.0, "cosine", False) == []


def test_schedule_warms_up_then_follows_the_cosine_per_step() -> None:
    factors = [lr_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert 0 < factors[99] < 0.001
    assert lr_factor(0, 5, 0) == 1


def test_set_lr_keeps_a_constant_group_at_its_peak() -> None:
    groups = network_groups([nn.Linear(2, 2)], 0.3, 0.9, 0.0) + cropper_group(
        nn.Linear(2, 2), 0.1, 0, 0, "constant", False
    )
    optimizer = make_optimizer(groups, "lars")
    set_lr(optimizer, 50, 100, 0)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.15, 0.15, 0.1])


def test_every_schedule_falls_by_the_same_cosine_to_the_last_bit() -> None:
    """Values as each schedule computed them by a formula of its own."""
    for step in range(97):
        assert cosine_decay(step, 97) == 0.5 * (1 + math.cos(math.pi * step / 97))
        assert lr_factor(step + 5, 102, 5) == 0.5 * (1 + math.cos(math.pi * step / 97))
        rate = learning_rate(Training(epochs=97, lr=2e-4, weight_decay=0.0, warmup=0.0, seed=0), step)
        assert rate == 2e-4 * 0.5 * (1 + math.cos(math.pi * step / 97))


def test_a_state_from_a_gpu_leaves_the_way_of_this_device() -> None:
    """A GPU's SGD is fused, and its state says so."""
    ours, of_gpu = (make_optimizer([{"params": [nn.Parameter(torch.ones(2))]}], "sgd") for _ in range(2))
    of_gpu.param_groups[0]["fused"] = True
    load_optimizer(ours, of_gpu.state_dict())
    assert ours.param_groups[0]["fused"] is None
