"""The settings of how a run goes: how long and on what, what is probed meanwhile, and where its results lie."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, field_validator, model_validator

from paramcrop.settings.fields import STRICT, option
from paramcrop.settings.workers import Workers


class Train(BaseModel):
    """How long, on what."""

    model_config = STRICT

    epochs: int = option(100, "passes over the data; the paper's ablations: 20", ge=1)
    max_steps: int | None = option(None, "end after so many steps all the same; none: no limit", ge=1)
    global_batch: int = option(1024, "videos per step over all workers, two views each", ge=2, le=2**20)
    precision: Literal["auto", "float32", "bfloat16"] = option("auto", "of the network; auto: bfloat16 on GPUs")
    workers: Workers = option(1, "training processes; a range such as 2..8: as many as there is room for", where=True)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: GPUs if the cluster has one per worker", where=True)
    cpus_per_worker: float | None = option(None, "CPUs reserved per worker; none: planned", where=True, gt=0)
    data_cpus: float | None = option(None, "CPUs to claim for decoding; none: all that are free", where=True, ge=1)
    wait_minutes: float = option(
        0.0, "minutes to wait for workers' nodes and data_cpus, on a cluster that grows when asked", where=True, ge=0
    )
    max_restarts: int = option(3, "times that workers which died are started again by themselves", where=True, ge=0)
    threads: int | None = option(None, "torch threads per CPU worker; none: its CPUs", where=True, ge=1)
    compile: bool = option(
        False,
        "compile the network with torch.compile: minutes at the start; on GPUs in place of its kernels",
        where=True,
    )
    profile: int | None = option(
        None, "steps that torch.profiler records on rank 0, into profile/ of the run; none: no steps", where=True, ge=1
    )


class Probe(BaseModel):
    """Accuracy on a small labelled set while the run trains; never part of a run's identity."""

    model_config = STRICT

    every: int | None = option(
        None, "steps between two probes, each with the next line of metrics; none: no probes", where=True, ge=1
    )
    data: str | None = option(
        None, "folder or URI of shards with classes, and splits train and test or val", where=True
    )
    videos: int = option(500, "videos of each split, at most; they are decoded once", where=True, ge=2)

    @model_validator(mode="after")
    def _check(self) -> Probe:
        if self.every is not None and self.data is None:
            raise ValueError(f"every needs data, a folder of shards with classes, but every is {self.every}")
        return self


class Run(BaseModel):
    """Where results go and what is shown; never part of a run's identity."""

    model_config = STRICT

    name: str = option("pretrain", "first part of the run's folder name", where=True, pattern=r"^[\w.-]+$")
    storage: str | None = option(
        None,
        "folder for runs that all nodes share, or its URI in a bucket; none: runs/ in $PARAMCROP_HOME or ~/paramcrop",
        where=True,
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = option(
        ("tensorboard",),
        "where metrics, settings, pictures and results go as well, as in [tensorboard,wandb]",
        where=True,
    )
    log_every: int = option(10, "steps between two lines of metrics", where=True, ge=1)
    checkpoint_epochs: int = option(10, "epochs between two checkpoints; the last is always kept", where=True, ge=1)
    ray_logs: bool = option(False, "show Ray's own log lines", where=True)

    @field_validator("trackers", mode="before")
    @classmethod
    def _split(cls, trackers: Any) -> Any:
        return tuple(filter(None, trackers.split(","))) if isinstance(trackers, str) else trackers
