"""A classifier on a backbone, trained whole or its head alone: one loop, which goes on from its last epoch."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from paramcrop.crops.augment import augment
from paramcrop.data.batch import Batch
from paramcrop.errors import CheckpointError, NonFiniteLossError
from paramcrop.evaluation.features import Normalise
from paramcrop.storage.checkpoint import NAME, load_checkpoint, newest_checkpoint, save_checkpoint


class Training(NamedTuple):
    """How a classifier is trained; see ``Protocol`` for the numbers' sources.

    Attributes:
        epochs, lr, weight_decay: of Adam. warmup: epochs of linear warm-up; then cosine to 0 by step.
        seed: of dropout and of the head's first weights.
    """

    epochs: int
    lr: float
    weight_decay: float
    warmup: float
    seed: int


class Classifier(nn.Module):
    """Backbone, dropout, linear head: (B, 3, T, H, W) -> logits (B, C).

    Args:
        backbone: with ``features``. classes: C names.
        train_backbone: off, no gradient reaches it and none of its parameters changes.
        frozen_bn: the backbone stays in evaluation mode in training too: running statistics are used and kept.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: tuple[str, ...],
        dropout: float,
        train_backbone: bool,
        frozen_bn: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.backbone, self.classes = backbone, classes
        self.train_backbone, self.frozen_bn = train_backbone, frozen_bn
        features: Any = backbone.features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, len(classes)))
        if not train_backbone:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.frozen_bn:
            self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_backbone):
            features = self.backbone(x)
        logits: Tensor = self.head(features)
        return logits


def finetune(
    classifier: Classifier,
    batches: Callable[[int], Iterable[Batch]],
    steps_per_epoch: int,
    training: Training,
    normalise: Normalise,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path,
    tell: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train ``classifier`` in place to the last epoch, from the newest intact checkpoint in ``folder`` if there is one.

    Args:
        batches: epoch -> its ``steps_per_epoch`` batches, of which the first view's clip, flip and jitter are used.
        folder: keeps one checkpoint, that of the last finished epoch.
        tell: called after each epoch with its number, from 1, and its mean loss.

    Raises:
        NonFiniteLossError: names the epoch.
    """
    classifier.to(device)
    learned = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = Adam(learned, lr=training.lr, weight_decay=training.weight_decay)
    first = _resume(classifier, optimizer, folder)
    for epoch in range(first, training.epochs):
        classifier.train()
        torch.manual_seed(_epoch_seed(training.seed, epoch))  # of dropout: the same after a resume
        total = torch.zeros((), device=device)
        for i, batch in enumerate(batches(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, epoch + i / steps_per_epoch)
            total += train_step(classifier, batch.to(device), optimizer, normalise, dtype)
        loss = total.item() / steps_per_epoch
        if not math.isfinite(loss):
            raise NonFiniteLossError(f"the loss must be finite, but is {loss} in epoch {epoch + 1} of {folder}")
        _keep(classifier, optimizer, folder, epoch + 1, steps_per_epoch)
        tell(epoch + 1, loss)


def train_step(
    classifier: Classifier, batch: Batch, optimizer: Adam, normalise: Normalise, dtype: torch.dtype
) -> Tensor:
    """One update on the cross-entropy -> the loss, not waited for."""
    frames = normalise(augment(batch.clip(0), batch.augmentation(0)))
    labels = batch.label.to(frames.device)
    with torch.autocast(frames.device.type, dtype, enabled=dtype != torch.float32):
        logits = classifier(frames)
    loss = F.cross_entropy(logits.float(), labels, ignore_index=-1)  # a black clip, in place of a task of bad videos
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def learning_rate(training: Training, epoch: float) -> float:
    """Linear from 0 over ``warmup`` epochs, then cosine to 0; ``epoch`` may be a fraction."""
    warmup = min(training.warmup, training.epochs / 2)  # a short training does not warm up all the time
    if epoch < warmup:
        return training.lr * epoch / warmup
    return training.lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (training.epochs - warmup)))


def load_classifier(classifier: Classifier, checkpoint: Path) -> int:
    """Put a checkpoint's weights in place, its head's rows in this classifier's order of classes -> its epoch.

    Raises:
        CheckpointError: the classes have other names.
    """
    state, meta = load_checkpoint(checkpoint)
    classifier.load_state_dict(state["classifier"] | remapped_head(state, classifier.classes))
    return int(meta["epoch"])


def remapped_head(state: dict[str, Any], wanted: tuple[str, ...]) -> dict[str, Tensor]:
    """The head's tensors of a checkpoint, rows in the order ``wanted`` of class names."""
    mine = state["classes"]
    if sorted(mine) != sorted(wanted):
        missing, other = sorted(set(wanted) - set(mine))[:3], sorted(set(mine) - set(wanted))[:3]
        raise CheckpointError(f"a classifier must have the classes of the videos, but it lacks {missing}, has {other}")
    place = [mine.index(name) for name in wanted]
    return {name: value[place] for name, value in state["classifier"].items() if name.startswith("head.")}


def _resume(classifier: Classifier, optimizer: Adam, folder: Path) -> int:
    newest, _ = newest_checkpoint(folder)
    if newest is None:
        return 0
    state, _ = load_checkpoint(newest)
    assert state["classes"] == list(classifier.classes), "the folder is that of one training on one set"
    optimizer.load_state_dict(state["optimizer"])
    return load_classifier(classifier, newest)


def _keep(classifier: Classifier, optimizer: Adam, folder: Path, epoch: int, steps_per_epoch: int) -> None:
    """This epoch's checkpoint; then the one before is removed."""
    state: dict[str, Any] = {"classifier": classifier.state_dict(), "optimizer": optimizer.state_dict()}
    state["classes"] = list(classifier.classes)
    place = folder / "checkpoints" / NAME.format(epoch)
    save_checkpoint(place, state, {"epoch": epoch, "step": epoch * steps_per_epoch})
    for older in place.parent.glob("epoch=*"):
        if older != place:
            shutil.rmtree(older)


def _epoch_seed(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"finetune/{seed}/{epoch}".encode()).digest()[:7], "little")
