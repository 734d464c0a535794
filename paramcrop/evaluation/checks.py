"""What can be known of an evaluation before anything is computed: enough videos, and none that was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.data.shards import check_files
from paramcrop.errors import CheckpointError, ConfigError, DataError, ShardError
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.videos import open_pair, overlap, read_split, split_pairs
from paramcrop.evaluation.weights import load_foreign
from paramcrop.models.foreign import ORIGINS
from paramcrop.settings.config import Config
from paramcrop.training.build import build_backbone


def check_jobs(jobs: Iterable[Job]) -> None:
    """Check what can be known before anything is computed.

    Raises:
        CheckpointError, DataError, ConfigError: one line; a protocol has too few videos, or tests videos that were
            trained on.
    """
    checked = set[Any]()
    for job in jobs:
        key = (job.folder, job.train, job.test, job.how, job.seed, job.run if job.subject == "run" else "")
        if key not in checked:
            checked.add(key)
            check_precision(job)
            with suppress(ShardError):  # its own evaluation reports it, and the others run
                _, test = open_pair(job.folder, (job.train, job.test), job.how, job.seed)
                check_unseen(job, test.sources)


def check_precision(job: Job) -> None:
    """Raises:
    ConfigError: the job trains a network in bfloat16 on a CPU, where torch's gradients in it are not reliable.
    """
    config = job.settings
    if job.how.kind == "finetune" and config.train.device == "cpu" and config.precision == "bfloat16":
        raise ConfigError(
            f"{job.dataset}/{job.how.name}: a run with train.precision=bfloat16 must be fine-tuned on GPUs, "
            "but --device is cpu"
        )


def key_of(job: Job) -> tuple[str, str, str]:
    """What a job reads: folder, training split, test split."""
    return job.folder, job.train, job.test


def broken_sets(jobs: Iterable[Job]) -> dict[tuple[str, str, str], ShardError]:
    """``key_of`` -> the error, where a shard is missing or has another size."""
    found = dict[tuple[str, str, str], ShardError]()
    for key in dict.fromkeys(map(key_of, jobs)):
        folder, *splits = key
        manifest = read_manifest(folder)
        try:
            for split in splits:
                check_files(folder, manifest.select(split))
        except ShardError as error:
            found[key] = error
    return found


def check_unseen(job: Job, tested: Mapping[str, str]) -> None:
    """Check that no label of a test video was learned: neither by a run's classifier, nor by its backbone.

    Args:
        tested: video id -> sha256 of its source.

    Raises:
        CheckpointError, ConfigError, DataError: some was, or it cannot be known.
    """
    config, task = job.settings, f"{job.dataset}/{job.how.name}"
    if job.subject != "run" or job.how.kind == "validation":
        return
    if job.how.kind == "classifier":
        own = own_split(task, config, read_manifest(job.folder), job.run_data)
        if (job.train, job.test) != own:
            raise ConfigError(f"{task}: a run trained on {own[0]} is tested on {own[1]} alone, but not on {job.test}")
    elif config.labelled_rows and (shared := overlap(_learned(job), tested)):
        raise ConfigError(
            f"{task}: a test needs videos whose labels were not learned, but the run learned from the labels of "
            f"{len(shared)} of the {len(tested)} videos of {job.test}, such as {shared[0]}; --splits chooses another"
        )


def _learned(job: Job) -> dict[str, str]:
    """Video id -> sha256 of its source, of the videos that a run learned labels of; empty for a synthetic dataset."""
    data = job.settings.data
    if job.content_id != job.run_data and data.shards is None:
        return {}
    folder = job.folder if job.content_id == job.run_data else str(data.shards)
    try:
        return {video: info.source for video, info in read_split(folder, data.split).items()}
    except DataError as error:
        raise DataError(
            f"the videos whose labels a run learned must be readable, to test it on others: {error}"
        ) from None


def own_split(task: str, config: Config, manifest: Manifest, run_data: str) -> tuple[str, str]:
    """Names of the split that a run's classifier was trained on, and of the one to test it on.

    Args:
        task: its name, for the error. manifest: that of the test dataset. run_data: content id of the run's.

    Raises:
        CheckpointError: the run has no classifier. ConfigError: no split is left to test on.
    """
    split = config.data.split
    if config.method != "mean_teacher":
        raise CheckpointError(
            f"{task}: only a run with method=mean_teacher has a classifier to test, but this run has "
            f"method={config.method}"
        )
    if manifest.content_id != run_data:
        raise ConfigError(
            f"{task}: a run's classifier is tested on its own dataset, {run_data}, but --data names another, "
            f"{manifest.content_id}"
        )
    if split is None:
        raise ConfigError(
            f"{task}: a test needs videos that the run was not trained on, but it was trained on all "
            f"{manifest.videos} of its dataset; pretrain with data.split, such as {next(iter(manifest.splits))}"
        )
    pairs = {train: (train, test) for train, test in split_pairs(manifest).values()}
    if split not in pairs:
        raise ConfigError(
            f"{task}: the run must be trained on {' or '.join(pairs)} to be tested, but it was on {split}"
        )
    return pairs[split]


def weight_notes(jobs: Iterable[Job]) -> list[str]:
    """Load the foreign checkpoints once -> what a reader should know of them, a line each.

    Raises:
        CheckpointError: one does not fit.
    """
    given = [job for job in jobs if job.weights]
    for job in {job.subject: job for job in given if job.subject in ORIGINS}.values():
        job.network()
    foreign = {
        (job.weights, job.prefixes, job.settings.backbone.model_dump_json()): job
        for job in given
        if job.subject == "weights"
    }
    loaded = (load_foreign(build_backbone(j.settings), Path(j.weights), dict(j.prefixes)) for j in foreign.values())
    return list(dict.fromkeys(note for notes in loaded for note in notes))
