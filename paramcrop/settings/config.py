"""One pretraining: every setting. Only builders, ``pretrain`` and the drivers see a whole ``Config``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, JsonValue, ValidationInfo, field_validator, model_validator

from paramcrop.settings.custom import is_custom, source_of
from paramcrop.settings.fields import STRICT, check_kwargs, check_name, named, option
from paramcrop.settings.running import Probe, Run, Train
from paramcrop.settings.sections import (
    POLICIES,
    Augment,
    Backbone,
    Cropper,
    Data,
    MeanTeacher,
    MoCo,
    Optim,
    Policies,
    Projector,
    SimCLR,
)
from paramcrop.settings.workers import dividing

LARGEST_SEED = 2**63 - 1  # torch takes no larger ones
LARGEST = 3.4028234e38  # of float32, in which networks compute

# Numbers of a view's noise that a policy without weights turns into its crop.
LEAST_NOISE = {"random": 6, "simple": 9, "hard": 9, "manual": 9}


class Config(BaseModel):
    """One pretraining."""

    model_config = STRICT

    method: Literal["simclr", "moco", "mean_teacher"] = option(
        "simclr", "contrastive framework (Table 5), or the semi-supervised one (Table 6)"
    )
    policy: str = named(
        "paramcrop",
        "who chooses the crops (Table 1); none: R1 and R2 alone; module:Class: a class of your own",
        POLICIES,
    )
    policy_kwargs: dict[str, JsonValue] = option(
        {}, "keyword arguments of a policy of your own, as in policy_kwargs.share=0.5"
    )
    policy_source: str | None = option(
        None, "hash of the file of your own policy; filled in, part of the run's id", validate_default=True
    )
    seed: int = option(0, "of weights, order, windows and every draw", ge=0, le=LARGEST_SEED)
    data: Data = Data()
    augment: Augment = Augment()
    cropper: Cropper = Cropper()
    backbone: Backbone = Backbone()
    projector: Projector = Projector()
    simclr: SimCLR = SimCLR()
    moco: MoCo = MoCo()
    mean_teacher: MeanTeacher = MeanTeacher()
    policies: Policies = Policies()
    optim: Optim = Optim()
    train: Train = Train()
    probe: Probe = Probe()
    run: Run = Run()

    @field_validator("policy")
    @classmethod
    def _check_policy(cls, policy: str) -> str:
        return check_name(policy, POLICIES)

    @field_validator("policy_source")
    @classmethod
    def _fill_source(cls, source: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("policy", "")  # missing if it is wrong
        return (source or source_of("policy", name)) if is_custom(name) else None

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_kwargs("policy", self.policy, self.policy_kwargs, "policy_")
        if not self.worker_counts:
            which = "a number in train.workers" if self.elastic else "train.workers"
            raise ValueError(
                f"train.global_batch must be a multiple of {which}, "
                f"but {self.train.global_batch} is not one of {self.train.workers}"
            )
        if self.cropper.frames > self.data.clip_frames:
            raise ValueError(
                f"cropper.frames must be at most data.clip_frames, "
                f"but {self.cropper.frames} is more than {self.data.clip_frames}"
            )
        if self.cropper.optimizer == "lars" and self.optim.name != "lars":
            raise ValueError(f"cropper.optimizer=lars needs optim.name=lars, but that is {self.optim.name}")
        if self.method == "moco" and self.moco.queue % self.train.global_batch:
            raise ValueError(
                f"moco.queue must be a multiple of train.global_batch, "
                f"but {self.moco.queue} is not one of {self.train.global_batch}"
            )
        if self.method == "mean_teacher" and not 0 < self.labelled_rows < self.train.global_batch:
            raise ValueError(
                f"mean_teacher.labelled x train.global_batch must be at least 1 and leave 1, "
                f"but is {self.labelled_rows} of {self.train.global_batch}"
            )
        if self.cropper.noise_size < (least := LEAST_NOISE.get(self.policy, 1)):
            raise ValueError(
                f"cropper.noise_size must be at least {least} for policy={self.policy}, "
                f"but is {self.cropper.noise_size}"
            )
        if self.batch_per_worker == 1 and self.train.device != "cuda" and (which := self._norms_of_one_sample()):
            raise ValueError(
                f"train.global_batch must be at least 2 x train.workers for {which}, but is {self.train.global_batch} "
                f"for {self.train.workers} workers"
            )
        if self.cropper.axes == "temporal" and self.cropper.rotation:
            raise ValueError(f"cropper.axes=temporal needs cropper.rotation=0, but that is {self.cropper.rotation}")
        return self

    @model_validator(mode="after")
    def _check_numbers(self) -> Config:
        found = [*_numbers(self), (f"optim.lr scaled by {self.optim.lr_scale}", self.effective_lr)]
        for key, value in found:
            if abs(value) > LARGEST:
                raise ValueError(f"{key} must be at most {LARGEST:.3g}, the largest float32, but is {value:g}")
        return self

    def _norms_of_one_sample(self) -> str:
        """A batch norm that would see one sample a worker; empty: none. SimCLR's network sees both views at once."""
        if self.elastic:  # its batch norms see the samples of all workers
            return ""
        if self.policy == "paramcrop" and self.cropper.batch_norm and self.cropper.layers > 1:
            return "cropper.batch_norm=true"
        if self.method == "moco" and self._projector_norms():
            return "projector.batch_norm=true" if self.projector.batch_norm else "projector.final_batch_norm=true"
        return "backbone.norm=batch" if self.method != "simclr" and self.backbone.norm == "batch" else ""

    def on(self, device: str) -> Config:
        """The same settings with ``train.device`` "cpu" or "cuda", which ``precision`` and ``norm_workers`` need."""
        return self.model_copy(update={"train": self.train.model_copy(update={"device": device})})

    @property
    def precision(self) -> str:
        """The network's: "float32" or "bfloat16"; "auto" if it follows from a device that is not known yet."""
        t = self.train
        return t.precision if t.precision != "auto" else {"cpu": "float32", "cuda": "bfloat16"}.get(t.device, "auto")

    @property
    def norm_workers(self) -> int:
        """Workers whose batch norms see only their own samples. On GPUs, and with a range, they see all: 1."""
        local = self.train.device != "cuda" and not self.elastic and self._has_batch_norm()
        return self.worker_counts[0] if local else 1

    def _has_batch_norm(self) -> bool:
        """Whether some layer is a batch norm; a backbone or policy of the user's own may have one."""
        cropper = self.cropper
        return (
            (is_custom(self.backbone.name) or self.backbone.norm == "batch")
            or (self.method != "mean_teacher" and self._projector_norms())
            or (self.policy == "paramcrop" and cropper.batch_norm and cropper.layers > 1)
            or is_custom(self.policy)
        )

    def _projector_norms(self) -> bool:
        p = self.projector
        return p.final_batch_norm or (p.batch_norm and p.layers > 1)

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change while the run trains."""
        return isinstance(self.train.workers, str)

    @property
    def worker_counts(self) -> tuple[int, ...]:
        """The numbers of workers that the run may have, fewest first: those that divide its batch."""
        return dividing(self.train.workers, self.train.global_batch)

    @property
    def batch_per_worker(self) -> int:
        """Videos a step of each worker; of the fewest workers, if their number may change."""
        return self.train.global_batch // self.worker_counts[0]

    @property
    def labelled_rows(self) -> int:
        """Rows of a global batch that show their labels, besides the epoch's pass over all videos; 0: none does."""
        return round(self.mean_teacher.labelled * self.train.global_batch) if self.method == "mean_teacher" else 0

    @property
    def effective_lr(self) -> float:
        """The network's peak learning rate: ``optim.lr``, scaled as asked."""
        views = 2 * self.train.global_batch
        scales = {"sqrt": math.sqrt(views / 32), "views/256": views / 256, "none": 1.0}
        return self.optim.lr * scales[self.optim.lr_scale]

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        steps = self.train.epochs * steps_per_epoch
        return steps if self.train.max_steps is None else min(steps, self.train.max_steps)

    def chance_loss(self, classes: int = 0) -> float:
        """The loss of a network that says nothing: ln(2B - 1) of B videos; ln(K + 1) with a queue of K keys.

        Mean Teacher's is the share of labelled rows times ln(``classes``).
        """
        if self.method == "mean_teacher":
            return self.labelled_rows / self.train.global_batch * math.log(classes)
        return math.log(2 * self.train.global_batch - 1 if self.method == "simclr" else self.moco.queue + 1)


def _numbers(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Dotted key and value of every setting that is a float."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield f"{prefix}{name}", value
