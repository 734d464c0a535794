"""The demo's network learns the classes of the made-up videos, which nobody shows it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from paramcrop.crops.resample import to_float
from paramcrop.data.clips import resize
from paramcrop.data.synthetic import CLASSES
from paramcrop.evaluation.features import Forward, Normalise
from paramcrop.evaluation.metrics import cosine, knn_votes
from paramcrop.evaluation.weights import random_backbone
from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from tests.memory import MetricsInMemory, made_clips, memory_batches

EPOCHS, TRAIN, TEST = 6, 160, 160  # of the demo's 30 epochs
CONFIG = load_config("demo", None, [f"train.epochs={EPOCHS}"])
FORWARD = Forward(Normalise(CONFIG.augment.mean, CONFIG.augment.std), torch.device("cpu"), torch.float32)


def knn_accuracy(backbone: nn.Module, clips: np.ndarray) -> float:
    """Of 20-NN among the first clips, on the others, which have all classes in turn."""
    with torch.no_grad():
        parts = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).split(40)
        features = torch.cat([FORWARD(backbone.eval(), to_float(part)) for part in parts])
    labels: Tensor = torch.arange(len(clips)) % len(CLASSES)
    votes = knn_votes(cosine(features[TRAIN:], features[:TRAIN]), labels[:TRAIN], len(CLASSES), 20, 0.07)
    return float((votes.argmax(1) == labels[TRAIN:]).float().mean())


def test_features_of_unseen_videos_tell_their_classes_better_than_at_the_start() -> None:
    frames, size = CONFIG.data.clip_frames, CONFIG.data.clip_size
    unseen = made_clips(TRAIN + TEST, frames, size, seed=1)[:, 4:28:3]
    unseen = np.stack([resize(clip, CONFIG.cropper.size) for clip in unseen])
    batches = memory_batches(
        made_clips(256, frames, size), build_clip_spec(CONFIG), CONFIG.seed, CONFIG.train.global_batch
    )
    model = pretrain(CONFIG, batches, 256 // CONFIG.train.global_batch, MetricsInMemory())
    start = knn_accuracy(random_backbone(CONFIG, CONFIG.seed), unseen)
    assert knn_accuracy(model.method.backbone, unseen) > start + 0.1  # 1/8 by chance
