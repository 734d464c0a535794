"""Turn a request, with tasks such as ``ucf101/linear``, into the evaluations of each run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.errors import ConfigError
from paramcrop.evaluation.protocols import Protocol, find_protocol, parameters
from paramcrop.settings.config import Config
from paramcrop.settings.custom import is_custom
from paramcrop.settings.explain import nearest
from paramcrop.storage.mirror import mirror_at

if TYPE_CHECKING:
    from paramcrop.evaluation.job import Job

Task = tuple[str, Protocol]  # name of the dataset, protocol with its parameters


@dataclass(frozen=True)
class Request:
    """What to evaluate for every run.

    Attributes:
        tasks: in order. data: name of a dataset -> folder or URI of its shards.
        splits: split numbers; empty: all. seeds: seeds of the evaluation.
        subjects: "run", and the subjects to compare with it.
        weights, prefixes: those of the subject "weights".
    """

    tasks: tuple[Task, ...]
    data: Mapping[str, str]
    splits: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    subjects: tuple[str, ...] = ("run",)
    weights: str = ""
    prefixes: tuple[tuple[str, str], ...] = ()


def find_tasks(
    texts: Sequence[str], data: Mapping[str, str], overrides: Sequence[str] = (), view: Sequence[str] = ()
) -> tuple[Task, ...]:
    """Parse ``DATASET/PROTOCOL`` texts, or ``PROTOCOL`` for every dataset, in order.

    Args:
        overrides: ``key=value`` texts for the protocols' parameters; at least one protocol must have each.
        view: the same, but applied first and not checked.

    Raises:
        ConfigError: a dataset, protocol or parameter is unknown.
    """
    tasks, used = list[Task](), set[str]()
    for text in texts:
        name, slash, protocol = text.rpartition("/")
        if slash and name not in data:
            raise ConfigError(f"--task {text}: --data must name the folder of {name!r}{nearest(name, data)}")
        keys = parameters(find_protocol(protocol))
        mine = [override for override in (*view, *overrides) if override.partition("=")[0] in keys]
        used |= set(mine)
        tasks += [(dataset, find_protocol(protocol, mine)) for dataset in ([name] if slash else data)]
    for override in overrides:
        if override not in used and texts:  # raises an error that lists the parameters
            find_protocol(texts[0].rpartition("/")[2], [override])
    return tuple(dict.fromkeys(tasks))


def as_pretrained(config: Config) -> list[str]:
    """Overrides that make a protocol's clips like the croppers' views: their frames, size and mean frame rate."""
    c = config.cropper
    pace = config.data.clip_frames * config.data.frame_stride * sum(c.temporal_scale) / 2 / c.frames
    return [f"frames={c.frames}", f"size={c.size}", f"stride={max(1, round(pace))}"]


def only(request: Request, texts: Sequence[str]) -> Request:
    """The same request with only the tasks that ``texts`` name."""
    named = {(text.rpartition("/")[0], find_protocol(text.rpartition("/")[2]).name) for text in texts}
    tasks = (t for t in request.tasks if {(t[0], t[1].name), ("", t[1].name)} & named)
    return replace(request, tasks=tuple(tasks))


def make_jobs(request: Request, runs: Iterable[Path], epoch: int | None = None) -> list[Job]:
    """The requested evaluations of these runs, each once.

    Args:
        epoch: epoch of the checkpoint; None: the newest.

    Raises:
        CheckpointError, DataError, ConfigError: a run, checkpoint, dataset or split does not exist.
    """
    manifests = {name: read_manifest(request.data[name]) for name, _ in request.tasks}
    jobs: dict[str, Job] = {}
    for run in runs:
        for job in _of_run(request, run, manifests, epoch):
            jobs.setdefault(job.eval_id, job)
    return list(jobs.values())


def _of_run(request: Request, run: Path, manifests: Mapping[str, Manifest], epoch: int | None) -> Iterable[Job]:
    from paramcrop.evaluation.job import Job  # these import torch, which parsing a request does not need
    from paramcrop.evaluation.videos import split_pairs
    from paramcrop.evaluation.weights import pick_checkpoint, read_config
    from paramcrop.training.build import build_backbone

    config, (checkpoint, epoch) = read_config(run), pick_checkpoint(run, epoch)
    if is_custom(config.backbone.name):
        build_backbone(config)  # fails here, before Ray starts, if the user's class is missing or has changed
    pretraining = json.loads((run / "provenance.json").read_text())["data"]
    for subject in request.subjects:
        for name, protocol in request.tasks:
            for train, test in split_pairs(manifests[name], request.splits).values():
                for seed in request.seeds if subject != "pixels" else request.seeds[:1]:
                    yield Job(
                        run=str(run),
                        subject=subject,
                        config=config.model_dump(mode="json"),
                        run_data=pretraining,
                        checkpoint=str(checkpoint),
                        epoch=epoch,
                        dataset=name,
                        folder=request.data[name],
                        content_id=manifests[name].content_id,
                        train=train,
                        test=test,
                        protocol=protocol.model_dump(mode="json"),
                        seed=seed,
                        weights=request.weights if subject == "weights" else "",
                        prefixes=request.prefixes if subject == "weights" else (),
                        uri=mirror_at(run).uri,
                    )
