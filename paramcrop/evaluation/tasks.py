"""What is asked of runs, in text, and the evaluations that follow: tasks such as ``ucf101/linear``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.errors import ConfigError
from paramcrop.evaluation.protocols import Protocol, find_protocol, numbers
from paramcrop.settings.config import Config
from paramcrop.settings.custom import is_custom
from paramcrop.settings.presets import nearest
from paramcrop.storage.mirror import mirror_at

if TYPE_CHECKING:
    from paramcrop.evaluation.job import Job

Task = tuple[str, Protocol]  # dataset's name, protocol with its numbers


@dataclass(frozen=True)
class Asked:
    """What is asked of every run.

    Attributes:
        tasks: in order. data: dataset's name -> folder or URI of its shards.
        splits: numbers; none: all. seeds: of the evaluation.
        subjects: "run", and what is evaluated beside it.
        weights, prefixes: of the subject "weights".
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
    """``DATASET/PROTOCOL`` texts, or ``PROTOCOL`` for every set, in order.

    Args:
        overrides: ``key=value`` of the protocols' numbers; each must be of one of them at least.
        view: the same, applied first, and not checked.

    Raises:
        ConfigError: a set, a protocol or a number is not known.
    """
    tasks, used = list[Task](), set[str]()
    for text in texts:
        name, slash, protocol = text.rpartition("/")
        if slash and name not in data:
            raise ConfigError(f"--task {text}: --data must name the folder of {name!r}{nearest(name, data)}")
        keys = numbers(find_protocol(protocol))
        mine = [override for override in (*view, *overrides) if override.partition("=")[0] in keys]
        used |= set(mine)
        tasks += [(dataset, find_protocol(protocol, mine)) for dataset in ([name] if slash else data)]
    for override in overrides:
        if override not in used and texts:  # say which numbers there are
            find_protocol(texts[0].rpartition("/")[2], [override])
    return tuple(dict.fromkeys(tasks))


def as_pretrained(config: Config) -> list[str]:
    """A protocol's input as the croppers' views: their frames and size, and their mean pace."""
    c = config.cropper
    pace = config.data.clip_frames * config.data.frame_stride * sum(c.temporal_scale) / 2 / c.frames
    return [f"frames={c.frames}", f"size={c.size}", f"stride={max(1, round(pace))}"]


def only(asked: Asked, texts: Sequence[str]) -> Asked:
    """The same, of the tasks that ``texts`` name."""
    named = {(text.rpartition("/")[0], find_protocol(text.rpartition("/")[2]).name) for text in texts}
    tasks = (t for t in asked.tasks if {(t[0], t[1].name), ("", t[1].name)} & named)
    return replace(asked, tasks=tuple(tasks))


def make_jobs(asked: Asked, runs: Iterable[Path], epoch: int | None = None) -> list[Job]:
    """Every evaluation asked for, once.

    Args:
        epoch: of the checkpoint; none: the newest.

    Raises:
        CheckpointError, DataError, ConfigError: something named is not there.
    """
    manifests = {name: read_manifest(asked.data[name]) for name, _ in asked.tasks}
    jobs: dict[str, Job] = {}
    for run in runs:
        for job in _of_run(asked, run, manifests, epoch):
            jobs.setdefault(job.eval_id, job)
    return list(jobs.values())


def _of_run(asked: Asked, run: Path, manifests: Mapping[str, Manifest], epoch: int | None) -> Iterable[Job]:
    from paramcrop.evaluation.job import Job  # these import torch; reading what is asked does not
    from paramcrop.evaluation.videos import split_pairs
    from paramcrop.evaluation.weights import pick_checkpoint, read_config
    from paramcrop.training.build import build_backbone

    config, (checkpoint, epoch) = read_config(run), pick_checkpoint(run, epoch)
    if is_custom(config.backbone.name):
        build_backbone(config)  # the user's class must be there, as the run had it: said before Ray starts
    pretraining = json.loads((run / "provenance.json").read_text())["data"]
    for subject in asked.subjects:
        for name, protocol in asked.tasks:
            for train, test in split_pairs(manifests[name], asked.splits).values():
                for seed in asked.seeds if subject != "pixels" else asked.seeds[:1]:
                    yield Job(
                        run=str(run),
                        subject=subject,
                        config=config.model_dump(mode="json"),
                        run_data=pretraining,
                        checkpoint=str(checkpoint),
                        epoch=epoch,
                        dataset=name,
                        folder=asked.data[name],
                        content_id=manifests[name].content_id,
                        train=train,
                        test=test,
                        protocol=protocol.model_dump(mode="json"),
                        seed=seed,
                        weights=asked.weights if subject == "weights" else "",
                        prefixes=asked.prefixes if subject == "weights" else (),
                        uri=mirror_at(run).uri,
                    )
