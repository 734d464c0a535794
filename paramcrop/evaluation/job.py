"""One evaluation: what is evaluated, on what, how; and the id that follows from it."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from paramcrop.data.uniform import UniformSpec
from paramcrop.errors import CheckpointError
from paramcrop.evaluation.protocols import Protocol
from paramcrop.evaluation.weights import Pixels, foreign_state, load_backbone, load_strictly, random_backbone
from paramcrop.settings.config import Config
from paramcrop.settings.digest import short_hash
from paramcrop.settings.identity import run_id
from paramcrop.settings.sections import Backbone
from paramcrop.storage.files import digest
from paramcrop.training.build import build_backbone

SUBJECTS = ("run", "random-init", "pixels", "weights")


@dataclass(frozen=True)
class Job:
    """One evaluation of one subject; every field is plain, so that it can travel.

    Attributes:
        run: the run's folder, which keeps the result. subject: one of ``SUBJECTS``; the two in the middle are
            baselines, and weights are a foreign checkpoint's, in the run's architecture.
        run_data: content id of what the run was pretrained on.
        checkpoint, epoch: the run's, that is evaluated.
        dataset: its name. folder: of its shards. content_id: of what is in it. train, test: the splits.
        protocol: its fields. seed: of the head, the order, the part of the labels, and of random-init's weights.
        uri: of what ``run`` is a copy, if of anything.
        weights, prefixes: the foreign checkpoint's file, and beginnings of its names as (old, new).
    """

    run: str
    subject: str
    config: dict[str, Any]
    run_data: str
    checkpoint: str
    epoch: int
    dataset: str
    folder: str
    content_id: str
    train: str
    test: str
    protocol: dict[str, Any]
    seed: int
    weights: str = ""
    prefixes: tuple[tuple[str, str], ...] = ()
    uri: str = ""

    @property
    def settings(self) -> Config:
        return Config.model_validate(self.config)

    @property
    def how(self) -> Protocol:
        return Protocol.model_validate(self.protocol)

    @property
    def subject_id(self) -> dict[str, Any]:
        """What the features depend on besides the videos."""
        config = self.settings
        pixels = {"mean": config.augment.mean, "std": config.augment.std}
        if self.subject == "run":
            return {"run": run_id(config, self.run_data), "epoch": self.epoch}
        if self.subject == "random-init":
            return {"random-init": _described(config.backbone), "seed": self.seed} | pixels
        if self.subject == "weights":
            return {"weights": sha256_of(self.weights), "prefixes": self.prefixes} | pixels
        return {"pixels": Pixels().grid} | pixels

    @property
    def eval_id(self) -> str:
        """12 hex digits; equal for equal evaluations, wherever they are made."""
        how, what = self.how.digest, [self.content_id, self.train, self.test]
        return short_hash([self.subject_id, how, what, self.seed])

    @property
    def input(self) -> UniformSpec:
        how = self.how
        return UniformSpec(how.test_clips, how.frames, how.stride, how.size, how.box)

    @property
    def features(self) -> Path:
        """Folder of the features of each shard: every split and protocol with the same input shares them."""
        return Path(self.run) / "features" / short_hash([self.subject_id, self.content_id, asdict(self.input)])

    @property
    def work(self) -> Path:
        """Folder of what an unfinished evaluation has so far."""
        return Path(self.run) / "evaluations" / self.eval_id

    @property
    def result_file(self) -> Path:
        return Path(self.run) / "evaluations" / f"{self.eval_id}.json"

    def forget(self) -> None:
        """Remove the result and what led to it, so that it is computed anew; its old rows stay in results.jsonl."""
        self.result_file.unlink(missing_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.rmtree(self.features, ignore_errors=True)

    def network(self) -> torch.nn.Module:
        """The subject, with ``features``.

        Raises:
            CheckpointError: the checkpoint does not fit.
        """
        config = self.settings
        if self.subject == "run":
            return load_backbone(config, Path(self.checkpoint))
        if self.subject == "weights":
            backbone = build_backbone(config)
            load_strictly(backbone, foreign_state(Path(self.weights), dict(self.prefixes)), self.weights)
            return backbone
        return random_backbone(config, self.seed) if self.subject == "random-init" else Pixels()


def _described(backbone: Backbone) -> dict[str, Any]:
    """A backbone's settings; those of the user's own classes only where there are any, so that older ids stay."""
    empty = {name for name in ("kwargs", "source") if not getattr(backbone, name)}
    return backbone.model_dump(mode="json", exclude=empty)


@cache
def sha256_of(file: str) -> str:
    """Raises:
    CheckpointError: it cannot be read.
    """
    try:
        with open(file, "rb") as source:
            return digest(source)[1]
    except OSError as error:
        raise CheckpointError(f"weights must be a file that can be read, but {file}: {error.strerror}") from None
