"""Trackers of other projects, each by its own package, which only the tracker's process imports. All work offline."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from paramcrop.training.tracking.tracker import Facts, Tracker

PROJECT = "paramcrop"  # unless the tracker's own environment variable names another
TAG = "paramcrop.run"  # of MLflow: the run's name
NOT_MLFLOW = re.compile(r"[^\w./ -]")  # characters that MLflow has no names with
PARAMETERS = 100  # of one request of MLflow


class Wandb:
    """Weights & Biases. Without WANDB_API_KEY or WANDB_MODE it writes RUN/wandb, which `wandb sync` uploads."""

    def __init__(self, facts: Facts) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=facts.name,
            name=facts.name,
            resume="allow",
            dir=facts.folder,
            config=dict(facts.config),
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, file: str) -> None:
        self._run.log({name: self._wandb.Image(file)}, step=step)

    def results(self, step: int, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow. Without MLFLOW_TRACKING_URI it writes RUN/mlruns."""

    def __init__(self, facts: Facts) -> None:
        # Files in a folder, as every version of MLflow and its small package can write them.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric: Any = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (Path(facts.folder) / "mlruns").absolute().as_uri()
        self._client: Any = MlflowClient(uri)
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else self._client.create_experiment(project)
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{facts.name}'")
        run = found[0] if found else self._client.create_run(experiment, tags={TAG: facts.name}, run_name=facts.name)
        self._id = run.info.run_id
        self._client.update_run(self._id, status="RUNNING")
        settings = [Param(name, str(value)[:500]) for name, value in facts.config.items()]
        new = [each for each in settings if each.key not in run.data.params]  # a parameter cannot change
        for first in range(0, len(new), PARAMETERS):
            self._client.log_batch(self._id, params=new[first : first + PARAMETERS])

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        named = {NOT_MLFLOW.sub("_", name): value for name, value in values.items()}
        self._client.log_batch(
            self._id, metrics=[self._metric(name, value, now, step) for name, value in named.items()]
        )

    def picture(self, step: int, name: str, file: str) -> None:
        self._client.log_artifact(self._id, file)

    def results(self, step: int, values: Mapping[str, float]) -> None:
        self.metrics(step, values)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio:
    """Trackio. Without TRACKIO_SPACE_ID it writes to its folder on this machine, which `trackio show` shows."""

    def __init__(self, facts: Facts) -> None:
        import trackio

        self._trackio: Any = trackio
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        config = dict(_plain(facts.config))
        space = os.environ.get("TRACKIO_SPACE_ID")
        self._run: Any = trackio.init(
            project=project, name=facts.name, config=config, resume="allow", embed=False, space_id=space
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def picture(self, step: int, name: str, file: str) -> None:
        self._trackio.log({name: self._trackio.Image(file)}, step=step)

    def results(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


def _plain(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        yield name, value if isinstance(value, str | int | float | bool | None) else str(value)


SERVICES: dict[str, Callable[[Facts], Tracker]] = {"wandb": Wandb, "mlflow": MLflow, "trackio": Trackio}
