from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from paramcrop.training.embeddings import alignment, effective_rank, similarity_gap, spread, total_norm, uniformity


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_effective_rank_equals_that_of_a_decomposition(shape: tuple[int, int]) -> None:
    z = random(*shape)
    sigma = torch.linalg.svdvals(z.double())
    shares = sigma / sigma.sum()
    assert effective_rank(z).item() == pytest.approx(math.exp(-(shares * shares.log()).sum()), rel=1e-6)


def test_effective_rank_is_one_of_one_direction_and_full_of_orthogonal_ones() -> None:
    assert effective_rank(torch.ones(6, 1) * random(1, 4)).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.linalg.qr(random(8, 8)).Q[:, :5]).item() == pytest.approx(5, abs=1e-4)
    assert math.isnan(effective_rank(torch.full((4, 3), math.nan)).item())
    assert effective_rank(torch.zeros(4, 3)).isfinite()


def test_pairs_equal_a_loop_over_pairs() -> None:
    x, y = random(5, 3), random(5, 3, seed=1)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2)
    own = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    gap = sum(cosine[i, i] for i in range(5)) / 5 - sum(cosine[i, j] for i, j in pairs) / 20
    assert similarity_gap(x, y).item() == pytest.approx(float(gap), abs=1e-6)
    assert alignment(x, y).item() == pytest.approx(float(sum(2 - 2 * cosine[i, i] for i in range(5)) / 5), abs=1e-6)
    even = math.log(sum(math.exp(-2 * (2 - 2 * own[i, j])) for i, j in pairs) / 20)
    assert uniformity(x).item() == pytest.approx(even, abs=1e-5)


def test_embeddings_that_are_all_alike_have_no_spread() -> None:
    alike = torch.ones(64, 1) * random(1, 16)
    assert spread(alike).item() == pytest.approx(0, abs=1e-5) and uniformity(alike).item() == pytest.approx(0, abs=1e-5)
    assert spread(random(4096, 16)).item() == pytest.approx(1, abs=0.02)


def test_total_norm_is_that_of_all_values() -> None:
    tensors = [random(3, 4), random(5, seed=1)]
    assert total_norm(tensors).item() == pytest.approx(torch.cat([t.flatten() for t in tensors]).norm().item())
