from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from paramcrop import dist
from paramcrop.models.losses import nt_xent
from tests.memory import on_two_ranks


def slow_nt_xent(z_1: Tensor, z_2: Tensor, temperature: float) -> Tensor:
    """Eq. 1 and 2 with loops; the views of video k are 2k and 2k + 1."""
    views = torch.stack([z_1, z_2], 1).flatten(0, 1).double()
    views = views / views.norm(dim=1, keepdim=True)
    n = len(views)

    def pair(i: int, j: int) -> Tensor:
        below = sum((views[i] @ views[k] / temperature).exp() for k in range(n) if k != i)
        ratio: Tensor = (views[i] @ views[j] / temperature).exp() / below
        return -ratio.log()

    total = sum(pair(2 * k, 2 * k + 1) + pair(2 * k + 1, 2 * k) for k in range(n // 2))
    assert isinstance(total, Tensor)
    return total / n


def embeddings(n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    z_1, z_2 = torch.randn(2, n, 5, generator=g).unbind(0)
    return z_1.clone().requires_grad_(), z_2.clone().requires_grad_()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("n", [2, 7])
def test_equals_eq_1_and_2_with_loops(n: int, temperature: float) -> None:
    z_1, z_2 = embeddings(n)
    loss, scalars = nt_xent(z_1, z_2, temperature)
    assert loss.item() == pytest.approx(slow_nt_xent(z_1, z_2, temperature).item(), abs=1e-5)
    cosine = torch.cosine_similarity(z_1, z_2)
    assert scalars["similarity_positive"].item() == pytest.approx(cosine.mean().item(), abs=1e-6)


def test_the_loss_is_symmetric_and_ignores_the_norm() -> None:
    z_1, z_2 = embeddings()
    loss = nt_xent(z_1, z_2)[0]
    torch.testing.assert_close(loss, nt_xent(z_2, z_1)[0])
    torch.testing.assert_close(loss, nt_xent(3 * z_1, 0.1 * z_2)[0])


def test_equal_embeddings_give_the_chance_loss() -> None:
    z = torch.ones(8, 4)
    assert nt_xent(z, z)[0].item() == pytest.approx(math.log(2 * 8 - 1))


def test_mean_similarity_of_negatives() -> None:
    z_1, z_2 = embeddings(3)
    views = torch.nn.functional.normalize(torch.cat([z_1, z_2]), dim=1)
    cosine = views @ views.T
    others = [cosine[i, j].item() for i in range(6) for j in range(6) if i % 3 != j % 3]
    got = nt_xent(z_1, z_2)[1]["similarity_negative"].item()
    assert got == pytest.approx(sum(others) / len(others), abs=1e-6)


def test_half_precision_embeddings_give_a_float32_loss() -> None:
    z_1, z_2 = embeddings()
    assert nt_xent(z_1.bfloat16(), z_2.bfloat16())[0].dtype == torch.float32


def _loss_of_my_half() -> tuple[Tensor, Tensor, Tensor]:
    z_1, z_2 = embeddings(6)
    half = slice(3 * dist.rank(), 3 * dist.rank() + 3)
    loss, _ = nt_xent(z_1[half], z_2[half])
    (loss / dist.world_size()).backward()  # DDP's mean over ranks
    assert z_1.grad is not None and z_2.grad is not None
    return dist.mean_over_ranks(loss), z_1.grad[half], z_2.grad[half]


def test_two_ranks_equal_one_in_loss_and_gradient(tmp_path: Path) -> None:
    z_1, z_2 = embeddings(6)
    loss, _ = nt_xent(z_1, z_2)
    loss.backward()
    assert z_1.grad is not None and z_2.grad is not None
    halves = on_two_ranks(_loss_of_my_half, tmp_path)
    for rank, (half_loss, grad_1, grad_2) in enumerate(halves):
        rows = slice(3 * rank, 3 * rank + 3)
        assert half_loss.item() == pytest.approx(loss.item(), abs=1e-6)
        torch.testing.assert_close(grad_1, z_1.grad[rows], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(grad_2, z_2.grad[rows], atol=1e-6, rtol=1e-5)
