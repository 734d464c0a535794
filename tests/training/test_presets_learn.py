"""The paper's presets learn within 400 steps at a reduced size (docs/numbers/learning.md has real video)."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from paramcrop.evaluation.weights import random_backbone
from paramcrop.settings.config import Config
from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from tests.memory import MetricsInMemory, made_clips, memory_batches
from tests.neighbours import features, knn_accuracy

VIDEOS, FRAMES, SIZE, BATCH = 256, 8, 32, 32
SMALL = (
    *(f"data.clip_frames={FRAMES}", f"data.clip_size={SIZE}", f"cropper.frames={FRAMES}", f"cropper.size={SIZE}"),
    *(f"train.global_batch={BATCH}", "train.device=cpu", "optim.warmup_epochs=3", "run.log_every=10"),
    *("cropper.lr=0.002", "moco.queue=128", "moco.momentum=0.9"),  # for runs of some hundred steps
)
PRESETS = {  # epochs of eight steps; S3D-G needs more of them, and more width
    "k400_simclr_s3dg": ("backbone.width=32", "train.epochs=50"),
    "k400_moco_s3dg": ("backbone.width=32", "train.epochs=50"),
    "k400_simclr_r2d3d18": ("backbone.width=16", "train.epochs=20"),
    "k400_moco_r2d3d18": ("backbone.width=16", "train.epochs=20"),
}


def untrained(config: Config, clips: np.ndarray) -> nn.Module:
    """Untrained weights whose batch norms have seen the clips: without that, S3D-G is at chance."""
    backbone = random_backbone(config, config.seed).train()
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the mean over all batches
    features(config, backbone, clips)
    return backbone


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_the_loss_falls_the_gap_grows_and_features_tell_unseen_classes(preset: str) -> None:
    config = load_config(preset, None, (*SMALL, *PRESETS[preset]))
    clips, recorder = made_clips(VIDEOS, FRAMES, SIZE), MetricsInMemory()
    batches = memory_batches(clips, build_clip_spec(config), config.seed, BATCH)
    model = pretrain(config, batches, VIDEOS // BATCH, recorder)
    later = [line["loss"] for line in recorder.lines if line["step"] >= 10]  # MoCo's queue has no random keys any more
    assert min(later) < 0.85 * config.chance_loss()
    assert recorder.lines[-1]["similarity_gap"] > 0.2
    unseen = made_clips(320, FRAMES, SIZE, seed=1)
    start = knn_accuracy(config, untrained(config, clips), unseen, 160)
    assert knn_accuracy(config, model.method.backbone, unseen, 160) > start + 0.1, start
