"""The presets do not begin on the plateau where all embeddings are alike (docs/numbers/learning.md)."""

from __future__ import annotations

import pytest

from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from tests.memory import MetricsInMemory, made_clips, memory_batches

SMALL = (
    *("data.clip_frames=8", "data.clip_size=32", "cropper.frames=8", "cropper.size=32", "backbone.width=16"),
    *("train.global_batch=16", "train.max_steps=12", "run.log_every=12", "moco.queue=64", "train.device=cpu"),
)
BEFORE = ("projector.batch_norm=false", "projector.final_batch_norm=false", "cropper.clip_norm=null")


def last_metrics(preset: str, *overrides: str) -> dict[str, float]:
    config, recorder = load_config(preset, None, (*SMALL, *overrides)), MetricsInMemory()
    pretrain(config, memory_batches(made_clips(64, 8, 32), build_clip_spec(config), 0, 16), 4, recorder)
    return recorder.lines[-1]


SLOW = [pytest.param(f"k400_{method}_r2d3d18", marks=pytest.mark.slow) for method in ("simclr", "moco")]


@pytest.mark.parametrize("preset", ["k400_simclr_s3dg", "k400_moco_s3dg", *SLOW])
def test_a_presets_embeddings_stay_apart_and_its_croppers_wait(preset: str) -> None:
    end = last_metrics(preset)
    assert end["similarity_negative"] < 0.3 and end["crop_distance"] < 0.1


def test_without_batch_norm_after_the_projector_they_do_not() -> None:
    """As it was: cosines of .99 after 12 steps, a loss of chance, and croppers on their way."""
    end = last_metrics("k400_simclr_s3dg", *BEFORE)
    assert end["similarity_negative"] > 0.9 and end["crop_distance"] > 0.1
