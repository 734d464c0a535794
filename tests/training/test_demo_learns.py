"""The demo's network learns the classes of the made-up videos, which nobody shows it."""

from __future__ import annotations

import numpy as np

from paramcrop.data.clips import resize
from paramcrop.evaluation.weights import random_backbone
from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from tests.memory import MetricsInMemory, made_clips, memory_batches
from tests.neighbours import knn_accuracy

EPOCHS, TRAIN, TEST = 6, 160, 160  # of the demo's 30 epochs
CONFIG = load_config("demo", None, [f"train.epochs={EPOCHS}"])


def test_features_of_unseen_videos_tell_their_classes_better_than_at_the_start() -> None:
    frames, size = CONFIG.data.clip_frames, CONFIG.data.clip_size
    unseen = made_clips(TRAIN + TEST, frames, size, seed=1)[:, 4:28:3]
    unseen = np.stack([resize(clip, CONFIG.cropper.size) for clip in unseen])
    batches = memory_batches(
        made_clips(256, frames, size), build_clip_spec(CONFIG), CONFIG.seed, CONFIG.train.global_batch
    )
    model = pretrain(CONFIG, batches, 256 // CONFIG.train.global_batch, MetricsInMemory())
    start = knn_accuracy(CONFIG, random_backbone(CONFIG, CONFIG.seed), unseen, TRAIN)
    assert knn_accuracy(CONFIG, model.method.backbone, unseen, TRAIN) > start + 0.1  # 1/8 by chance
