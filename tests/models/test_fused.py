"""Batch norm, ReLU and pooling in Triton against torch's, on the CPU under Triton's interpreter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("triton")

from paramcrop import dist
from paramcrop.models import fused, gating, layers
from paramcrop.models.fused import norm_relu, pool
from paramcrop.models.layers import Chain, add_shortcut
from paramcrop.models.r2d3d import Block
from paramcrop.models.s3d import Inception
from tests.memory import on_two_ranks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Size = tuple[int, int, int]


def values(*shape: int, seed: int = 0) -> Tensor:
    """Channels last in memory, their means far from zero."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    x = x + torch.arange(shape[1], device=DEVICE).view(1, -1, 1, 1, 1)
    return x.contiguous(memory_format=torch.channels_last_3d)


def batch_norm(channels: int) -> nn.BatchNorm3d:
    norm = nn.BatchNorm3d(channels, eps=1e-3).to(DEVICE)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, channels))
        norm.bias.copy_(torch.linspace(-0.5, 0.5, channels))
    return norm


def plain(x: Tensor, norm: nn.Module, relu: bool, rest: Tensor | None) -> Tensor:
    y: Tensor = norm(x) if rest is None else norm(x) + rest
    return y.relu() if relu else y


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 3, 5, 4), (3, 40, 2, 4, 3)])
def test_norm_equals_torchs(shape: tuple[int, ...], relu: bool, rest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "TILE", 128)  # several tiles, and several parts
    ours, theirs = batch_norm(shape[1]), batch_norm(shape[1])
    inputs = [values(*shape), *([values(*shape, seed=1) - shape[1] / 2] if rest else [])]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    results = []
    for norm, form, dtype in ((ours, norm_relu, torch.float32), (theirs.double(), plain, torch.float64)):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
        y = form(leaves[0], norm, relu, leaves[1] if rest else None)
        grads = torch.autograd.grad((y * weight).sum(), [*leaves, *norm.parameters()])
        results.append([x.float() for x in (y, *grads, *norm.buffers())])
    assert results[0][0].is_contiguous(memory_format=torch.channels_last_3d)
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_norm_in_evaluation_equals_torchs() -> None:
    x, norm = values(2, 16, 2, 3, 3), batch_norm(16)
    norm(x)
    norm.eval()
    with torch.no_grad():
        torch.testing.assert_close(norm_relu(x, norm, True), norm(x).relu(), rtol=1e-5, atol=1e-5)


def test_norm_of_a_mean_far_from_zero_loses_no_digits() -> None:
    x = (values(4, 8, 2, 8, 8) * 0.01 + 300).contiguous(memory_format=torch.channels_last_3d)
    expected = F.batch_norm(x.double(), None, None, training=True, eps=1e-3)
    norm = nn.BatchNorm3d(8, eps=1e-3).to(DEVICE)
    torch.testing.assert_close(norm_relu(x, norm, False).double(), expected, rtol=0, atol=1e-3)


def test_a_gradient_of_some_channels_or_expanded_is_read_where_it_lies() -> None:
    x, norm = values(2, 16, 1, 3, 3), batch_norm(16)
    for reduce in (lambda y: torch.cat([y, y], 1)[:, 3:17].square().sum(), lambda y: y.mean((2, 3, 4)).sum()):
        grads = []
        for form in (norm_relu, partial(plain, rest=None)):
            leaf = x.clone().requires_grad_()
            grads.append(torch.autograd.grad(reduce(form(leaf, norm, True)), leaf)[0])
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


WINDOWS = [((1, 3, 3), (1, 2, 2), (0, 1, 1)), ((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((3, 3, 3), (1, 1, 1), (1, 1, 1))]
WINDOWS += [((2, 2, 2), (2, 2, 2), (0, 0, 0)), ((1, 2, 2), (1, 2, 2), (0, 0, 0)), ((3, 2, 1), (2, 3, 1), (1, 0, 0))]


@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("shape", [(2, 8, 4, 7, 5), (1, 5, 3, 6, 6)])
def test_pool_equals_torchs(
    shape: tuple[int, ...], kernel: Size, stride: Size, padding: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many equal values, of which the first takes the gradient."""
    monkeypatch.setattr(fused, "POOL_TILE", 512)
    x = (values(*shape) * 2).round().relu()
    results = []
    for form in (pool, F.max_pool3d):
        leaf = x.clone().requires_grad_()
        y = form(leaf, kernel, stride, padding)
        weight = values(*y.shape, seed=1)
        results.append((y, torch.autograd.grad((y * weight).sum(), leaf)[0]))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_results_can_be_changed_in_place() -> None:
    x = values(2, 8, 2, 4, 4).requires_grad_()
    linears = [nn.Linear(8, 8).to(DEVICE) for _ in range(2)]
    forms: list[Callable[[], Tensor]]
    forms = [lambda: pool(x, (1, 2, 2), (1, 2, 2), (0, 0, 0)), lambda: gating.gated_cat([x, x], linears)]
    for form in forms:
        in_place, apart = (torch.autograd.grad(y.sum(), x)[0] for y in (form().relu_(), form().relu()))
        assert torch.equal(in_place, apart) and in_place.any()


def test_what_is_not_a_number_stays_so() -> None:
    x = values(1, 8, 3, 4, 4)
    x[0, 2, 1, 1, 1] = torch.nan
    pooled = pool(x, (3, 3, 3), (1, 1, 1), (1, 1, 1))
    assert torch.equal(pooled.isnan(), F.max_pool3d(x, 3, 1, 1).isnan())
    y = norm_relu(x, batch_norm(8), True)
    assert y[:, 2].isnan().all() and y[:, 3].isfinite().all()


def test_bfloat16_is_computed_in_float32() -> None:
    x, norm = values(2, 8, 2, 3, 3).bfloat16(), batch_norm(8)
    y = norm_relu(x, norm, True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), norm(x.float()).relu(), rtol=1 / 64, atol=1 / 64)
    assert torch.equal(pool(x, (3, 3, 3), (1, 1, 1), (1, 1, 1)), F.max_pool3d(x, 3, 1, 1))


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains take the kernels on the CPU as well."""
    monkeypatch.setattr(layers, "on_gpu", lambda x: x.ndim == 5)


def chain() -> Chain:
    torch.manual_seed(0)
    first = [nn.Conv3d(3, 8, 3, padding=1, bias=False), batch_norm(8), nn.ReLU(inplace=True), nn.MaxPool3d(2)]
    return Chain(*first, nn.Conv3d(8, 4, 1, bias=False), batch_norm(4)).to(DEVICE)


@pytest.mark.usefixtures("everywhere")
def test_a_chain_is_torchs_sequential_with_its_names() -> None:
    ours = chain()
    theirs = nn.Sequential(*copy.deepcopy(list(ours)))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = values(2, 3, 4, 6, 6)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("everywhere")
def test_one_value_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        Chain(batch_norm(8), nn.ReLU())(values(1, 8, 1, 1, 1))


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("relu", [nn.ReLU(), nn.Identity()])
def test_a_shortcut_is_added_before_the_relu(relu: nn.Module) -> None:
    ours, x, rest = chain(), values(2, 3, 4, 6, 6), values(2, 4, 2, 3, 3, seed=1) - 2
    expected = relu(nn.Sequential(*copy.deepcopy(list(ours)))(x) + rest)
    torch.testing.assert_close(add_shortcut(ours, x, rest, relu), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("shape", [(2, 2, 3, 5), (3, 1, 1, 2)])
def test_gated_branches_equal_torchs(shape: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gating, "TILE", 64)
    torch.manual_seed(0)
    branches = [values(shape[0], channels, *shape[1:]) / channels for channels in (5, 16, 8)]
    linears = [nn.Linear(x.shape[1], x.shape[1]).to(DEVICE) for x in branches]
    results = []
    for form in (
        gating.gated_cat,
        lambda xs, ls: torch.cat([layers.gated(*pair) for pair in zip(xs, ls, strict=True)], 1),
    ):
        leaves = [x.clone().requires_grad_() for x in branches]
        y = form(leaves, linears)
        weight = values(*y.shape, seed=1)
        results.append((y, *torch.autograd.grad((y * weight).sum(), [*leaves, *nn.ModuleList(linears).parameters()])))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def a_step(network: nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    y: Tensor = network(leaf)
    grads = torch.autograd.grad((y * torch.ones_like(y).cumsum(1)).sum(), [leaf, *network.parameters()])
    return [y, *grads, *network.buffers()]


@pytest.mark.parametrize("name", ["inception", "residual"])
def test_blocks_equal_their_plain_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    if name == "inception":
        block: nn.Module = Inception(8, (8, 4, 8, 4, 8, 8), True, "batch")
    else:
        block = Block(8, 16, (1, 2, 2), True, "batch", True, False)
    block, x = block.to(DEVICE), values(2, 8, 2, 4, 4)
    expected = a_step(copy.deepcopy(block), x)
    monkeypatch.setattr(layers, "on_gpu", lambda x: x.ndim == 5)
    for mine, other in zip(a_step(block, x), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3 * float(other.detach().abs().max()))


def _norm_of_rank() -> list[Tensor]:
    """On each of two ranks, its half of a batch."""
    norm = nn.SyncBatchNorm.convert_sync_batchnorm(batch_norm(8))
    x, weight = (values(4, 8, 2, 3, 3, seed=seed).chunk(2)[dist.rank()] for seed in (0, 1))
    leaf = x.clone().requires_grad_()
    y = norm_relu(leaf, norm, True)
    return [y, *torch.autograd.grad((y * weight).sum(), [leaf, *norm.parameters()]), *norm.buffers()]


@pytest.mark.skipif(DEVICE == "cuda", reason="one GPU holds one rank")
def test_two_ranks_norm_as_one(tmp_path: Path) -> None:
    first, second = on_two_ranks(_norm_of_rank, tmp_path)
    norm, leaf = batch_norm(8), values(4, 8, 2, 3, 3).requires_grad_()
    y = norm(leaf).relu()
    of_x, of_weight, of_bias = torch.autograd.grad(
        (y * values(4, 8, 2, 3, 3, seed=1)).sum(), [leaf, *norm.parameters()]
    )
    for i, whole in ((0, y), (1, of_x)):
        torch.testing.assert_close(torch.cat([first[i], second[i]]), whole, rtol=1e-4, atol=1e-4)
    for i, whole in ((2, of_weight), (3, of_bias)):  # DDP's mean over ranks comes later
        torch.testing.assert_close(first[i] + second[i], whole, rtol=1e-4, atol=1e-3)
    for mine, others, whole in zip(first[4:], second[4:], norm.buffers(), strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-5)
        assert torch.equal(mine, others)
