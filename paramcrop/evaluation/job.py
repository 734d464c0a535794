"""One evaluation: its subject, dataset and protocol, and the id that follows from them."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from paramcrop.data.uniform import UniformSpec
from paramcrop.errors import CheckpointError
from paramcrop.evaluation.protocols import Protocol
from paramcrop.evaluation.weights import Pixels, baseline_backbone, foreign_backbone, load_backbone, random_backbone
from paramcrop.models.foreign import ORIGINS
from paramcrop.settings.config import Config
from paramcrop.settings.digest import short_hash
from paramcrop.settings.unread import is_read
from paramcrop.storage.files import digest
from paramcrop.storage.results import read_result

SUBJECTS = ("run", "random-init", "pixels", "weights", *ORIGINS)


@dataclass(frozen=True)
class Job:
    """One evaluation of one subject, with plain fields only, so that it can be sent to another process.

    Attributes:
        run: the run's folder, where the result is stored.
        subject: one of ``SUBJECTS``. "random-init", "pixels" and those of ``ORIGINS`` are baselines; "weights" is a
            foreign checkpoint in the run's architecture.
        config: the run's settings. run_id: its id. run_data: content id of the videos that it was pretrained on.
        checkpoint, epoch: the checkpoint to evaluate, and its epoch.
        dataset: name. folder: path or URI of its shards. content_id: its content id. data_id: that and the order of its
            videos. train, test: names of the splits.
        protocol: the fields of the ``Protocol``.
        seed: seed of the head, the order of the videos, the labelled share, and random-init's weights.
        fresh: the command that computes this afresh: results and features of others do not count. Empty: any do.
        uri: the URI that ``run`` is a copy of, if it is one.
        weights, prefixes: the file of the foreign checkpoint or baseline, and prefixes of its names as (old, new).
    """

    run: str
    subject: str
    config: dict[str, Any]
    run_id: str
    run_data: str
    checkpoint: str
    epoch: int
    dataset: str
    folder: str
    content_id: str
    data_id: str
    train: str
    test: str
    protocol: dict[str, Any]
    seed: int
    weights: str = ""
    prefixes: tuple[tuple[str, str], ...] = ()
    uri: str = ""
    fresh: str = ""

    @property
    def settings(self) -> Config:
        return Config.model_validate(self.config)

    @property
    def how(self) -> Protocol:
        return Protocol.model_validate(self.protocol)

    @property
    def subject_id(self) -> dict[str, Any]:
        """Everything besides the videos that the features depend on."""
        config = self.settings
        decoder = {} if config.data.decoder == "planes" else {"decoder": config.data.decoder}
        pixels = {"mean": config.augment.mean, "std": config.augment.std, "precision": config.precision} | decoder
        if self.subject == "run":
            return {"run": self.run_id, "epoch": self.epoch, "precision": config.precision}
        if self.subject == "random-init":
            return {"random-init": described(config), "seed": self.seed} | pixels
        if self.subject == "weights":
            return {"weights": sha256_of(self.weights), "prefixes": self.prefixes} | pixels
        if self.subject in ORIGINS:  # it has pixels of its own
            return {self.subject: sha256_of(self.weights), "precision": config.precision} | decoder
        return {"pixels": Pixels().grid} | pixels

    @property
    def eval_id(self) -> str:
        """12 hex digits; equal for equal evaluations, on any machine."""
        how, what = self.how.digest, [self.data_id, self.train, self.test]
        return short_hash([self.subject_id, how, what, self.seed])

    @property
    def input(self) -> UniformSpec:
        how = self.how
        return UniformSpec(how.test_clips, how.frames, how.stride, how.size, how.box, self.settings.data.decoder)

    @property
    def features(self) -> Path:
        """The folder of each shard's features, shared by all splits and protocols with the same input."""
        return Path(self.run) / "features" / short_hash([self.subject_id, self.data_id, asdict(self.input)])

    @property
    def work(self) -> Path:
        """The folder of an unfinished evaluation's checkpoint."""
        return Path(self.run) / "evaluations" / self.eval_id

    @property
    def result_file(self) -> Path:
        return Path(self.run) / "evaluations" / f"{self.eval_id}.json"

    @property
    def settled(self) -> bool:
        """Whether there is a result that need not be computed again.

        It must be of this ``fresh``, and none of its videos may have failed by time, memory or storage.
        """
        result = read_result(self.result_file)
        return result is not None and self.fresh in ("", result.get("fresh")) and not result.get("again")

    def afresh(self, name: str) -> Job:
        """The same job with this ``fresh``, without the intermediate files of earlier attempts.

        The old result and the old features stay until the new ones replace them.
        """
        shutil.rmtree(self.work, ignore_errors=True)
        return replace(self, fresh=name)

    def network(self) -> torch.nn.Module:
        """The subject as a network with an attribute ``features``.

        Raises:
            CheckpointError: the checkpoint does not fit.
        """
        config = self.settings
        if self.subject == "run":
            return load_backbone(config, Path(self.checkpoint))
        if self.subject == "weights":
            return foreign_backbone(config, Path(self.weights), dict(self.prefixes))
        if self.subject in ORIGINS:
            return baseline_backbone(self.subject, config, Path(self.weights))
        return random_backbone(config, self.seed) if self.subject == "random-init" else Pixels()


def described(config: Config) -> dict[str, Any]:
    """The settings of the backbone that it reads."""
    settings = config.backbone.model_dump(mode="json")
    return {name: value for name, value in settings.items() if is_read(config, f"backbone.{name}")}


@cache
def sha256_of(file: str) -> str:
    """The SHA-256 of a file of weights.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with open(file, "rb") as source:
            return digest(source)[1]
    except OSError as error:
        raise CheckpointError(f"weights must be a readable file: {file}: {error.strerror}") from None
