"""Figure 5 at a small scale: how the adversary moves the crops, without Ray and on clips in memory."""

from __future__ import annotations

import pytest

from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from tests.memory import MetricsInMemory, made_clips, memory_batches

STEPS = 240  # all of the demo: at 160, early stopping has hardly begun to hold


@pytest.fixture(scope="module")
def curves() -> dict[str, list[dict[str, float]]]:
    variants = {
        "paramcrop": [],
        "no early stopping": ["cropper.early_stopping=false"],
        "no reversal": ["cropper.reversal=false"],
    }
    found = {}
    for name, overrides in variants.items():
        config = load_config("demo", None, [f"train.max_steps={STEPS}", *overrides])
        clips = made_clips(256, config.data.clip_frames, config.data.clip_size)
        batches = memory_batches(clips, build_clip_spec(config), config.seed, config.train.global_batch)
        recorder = MetricsInMemory()
        pretrain(config, batches, 256 // config.train.global_batch, recorder)
        found[name] = recorder.lines
    return found


def test_with_reversal_the_crops_move_apart(curves: dict[str, list[dict[str, float]]]) -> None:
    first, last = curves["paramcrop"][0], curves["paramcrop"][-1]
    assert last["crop_distance"] >= 3 * first["crop_distance"]
    assert last["crop_iou"] <= first["crop_iou"] / 2


def test_without_reversal_the_crops_stay(curves: dict[str, list[dict[str, float]]]) -> None:
    first, last = curves["no reversal"][0], curves["no reversal"][-1]
    assert abs(last["crop_distance"] - first["crop_distance"]) <= 0.05
    assert last["crop_iou"] >= first["crop_iou"] - 0.05  # it may rise, because these croppers lower the loss


def test_without_early_stopping_the_peak_is_higher(curves: dict[str, list[dict[str, float]]]) -> None:
    peaks = {name: max(line["crop_distance"] for line in lines) for name, lines in curves.items()}
    assert peaks["no early stopping"] > peaks["paramcrop"] + 0.02
    assert max(line["saturated"] for line in curves["paramcrop"]) > 0.2
    assert all(line["saturated"] == 0 for line in curves["no early stopping"])
