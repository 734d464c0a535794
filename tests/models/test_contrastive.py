"""MoCo against a slow reference with a list as its queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramcrop import dist
from paramcrop.data.batch import shard_batch
from paramcrop.models.contrastive import MoCo
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.optim import set_lr
from paramcrop.training.pretrain import train_step
from paramcrop.training.two_views import TwoViews, build_model, distribute
from tests.memory import made_clips, memory_batches, on_two_ranks, tiny_config

CPU = torch.device("cpu")


def network() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    return nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, 10)), nn.Linear(10, 6)


def views(n: int, steps: int) -> Tensor:
    return torch.rand(steps, 2, n, 3, 2, 4, 4, generator=torch.Generator().manual_seed(5))


def test_queue_loss_and_momentum_encoder_equal_a_slow_reference() -> None:
    """Ten steps of three videos with a queue of nine, which wraps three times."""
    backbone, head = network()
    moco = MoCo(backbone, head, queue=9, size=6, momentum=0.8, temperature=0.2)
    keys = list(moco.queue.clone())  # the oldest first
    slow = [p.detach().clone() for p in [*backbone.parameters(), *head.parameters()]]
    optimizer = torch.optim.SGD([p for p in moco.parameters() if p.requires_grad], lr=0.1)
    for view_1, view_2 in views(3, 10):
        fast = [p.detach() for p in [*backbone.parameters(), *head.parameters()]]
        slow = [0.8 * s + 0.2 * f for s, f in zip(slow, fast, strict=True)]
        with torch.no_grad():
            copied = torch.func.functional_call
            names_b, names_h = [n for n, _ in backbone.named_parameters()], [n for n, _ in head.named_parameters()]
            features = copied(backbone, dict(zip(names_b, slow[: len(names_b)], strict=True)), (view_2,))
            new = F.normalize(copied(head, dict(zip(names_h, slow[len(names_b) :], strict=True)), (features,)), dim=1)
            queries = F.normalize(head(backbone(view_1)), dim=1)
        expected = 0.0
        for query, key in zip(queries, new, strict=True):
            positive = (query @ key / 0.2).exp()
            negatives = sum(((query @ other / 0.2).exp() for other in keys), torch.zeros(()))
            expected += -(positive / (positive + negatives)).log().item() / 3
        loss, scalars = moco(view_1, view_2)
        assert loss.item() == pytest.approx(expected, abs=1e-5)
        assert scalars["similarity_positive"].item() == pytest.approx((queries * new).sum(1).mean().item(), abs=1e-5)
        keys = keys[3:] + list(new)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    place = int(moco.place)
    assert place == 3  # ten batches of three in nine places
    torch.testing.assert_close(torch.cat([moco.queue[place:], moco.queue[:place]]), torch.stack(keys))


@pytest.mark.parametrize("key_crop_grad", [True, False])
def test_the_key_passes_gradient_to_its_input_but_not_to_its_weights(key_crop_grad: bool) -> None:
    moco = MoCo(*network(), queue=4, size=6, key_crop_grad=key_crop_grad)
    both = views(2, 1)[0].requires_grad_()
    moco(both[0], both[1])[0].backward()
    assert both.grad is not None
    assert both.grad[0].abs().sum() > 0
    assert bool(both.grad[1].abs().sum() > 0) is key_crop_grad
    assert all(p.grad is None for p in [*moco.key_backbone.parameters(), *moco.key_head.parameters()])


def test_both_croppers_move_with_moco() -> None:
    config = tiny_config("method=moco", "moco.queue=16", "cropper.lr=0.1")
    model, _ = trained(config, 4)
    start = build_model(config, CPU).state_dict()
    for i in range(2):
        names = [n for n in start if n.startswith(f"policy.croppers.{i}.")]
        assert names and all(not torch.equal(start[n], model.state_dict()[n]) for n in names)


def trained(config: Any, steps: int) -> tuple[TwoViews, list[float]]:
    """``steps`` steps on this rank's share of the batches."""
    clips = made_clips(16, config.data.clip_frames, config.data.clip_size)
    give = memory_batches(clips, build_clip_spec(config), config.seed, config.train.global_batch)
    model = build_model(config, CPU)
    wrapped = distribute(model, CPU)
    optimizer = build_optimizer(config, model.policy, model.method)
    losses = []
    for i, batch in enumerate(b for epoch in range(steps) for b in give(epoch)):
        if i < steps:
            set_lr(optimizer, i, 20, 0)
            mine = shard_batch(batch, dist.rank(), dist.world_size())
            losses.append(train_step(wrapped, mine, optimizer, 0.0)[0])
    return model, losses


def last_weight(model: TwoViews) -> Tensor:
    return model.get_parameter("method.key_head.2.weight").detach()


def moco_config() -> Any:
    return tiny_config("method=moco", "moco.queue=16", "moco.momentum=0.9", "backbone.norm=group")


def _two_ranks() -> tuple[list[float], Tensor, Tensor]:
    model, losses = trained(moco_config(), 6)
    assert isinstance(model.method, MoCo)
    return losses, model.method.queue, last_weight(model)


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Losses of six steps with a queue of two batches, the momentum encoder's weights, and the queue in rank order."""
    model, losses = trained(moco_config(), 6)
    assert isinstance(model.method, MoCo)
    for their_losses, queue, weight in on_two_ranks(_two_ranks, tmp_path):
        assert their_losses == pytest.approx(losses, abs=1e-5)
        torch.testing.assert_close(weight, last_weight(model), atol=1e-5, rtol=0)
        torch.testing.assert_close(queue, model.method.queue, atol=1e-4, rtol=0)
