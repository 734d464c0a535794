"""Turn a request, with tasks such as ``ucf101/linear``, into the evaluations of each run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paramcrop.data.manifest import Manifest, enlargement, read_manifest
from paramcrop.errors import ConfigError
from paramcrop.evaluation.protocols import Protocol, find_protocol, parameters
from paramcrop.settings.config import Config
from paramcrop.settings.custom import is_custom
from paramcrop.settings.explain import nearest
from paramcrop.storage.mirror import mirror_at
from paramcrop.storage.runs import read_provenance

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
        device: "cpu" or "cuda", on which they compute, for the precision of runs whose ``train.precision`` is "auto";
            empty: that of each run.
        weights, prefixes: those of the subject "weights".
        files: subject -> its file, of the baselines that have one.
    """

    tasks: tuple[Task, ...]
    data: Mapping[str, str]
    splits: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    subjects: tuple[str, ...] = ("run",)
    weights: str = ""
    prefixes: tuple[tuple[str, str], ...] = ()
    device: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


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
    return [f"frames={config.cropper.frames}", f"size={config.cropper.size}", f"stride={pace(config)}"]


def pace(config: Config) -> int:
    """Source frames from one frame of the croppers' views to the next, in the mean."""
    c, d = config.cropper, config.data
    return max(1, round(d.clip_frames * d.frame_stride * sum(c.temporal_scale) / 2 / c.frames))


def only(request: Request, texts: Sequence[str]) -> Request:
    """The same request with only the tasks that ``texts`` name."""
    named = {(text.rpartition("/")[0], find_protocol(text.rpartition("/")[2]).name) for text in texts}
    tasks = (t for t in request.tasks if {(t[0], t[1].name), ("", t[1].name)} & named)
    return replace(request, tasks=tuple(tasks))


def make_jobs(request: Request, runs: Iterable[Path], epoch: int | None = None) -> list[Job]:
    """The requested evaluations of these runs, each once, checked as by ``check_jobs``.

    Args:
        epoch: epoch of the checkpoint; None: the newest.

    Raises:
        CheckpointError, DataError, ConfigError: a run, checkpoint, dataset or split does not exist or does not suit.
    """
    from paramcrop.evaluation.checks import check_jobs  # imports torch, which parsing a request does not need

    manifests = {name: read_manifest(request.data[name]) for name, _ in request.tasks}
    jobs: dict[str, Job] = {}
    for run in runs:
        for job in _of_run(request, run, manifests, epoch):
            jobs.setdefault(job.eval_id, job)
    check_jobs(jobs.values())
    return list(jobs.values())


def check_request(request: Request, config: Config, run_data: str) -> None:
    """Check the requested evaluations of a run that does not exist yet.

    Args:
        run_data: content id of the videos that the run will be pretrained on.

    Raises:
        CheckpointError, DataError, ConfigError: a dataset or split does not suit.
    """
    from paramcrop.evaluation.checks import check_jobs

    manifests = {name: read_manifest(request.data[name]) for name, _ in request.tasks}
    check_jobs(_jobs(request, manifests, config, Source(Path("."), "", run_data)))


def size_warnings(request: Request) -> list[str]:
    """A line for each task whose clips have more pixels than the videos."""
    sides = {name: read_manifest(request.data[name]).short_side for name, _ in request.tasks}
    found = (enlargement(f"{name}/{p.label}", sides[name], p.box, p.size, "size") for name, p in request.tasks)
    return [line for lines in found for line in lines]


def _of_run(request: Request, run: Path, manifests: Mapping[str, Manifest], epoch: int | None) -> Iterable[Job]:
    from paramcrop.evaluation.weights import pick_checkpoint, read_config  # imports torch
    from paramcrop.training.build import build_backbone

    config, (checkpoint, epoch) = read_config(run), pick_checkpoint(run, epoch)
    if is_custom(config.backbone.name):
        build_backbone(config)  # fails here, before Ray starts, if the user's class is missing or has changed
    facts = read_provenance(run)
    pretraining = facts.get("videos", {}).get("content_id", facts["data"])  # older runs have it as their data alone
    source = Source(run, facts["run_id"], pretraining, str(checkpoint), epoch, mirror_at(run).uri)
    yield from _jobs(request, manifests, config, source)


@dataclass(frozen=True)
class Source:
    """The run that jobs evaluate; see ``Job`` for the fields."""

    run: Path
    run_id: str
    run_data: str
    checkpoint: str = ""
    epoch: int = 0
    uri: str = ""


def _jobs(request: Request, manifests: Mapping[str, Manifest], config: Config, source: Source) -> Iterable[Job]:
    from paramcrop.evaluation.job import Job

    config = config.on(request.device) if request.device else config
    for subject in request.subjects:
        for name, protocol in request.tasks:
            if protocol.kind == "classifier" and subject != "run":
                continue  # a baseline has no classifier
            for train, test in _pairs(request, name, protocol, config, manifests[name], source.run_data):
                for seed in request.seeds if subject != "pixels" else request.seeds[:1]:
                    yield Job(
                        run=str(source.run),
                        subject=subject,
                        config=config.model_dump(mode="json"),
                        run_id=source.run_id,
                        run_data=source.run_data,
                        checkpoint=source.checkpoint,
                        epoch=source.epoch,
                        dataset=name,
                        folder=request.data[name],
                        content_id=manifests[name].content_id,
                        data_id=manifests[name].data_id,
                        train=train,
                        test=test,
                        protocol=protocol.model_dump(mode="json"),
                        seed=seed,
                        weights=request.weights if subject == "weights" else request.files.get(subject, ""),
                        prefixes=request.prefixes if subject == "weights" else (),
                        uri=source.uri,
                    )


def _pairs(
    request: Request, name: str, protocol: Protocol, config: Config, manifest: Manifest, run_data: str
) -> Iterable[tuple[str, str]]:
    """The splits to train and to test on: all that are selected, or a run's own if its classifier is tested."""
    from paramcrop.evaluation.checks import own_split
    from paramcrop.evaluation.videos import split_pairs

    selected = split_pairs(manifest, request.splits)
    if protocol.kind != "classifier":
        return selected.values()
    task = f"{name}/{protocol.name}"
    own = own_split(task, config, manifest, run_data)
    if request.splits and (others := [number for number, pair in selected.items() if pair != own]):
        raise ConfigError(
            f"{task}: a run trained on {own[0]} is tested on {own[1]} alone, but --splits has {others[0]}"
        )
    return [own]
