from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from paramcrop.data.batch import Batch
from paramcrop.data.clips import ClipSpec
from paramcrop.errors import CheckpointError
from paramcrop.evaluation.features import Forward, Normalise
from paramcrop.evaluation.fitting.finetune import Classifier, Training, finetune, learning_rate, load_classifier
from paramcrop.evaluation.videos import open_split, training_batches
from paramcrop.storage.checkpoint import newest_checkpoint
from paramcrop.training.build import build_backbone
from tests.memory import tiny_config

FORWARD = Forward(Normalise(0.45, 0.225), torch.device("cpu"), torch.float32)
TRAINING = Training(epochs=4, lr=1e-2, weight_decay=1e-3, warmup=1, seed=3)


class Killed(Exception):
    pass


def classifier(classes: tuple[str, ...], train_backbone: bool, frozen_bn: bool) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_backbone(tiny_config()), classes, 0.5, train_backbone, frozen_bn, seed=1)


def train(model: Classifier, folder: Path, labelled: str, killed_in: int = -1) -> None:
    videos = open_split(labelled, "train")
    spec = ClipSpec(frames=4, stride=3, size=24, views=1)

    def batches(epoch: int) -> Iterator[Batch]:
        for i, batch in enumerate(training_batches(videos, set(videos.labels), spec, 16, 0, map, epoch)):
            if epoch == killed_in and i == 1:
                raise Killed
            yield batch

    try:
        finetune(model, batches, 2, TRAINING, FORWARD, folder)
    except Killed:
        return


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("train_backbone", "frozen_bn"), [(True, False), (False, True), (False, False)])
def test_frozen_tensors_do_not_change(train_backbone: bool, frozen_bn: bool, labelled: str, tmp_path: Path) -> None:
    classes = open_split(labelled, "train").classes
    model = classifier(classes, train_backbone, frozen_bn)
    before = state(model)
    train(model, tmp_path, labelled)
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    weights = {name for name in before if name.startswith("backbone.")} - statistics
    head = {"head.1.weight", "head.1.bias"}
    assert changed == head | (weights if train_backbone else set()) | (set() if frozen_bn else statistics)


@pytest.mark.parametrize("killed_in", [0, 2, 3])
def test_a_killed_training_resumes_to_the_same_weights(killed_in: int, labelled: str, tmp_path: Path) -> None:
    classes = open_split(labelled, "train").classes
    model = classifier(classes, True, False)
    train(model, tmp_path / "undisturbed", labelled)
    train(classifier(classes, True, False), tmp_path / "cut", labelled, killed_in)
    again = classifier(classes, True, False)
    train(again, tmp_path / "cut", labelled)
    expected, found = state(model), state(again)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert len(list((tmp_path / "cut" / "checkpoints").iterdir())) == 1  # only the last one is kept


def test_the_heads_rows_follow_the_class_names(labelled: str, tmp_path: Path) -> None:
    classes = open_split(labelled, "train").classes
    model = classifier(classes, False, True)
    train(model, tmp_path, labelled)
    checkpoint, _ = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    other = classifier(tuple(reversed(classes)), False, True)
    assert load_classifier(other, checkpoint) == 4
    x = torch.rand(2, 3, 4, 24, 24)
    torch.testing.assert_close(other.eval()(x), model.eval()(x).flip(1))
    with pytest.raises(CheckpointError, match=r"must have the classes of the videos, but it lacks .'sideways2'."):
        load_classifier(classifier((*classes[:2], "sideways2", *classes[3:]), False, True), checkpoint)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [learning_rate(TRAINING, epoch) for epoch in (0, 0.5, 1, 2.5, 4)]
    assert rates == pytest.approx([0, 0.005, 0.01, 0.005, 0])
    assert learning_rate(TRAINING._replace(warmup=100), 2) == pytest.approx(0.01)  # warm-up takes at most half


def test_training_batches_hold_every_chosen_video_once(labelled: str) -> None:
    videos = open_split(labelled, "train")
    spec = ClipSpec(frames=4, stride=3, size=24, views=1)
    chosen = set(list(videos.labels)[::2])
    epochs = [list(training_batches(videos, chosen, spec, 10, 0, map, epoch)) for epoch in (0, 0, 1)]
    ids = [[video for batch in epoch for video in batch.id] for epoch in epochs]
    assert len(ids[0]) == 20 and set(ids[0]) == chosen
    assert ids[0] == ids[1] != ids[2]
    assert all(batch.label.tolist() == [videos.labels[video] for video in batch.id] for batch in epochs[0])
    assert epochs[0][0].video.shape == (10, 1, 4, 24, 24, 3)
    assert torch.equal(epochs[0][0].video, epochs[1][0].video)
