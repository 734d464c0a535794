"""Steps without waiting, as far as a CPU can take them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")

from paramcrop.data.batch import MOVED, Batch
from paramcrop.errors import NonFiniteLossError
from paramcrop.training import optim
from paramcrop.training.gpu.ahead import ahead
from paramcrop.training.optim import Lars
from paramcrop.training.step import Stepper
from paramcrop.training.two_views import build_model
from tests.memory import tiny_config


class Squares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.weight * batch.noise).square().sum()
        return loss, {"loss": loss.detach()}


def noise(value: float) -> Batch:
    """A batch in which only the noise matters."""
    fields: dict[str, Any] = dict.fromkeys(Batch._fields, torch.zeros(1))
    return Batch(**fields)._replace(noise=torch.full((2,), value), box=None)


def stepper_of(model: nn.Module) -> Stepper:
    groups = [{"params": [*model.parameters()], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "adapt": True}]
    return Stepper(model, Lars([group | {"network": True} for group in groups]))


def test_a_step_that_is_not_finite_updates_nothing_and_the_next_one_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "fits_kernels", lambda params: True)
    model = Squares()
    stepper = stepper_of(model)
    stepper.take_without_waiting(noise(1.0), 0.0, 7)
    moved = model.weight.detach().clone()
    assert not torch.equal(moved, torch.ones(3, 2))
    loss, _ = stepper.take_without_waiting(noise(float("nan")), 0.0, 8)
    assert loss.isnan() and torch.equal(model.weight, moved)
    with pytest.raises(NonFiniteLossError, match="is nan on rank 0 at step 8"):
        stepper.take_without_waiting(noise(1.0), 0.0, 9)
    assert torch.equal(model.weight, moved)


def test_check_raises_for_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "fits_kernels", lambda params: True)
    stepper = stepper_of(Squares())
    stepper.take_without_waiting(noise(float("inf")), 0.0, 3)
    with pytest.raises(NonFiniteLossError, match="at step 3"):
        stepper.check()
    stepper.check()  # raises once


def test_waiting_or_not_the_steps_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for name in ("take", "take_without_waiting"):
        monkeypatch.setattr(optim, "fits_kernels", lambda params, name=name: name == "take_without_waiting")
        model = Squares()
        stepper = stepper_of(model)
        losses = [getattr(stepper, name)(noise(1.0 + i), 0.0, i)[0] for i in range(4)]
        results.append((torch.stack(losses).detach(), model.weight.detach()))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other)


def test_on_a_cpu_no_batch_is_asked_for_before_it_is_used() -> None:
    asked = []

    def batches() -> Any:
        for i in range(3):
            asked.append(i)
            yield noise(float(i))

    for i, batch in enumerate(ahead(batches(), torch.device("cpu"))):
        assert asked == list(range(i + 1)) and batch.noise[0] == i
    assert len(asked) == 3 and "order" in MOVED


def test_tensors_that_kernels_do_not_take_are_left_as_they_are_too() -> None:
    model = Squares()
    stepper = stepper_of(model)
    stepper.take_without_waiting(noise(float("nan")), 0.0, 0)
    assert torch.equal(model.weight, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("overrides", "recordable"),
    [((), True), (("method=moco", "moco.queue=16"), True), (("policy=simple",), False)],
)
def test_only_steps_that_never_change_are_recorded(overrides: tuple[str, ...], recordable: bool) -> None:
    assert build_model(tiny_config(*overrides), torch.device("cpu")).recordable == recordable
