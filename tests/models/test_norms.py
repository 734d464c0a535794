"""Batch norm over all ranks equals torch's over the whole batch, in values, gradients and running averages."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paramcrop import dist
from paramcrop.models.layers import BatchNormOfAllRanks, share_norms
from tests.memory import on_two_ranks

KINDS = {
    "rows": (nn.BatchNorm1d(3), (8, 3)),
    "without weights": (nn.BatchNorm1d(3, affine=False), (8, 3)),
    "clips": (nn.BatchNorm3d(3, eps=1e-3), (4, 3, 2, 2, 2)),
    "mean of all steps": (nn.BatchNorm1d(3, momentum=None), (8, 3)),
}


def network(kind: str) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    norm, shape = KINDS[kind]
    return nn.Sequential(nn.Identity(), copy.deepcopy(norm)), 3 + 2 * torch.randn(shape)


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The second output, the gradient of x, and what the norm holds, after two steps."""
    x = x.requires_grad_()
    y = model(x).sin()
    y.square().sum().backward()
    with torch.no_grad():
        y = model(2 * x)
    assert x.grad is not None
    return [y.detach(), x.grad, *(value.float() for value in model.state_dict().values())]


def _my_half(kind: str) -> list[Tensor]:
    model, x = network(kind)
    share_norms(model)
    half = len(x) // 2
    return results(model, x[dist.rank() * half : (dist.rank() + 1) * half].clone())


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_equal_one(tmp_path: Path, kind: str) -> None:
    y, grad, *state = results(*network(kind))
    ranks = on_two_ranks(_my_half, tmp_path, kind)
    torch.testing.assert_close(torch.cat([found[0] for found in ranks]), y)
    torch.testing.assert_close(torch.cat([found[1] for found in ranks]), grad, rtol=1e-4, atol=1e-5)
    for found in ranks:
        torch.testing.assert_close(found[2:], state)


def test_it_keeps_parameters_and_names_and_evaluates_as_before() -> None:
    model, x = network("clips")
    results(model, x)
    shared = copy.deepcopy(model)
    before = dict(shared.named_parameters())
    share_norms(shared)
    assert isinstance(shared[1], BatchNormOfAllRanks) and shared.state_dict().keys() == model.state_dict().keys()
    assert all(value is before[name] for name, value in shared.named_parameters())
    torch.testing.assert_close(shared.eval()(x), model.eval()(x))
