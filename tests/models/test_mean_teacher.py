"""Mean Teacher against slow references: losses, ramp, moving average, and the gradients of each loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramcrop.data.batch import Batch, shard_batch
from paramcrop.data.synthetic import CLASSES
from paramcrop.errors import CheckpointError, ConfigError
from paramcrop.models.mean_teacher import (
    CONSISTENCIES,
    MeanTeacher,
    labelled_accuracy,
    ramp_up,
    supervised_loss,
)
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.pretrain import train_step
from paramcrop.training.two_views import TwoViews, build_model, distribute
from tests.memory import made_clips, memory_batches, on_two_ranks, tiny_config

CPU = torch.device("cpu")
LABEL = torch.tensor([2, -1, 0, -1])
SETTINGS = ("method=mean_teacher", "mean_teacher.labelled=0.5", "mean_teacher.ramp_up_epochs=0")


def teacher(**settings: Any) -> MeanTeacher:
    torch.manual_seed(3)
    backbone = nn.Sequential(nn.Conv3d(3, 6, 2), nn.BatchNorm3d(6), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return MeanTeacher(backbone, nn.Linear(6, 3), ("a", "b", "c"), **settings)


def views() -> list[Tensor]:
    drawn = torch.rand(2, 4, 3, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    return [view.clone().requires_grad_() for view in drawn]


def test_the_losses_equal_a_slow_reference() -> None:
    student, other = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1)).unbind()
    p, q = student.softmax(1).tolist(), other.softmax(1).tolist()
    by_class = [[(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(p, q, strict=True)]
    mse = sum((a - b) ** 2 for row in by_class for a, b in row) / (4 * 3)
    kl = sum(b * math.log(b / a) for row in by_class for a, b in row) / 4  # not by the classes, as in the authors' code
    assert CONSISTENCIES["mse"](student, other).item() == pytest.approx(mse, abs=1e-6)
    assert CONSISTENCIES["kl"](student, other).item() == pytest.approx(kl, abs=1e-6)
    expected = -(math.log(p[0][2]) + math.log(p[2][0])) / 4  # divided by all four rows, labelled or not
    assert supervised_loss(student, LABEL).item() == pytest.approx(expected, abs=1e-6)
    assert supervised_loss(student, torch.full((4,), -1)).item() == 0
    guesses = F.one_hot(torch.tensor([2, 0, 1, 1]), 3).float()
    assert labelled_accuracy(guesses, LABEL).item() == 0.5


def test_the_ramp_reaches_one_and_stays_there() -> None:
    assert ramp_up(0.0, 0.2) == pytest.approx(math.exp(-5))
    assert ramp_up(0.1, 0.2) == pytest.approx(math.exp(-5 / 4))
    assert ramp_up(0.2, 0.2) == ramp_up(0.9, 0.2) == ramp_up(0.0, 0.0) == 1


def test_the_teacher_is_the_students_moving_average() -> None:
    """After k steps the momentum is min(1 - 1/(k + 1), momentum): 0, then 1/2, then the momentum."""
    model = teacher(momentum=0.6)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    slow, students = [p.detach().clone() for p in model.head.parameters()], []
    for k in range(4):
        students = [p.detach().clone() for p in model.head.parameters()]
        momentum = min(1 - 1 / (k + 1), 0.6)
        slow = [momentum * t + (1 - momentum) * s for t, s in zip(slow, students, strict=True)]
        optimizer.zero_grad()
        model(*views(), LABEL, 1.0)[0].backward()
        for p, expected in zip(model.teacher_head.parameters(), slow, strict=True):
            torch.testing.assert_close(p, expected)
        optimizer.step()
    assert all(p.grad is None for p in [*model.teacher_backbone.parameters(), *model.teacher_head.parameters()])
    assert not torch.equal(students[0], slow[0])


def test_crops_get_the_gradient_of_the_consistency_only_and_weights_get_both() -> None:
    """The reference differentiates the two losses separately. Batch norm couples all rows of a batch."""
    model, both = teacher(weight=7.0, ramp=0.0), views()
    loss, scalars = model(*both, LABEL, 1.0)
    loss.backward()

    def parts() -> tuple[MeanTeacher, list[Tensor], Tensor, Tensor]:
        other, copies = teacher(weight=7.0, ramp=0.0), views()
        student = other.head(other.backbone(copies[0]))
        consistency = F.mse_loss(student.softmax(1), other.teacher_head(other.teacher_backbone(copies[1])).softmax(1))
        return other, copies, supervised_loss(student, LABEL), 7 * consistency

    _, copies, supervised, consistency = parts()
    consistency.backward()
    for view, copy in zip(both, copies, strict=True):
        assert view.grad is not None and copy.grad is not None and copy.grad.abs().sum() > 0
        torch.testing.assert_close(view.grad, copy.grad)
    reference, _, supervised, consistency = parts()
    (supervised + consistency).backward()
    for p, expected in zip(model.backbone.parameters(), reference.backbone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, expected.grad)
    assert loss.item() == pytest.approx((supervised + consistency).item(), abs=1e-6)
    assert scalars["consistency"].item() == pytest.approx(consistency.item() / 7, abs=1e-6)


def test_only_the_consistency_moves_the_croppers() -> None:
    for weight, moves in ((0.0, False), (100.0, True)):
        config = tiny_config(*SETTINGS, f"mean_teacher.weight={weight}", "cropper.lr=0.1")
        model, before = trained(config)
        croppers = {name: p for name, p in model.named_parameters() if name.startswith("policy.")}
        changed = {name for name, p in croppers.items() if not torch.equal(p, before[name])}
        assert changed == (set(croppers) if moves else set())
        network = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith("method.")}
        assert {name for name in network if torch.equal(model.get_parameter(name), before[name])} == set()


def trained(config: Any, steps: int = 3) -> tuple[TwoViews, dict[str, Any]]:
    model = build_model(config, CPU, CLASSES)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(config, model.policy, model.method)
    for step in range(steps):
        batch = batches(config)[step % 2]
        train_step(model, batch._replace(label=hidden(batch)), optimizer, (step + 1) / steps)
    return model, before


def batches(config: Any) -> list[Batch]:
    clips = made_clips(16, config.data.clip_frames, config.data.clip_size)
    return list(memory_batches(clips, build_clip_spec(config), 0, 8)(0))


def hidden(batch: Batch) -> Tensor:
    """Labels with every second one hidden."""
    return torch.where(torch.arange(len(batch.label)) % 2 == 0, batch.label, -1)


def test_two_ranks_equal_one_in_loss_and_gradients(tmp_path: Path) -> None:
    one = gradients(False)
    first, second = on_two_ranks(gradients, tmp_path, True)
    torch.testing.assert_close((first.pop("loss") + second.pop("loss")) / 2, one.pop("loss"))
    for name, grad in one.items():
        torch.testing.assert_close(first[name], second[name])
        torch.testing.assert_close(first[name], grad, atol=1e-5, rtol=1e-4)


def gradients(sharded: bool) -> dict[str, Tensor]:
    """Gradients of one step. With group norm, a row does not depend on the other rows of its rank."""
    from paramcrop import dist

    config = tiny_config(*SETTINGS, "backbone.norm=group")
    model = build_model(config, CPU, CLASSES)
    (batch, *_) = batches(config)
    batch = batch._replace(label=hidden(batch))
    part = shard_batch(batch, dist.rank(), dist.world_size()) if sharded else batch
    wrapped = distribute(model, CPU)  # the reference keeps DDP alive; otherwise nothing is reduced
    loss, _ = wrapped(part, 1.0)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in found} == {"policy", "method"}
    return found | {"loss": loss.detach()}


def test_the_checkpoint_holds_the_classes_and_other_classes_are_rejected() -> None:
    model = teacher()
    state = model.state_dict()
    assert state["_extra_state"] == {"classes": ["a", "b", "c"]}
    teacher().load_state_dict(state)
    with pytest.raises(CheckpointError, match="the weights must belong to the classes"):
        teacher().load_state_dict(state | {"_extra_state": {"classes": ["a", "c", "b"]}})
    with pytest.raises(ConfigError, match="needs videos of two classes or more, but there are 0"):
        build_model(tiny_config(*SETTINGS), CPU)


@pytest.mark.parametrize(("max_steps", "ramp"), [(None, 0.25), (10, 0.8), (4, 2.0)])
def test_the_ramp_is_in_epochs_also_of_a_run_that_ends_early(max_steps: int | None, ramp: float) -> None:
    """Two epochs of ramp, of eight of four steps each; progress is a share of the steps that are run."""
    settings = ("method=mean_teacher", "mean_teacher.ramp_up_epochs=2", "mean_teacher.labelled=0.5", "train.epochs=8")
    config = tiny_config(*settings, f"train.max_steps={max_steps or 'null'}")
    found = build_model(config, CPU, CLASSES, config.total_steps(4) / 4).method
    assert isinstance(found, MeanTeacher) and found.ramp == pytest.approx(ramp)
