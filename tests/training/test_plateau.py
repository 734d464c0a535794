from __future__ import annotations

import pytest

from paramcrop.settings.presets import load_config
from paramcrop.training import plateau
from paramcrop.training.build import build_clip_spec, build_plateau
from paramcrop.training.plateau import Plateau
from paramcrop.training.pretrain import pretrain
from tests.memory import MetricsInMemory, made_clips, memory_batches, tiny_config

ON, OFF = {"loss": 4.8, "similarity_gap": 0.003}, {"loss": 4.0, "similarity_gap": 0.4}


def warnings(judge: Plateau, lines: list[dict[str, float]], every: int = 10) -> list[int]:
    return [i * every for i, line in enumerate(lines) if judge.look(i * every, line)]


def test_it_warns_once_after_ten_lines_in_a_row() -> None:
    assert warnings(Plateau(4.84), [ON] * 30) == [90]
    assert warnings(Plateau(4.84), [*[ON] * 9, OFF, *[ON] * 12]) == [190]
    assert warnings(Plateau(4.84), [ON] * 60, every=1) == [50]


NORMS = ("projector.batch_norm=true", "projector.final_batch_norm=true")


@pytest.mark.parametrize("line", [OFF, {"loss": 4.8, "similarity_gap": 0.1}, {"loss": 4.5, "similarity_gap": 0.0}, {}])
def test_it_needs_both_the_loss_and_the_cosines(line: dict[str, float]) -> None:
    assert warnings(Plateau(4.84), [line] * 30) == []


def test_moco_is_judged_by_its_batch_once_the_queue_is_full() -> None:
    config = load_config("k400_moco_s3dg", None, ["train.global_batch=64", "moco.queue=1024"])
    judge = build_plateau(config, 0)
    assert judge.first == 16 and warnings(judge, [{"loss": 0.4, "similarity_gap": 0.0}] * 30, every=8) == [88]


def test_the_advice_names_only_what_has_not_been_done() -> None:
    config = load_config("demo", None, [*NORMS, "optim.lr=0.1", "augment.jitter=0.8"])
    assert build_plateau(config, 0).advice == "optim.lr=0.4, augment.jitter=0.4"
    assert (
        "projector.batch_norm=true"
        in build_plateau(load_config("demo", None, ["projector.batch_norm=false"]), 0).advice
    )


def run(*overrides: str) -> list[str]:
    """The warnings of twelve steps, a line for each."""
    config = tiny_config("run.log_every=1", "train.epochs=3", *overrides)
    clips = made_clips(32, config.data.clip_frames, config.data.clip_size)
    recorder = MetricsInMemory()
    pretrain(config, memory_batches(clips, build_clip_spec(config), config.seed, 8), 4, recorder)
    return recorder.warnings


def test_a_run_that_sits_on_the_plateau_is_told_from_one_that_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plateau, "LINES", 6)
    monkeypatch.setattr(plateau, "STEPS", 5)
    sits = (
        *("backbone.name=s3dg", "optim.name=lars", "optim.lr=0.3"),
        *("projector.batch_norm=false", "projector.final_batch_norm=false"),
        *("augment.brightness=0.8", "augment.contrast=0.8", "augment.saturation=0.8", "augment.hue=0.2"),
    )
    (text,) = run(*sits)
    assert (
        "has not learned for 5 steps" in text
        and "try projector.batch_norm=true, projector.final_batch_norm=true, optim.lr=1.2" in text
    )
    assert run() == []
