"""LARS in two launches against LARS tensor by tensor, on the CPU under Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from paramcrop.training.gpu import lars_kernels
from paramcrop.training.gpu.lars_kernels import chunks_of, step_together
from paramcrop.training.optim import Lars

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GROUPS = [{"adapt": True, "weight_decay": 0.02}, {"adapt": False, "weight_decay": 0.0}]
COMMON = {"lr": 0.3, "momentum": 0.9, "trust": 0.01}


def tensors(seed: int) -> list[Tensor]:
    """One of them zero, one laid out channels last, one of a single number."""
    g = torch.Generator().manual_seed(seed)
    last = torch.randn(3, 4, 2, 3, 3, generator=g).contiguous(memory_format=torch.channels_last_3d)
    made = [torch.randn(5, 3, generator=g), torch.zeros(2, 2), last, torch.randn(1, generator=g)]
    return [x.to(DEVICE) for x in made]


@pytest.mark.parametrize("group", GROUPS)
def test_equals_the_step_tensor_by_tensor(group: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lars_kernels, "CHUNK", 32)  # several chunks of a tensor
    ours, theirs = tensors(0), [torch.nn.Parameter(p.cpu()) for p in tensors(0)]
    optimizer = Lars([{"params": theirs, **COMMON, **group}], trust=0.01)
    momenta, chunks = [torch.zeros_like(p) for p in ours], chunks_of(ours)
    for step in range(3):
        grads = [torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) for p in ours]
        for p, grad in zip(theirs, grads, strict=True):
            p.grad = grad.clone()
        optimizer.step()
        step_together(ours, [grad.to(DEVICE) for grad in grads], momenta, chunks, COMMON | group)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.cpu(), other.detach(), rtol=1e-5, atol=1e-6)


def test_a_skipped_step_changes_nothing_whatever_its_gradient() -> None:
    params, before, momenta = tensors(0), tensors(0), tensors(1)
    chunks, group = chunks_of(params), COMMON | GROUPS[0]
    nothing = [torch.full_like(p, torch.nan) for p in params]
    step_together(params, nothing, momenta, chunks, group, torch.ones((), device=DEVICE))
    for mine, other in zip([*params, *momenta], [*before, *tensors(1)], strict=True):
        assert torch.equal(mine, other)
    step_together(params, tensors(2), momenta, chunks, group, torch.zeros((), device=DEVICE))
    assert not torch.equal(params[0], before[0])
