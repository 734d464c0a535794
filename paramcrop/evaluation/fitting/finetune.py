"""Fine-tune a classifier on a backbone, fully or only its head, in one loop that resumes from its last epoch."""

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
from paramcrop.evaluation.features import Forward
from paramcrop.storage.checkpoint import NAME, load_checkpoint, newest_checkpoint, save_checkpoint
from paramcrop.training.optim import cosine_decay


class Training(NamedTuple):
    """How a classifier is trained; ``Protocol`` gives the sources of the values.

    Attributes:
        epochs: passes over the training videos. lr, weight_decay: those of Adam.
        warmup: epochs of linear warm-up, followed by a cosine to 0, per step.
        seed: seed of dropout and of the head's initial weights.
    """

    epochs: int
    lr: float
    weight_decay: float
    warmup: float
    seed: int


class Classifier(nn.Module):
    """Backbone, dropout, linear head: (B, 3, T, H, W) -> logits (B, C).

    Args:
        backbone: a network with an attribute ``features``. classes: C names.
        train_backbone: if False, the backbone gets no gradient and none of its parameters changes.
        frozen_bn: keep the backbone in evaluation mode while training: batch norm uses its running statistics and
            does not update them.
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
    forward: Forward,
    folder: Path,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train ``classifier`` in place to the last epoch, starting from the newest intact checkpoint in ``folder``.

    Args:
        batches: epoch -> its ``steps_per_epoch`` batches; only the first view's clip, flip and jitter are used.
        folder: holds one checkpoint, that of the last finished epoch.
        report: called after each epoch with its number, from 1, and its mean loss.

    Raises:
        NonFiniteLossError: the loss is not finite; the message names the epoch.
    """
    classifier.to(forward.device)
    learned = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = Adam(learned, lr=training.lr, weight_decay=training.weight_decay)
    first = _resume(classifier, optimizer, folder)
    for epoch in range(first, training.epochs):
        classifier.train()
        torch.manual_seed(_epoch_seed(training.seed, epoch))  # so that dropout is the same after a resume
        total = torch.zeros((), device=forward.device)
        for i, batch in enumerate(batches(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, epoch + i / steps_per_epoch)
            moved = batch.to(forward.device)._replace(order=batch.order, factors=batch.factors)  # see color_jitter
            total += train_step(classifier, moved, optimizer, forward)
        loss = total.item() / steps_per_epoch
        if not math.isfinite(loss):
            raise NonFiniteLossError(f"the loss must be finite, but is {loss} in epoch {epoch + 1} of {folder}")
        _save(classifier, optimizer, folder, epoch + 1, steps_per_epoch)
        report(epoch + 1, loss)


def train_step(classifier: Classifier, batch: Batch, optimizer: Adam, forward: Forward) -> Tensor:
    """One update on the cross-entropy -> the loss, as a tensor: reading its value here would stall a GPU."""
    frames = augment(batch.clip(0), batch.augmentation(0))
    labels = batch.label.to(frames.device)
    logits = forward(classifier, frames)
    # A label of -1 belongs to a black clip, the substitute when no video of a decode task is readable.
    loss = F.cross_entropy(logits, labels, ignore_index=-1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def learning_rate(training: Training, epoch: float) -> float:
    """Linear from 0 over ``warmup`` epochs, then a cosine to 0; ``epoch`` may be fractional."""
    warmup = min(training.warmup, training.epochs / 2)  # a short training warms up for at most half of its epochs
    if epoch < warmup:
        return training.lr * epoch / warmup
    return training.lr * cosine_decay(epoch - warmup, training.epochs - warmup)


def load_classifier(classifier: Classifier, checkpoint: Path) -> int:
    """Load a checkpoint, with the head's rows in this classifier's order of classes, and return its epoch.

    Raises:
        CheckpointError: the checkpoint has other class names.
    """
    state, meta = load_checkpoint(checkpoint)
    classifier.load_state_dict(state["classifier"] | remapped_head(state, classifier.classes))
    return int(meta["epoch"])


def remapped_head(state: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Tensor]:
    """The head's tensors of a checkpoint, with rows in the order of ``classes``."""
    own = state["classes"]
    if sorted(own) != sorted(classes):
        missing, other = sorted(set(classes) - set(own))[:3], sorted(set(own) - set(classes))[:3]
        raise CheckpointError(
            f"the classifier must have the classes of the videos, but it lacks {missing} and has {other}"
        )
    rows = [own.index(name) for name in classes]
    return {name: value[rows] for name, value in state["classifier"].items() if name.startswith("head.")}


def _resume(classifier: Classifier, optimizer: Adam, folder: Path) -> int:
    newest, _ = newest_checkpoint(folder)
    if newest is None:
        return 0
    state, _ = load_checkpoint(newest)
    assert state["classes"] == list(classifier.classes), "a folder belongs to one training on one dataset"
    optimizer.load_state_dict(state["optimizer"])
    return load_classifier(classifier, newest)


def _save(classifier: Classifier, optimizer: Adam, folder: Path, epoch: int, steps_per_epoch: int) -> None:
    """Write this epoch's checkpoint, then remove the previous one."""
    state: dict[str, Any] = {"classifier": classifier.state_dict(), "optimizer": optimizer.state_dict()}
    state["classes"] = list(classifier.classes)
    newest = folder / "checkpoints" / NAME.format(epoch)
    save_checkpoint(newest, state, {"epoch": epoch, "step": epoch * steps_per_epoch})
    for checkpoint in newest.parent.glob("epoch=*"):
        if checkpoint != newest:
            shutil.rmtree(checkpoint)


def _epoch_seed(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"finetune/{seed}/{epoch}".encode()).digest()[:7], "little")
