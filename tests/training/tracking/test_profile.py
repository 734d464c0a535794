from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paramcrop.data.batch import Batch
from paramcrop.settings.identity import run_id
from paramcrop.training.pretrain import pretrain
from paramcrop.training.recorder import Recorder
from paramcrop.training.step import Stepper
from paramcrop.training.tracking.profile import Profiled, profiled
from tests.memory import tiny_config
from tests.training.test_pretrain import tiny_batches


def names(file: Path) -> list[str]:
    """Names of a trace's events, in the order of their times."""
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return [event["name"] for event in sorted(events, key=lambda event: event.get("ts", 0)) if "name" in event]


def noting(events: list[Any], name: str) -> Callable[[Any], None]:
    """The method of a profiler, which also adds its name to ``events``."""
    call = getattr(torch.profiler.profile, name)

    def noted(trace: Any) -> None:
        events.append(name)
        call(trace)

    return noted


def test_a_run_with_a_profile_has_a_trace_and_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, events, take = list[dict[str, Any]](), list[Any](), Stepper.take

    def noted(stepper: Stepper, batch: Batch, progress: float, step: int) -> Any:
        events.append(step)
        return take(stepper, batch, progress, step)

    monkeypatch.setattr(Stepper, "take", noted)
    for name in ("start", "stop"):
        monkeypatch.setattr(torch.profiler.profile, name, noting(events, name))
    for folder, profile in ((tmp_path, "2"), (tmp_path / "plain", "null")):
        config = tiny_config("train.epochs=2", f"train.profile={profile}")
        recorder = Recorder(folder)
        states.append(pretrain(config, tiny_batches(config), 2, recorder).state_dict())
        recorder.close()
    assert events[:6] == [1, 2, "start", 3, 4, "stop"]
    (file,) = (tmp_path / "profile").iterdir()
    assert file.name == "steps=3-4.json.gz"
    found = names(file)
    assert [name for name in found if name.startswith("step ")] == ["step 3", "step 4"]
    assert any("conv" in name for name in found)
    assert not (tmp_path / "plain" / "profile").exists()
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items() if isinstance(value, Tensor))


class Adds:
    """A stepper that only adds."""

    def take(self, batch: Any, progress: float, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.ones(3).sum(), {}

    def check(self) -> None:
        pass


@pytest.mark.parametrize(
    ("start", "steps", "expected"), [(0, 2, (7, 8)), (0, 6, (5, 10)), (0, 99, (1, 10)), (5, 2, (9, 10)), (2, 1, (9, 9))]
)
def test_the_trace_has_the_steps_asked_for(tmp_path: Path, start: int, steps: int, expected: tuple[int, int]) -> None:
    stepper: Any = Adds()
    traced = profiled(stepper, tmp_path, steps, 10, gpu=False)
    assert isinstance(traced, Profiled) and profiled(stepper, tmp_path, None, 10, gpu=False) is stepper
    nothing: Any = None
    for step in range(start + 1, 11):  # steps count from 1
        assert traced.take(nothing, 0.0, step)[0] == 3
    (file,) = (tmp_path / "profile").iterdir()
    first, last = expected
    assert file.name == f"steps={first}-{last}.json.gz"
    assert [name for name in names(file) if name.startswith("step ")] == [f"step {n}" for n in range(first, last + 1)]


def test_a_trace_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("a file where the folder would be")
    stepper: Any = Adds()
    traced, nothing = profiled(stepper, tmp_path, 1, 2, gpu=False), stepper
    assert [traced.take(nothing, 0.0, step)[0].item() for step in (1, 2)] == [3, 3]


def test_profiling_is_no_part_of_an_id() -> None:
    assert run_id(tiny_config("train.profile=3"), "x") == run_id(tiny_config(), "x")
