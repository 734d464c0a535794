"""Evaluate one (checkpoint, dataset, protocol, seed): metrics, the scores of every video, and unreadable videos."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from paramcrop.data.batch import Batch
from paramcrop.data.clips import ClipSpec
from paramcrop.data.killable import TOOK, may_pass
from paramcrop.data.labels import labelled_share
from paramcrop.errors import CheckpointError, DataError, NonFiniteLossError
from paramcrop.evaluation.checks import check_unseen
from paramcrop.evaluation.features import Forward, Normalise, Outputs, clip_outputs, concatenate, only, stored_outputs
from paramcrop.evaluation.fitting.finetune import Classifier, Training, finetune
from paramcrop.evaluation.fitting.heads import choose, normalised, train_heads
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.metrics import average_clips, cosine, knn_votes, recall_at
from paramcrop.evaluation.outcome import Evaluation, as_result, classified
from paramcrop.evaluation.videos import LabelledSet, Map, by_shard, check_counts, open_pair, training_batches
from paramcrop.evaluation.weights import trained_classifier
from paramcrop.training.build import network_dtype

JITTER = (0.5, 0.5, 0.5, 0.25)  # brightness, contrast, saturation, hue
Report = Callable[[str], None]


class Runtime(NamedTuple):
    """How an evaluation computes.

    Attributes:
        forward: the forward pass of clips through a network.
        mapped: maps a decoding function over videos, perhaps in parallel.
        report: receives the progress as text.
    """

    forward: Forward
    mapped: Map
    report: Report


def evaluate(job: Job, device: torch.device, mapped: Map, report: Report = lambda text: None) -> dict[str, Any]:
    """Evaluate and return the result in the form in which it is stored, with plain values only.

    Raises:
        DataError, CheckpointError, ConfigError: one line.
    """
    start = time.monotonic()
    train, test = open_pair(job.folder, (job.train, job.test), job.how, job.seed)
    check_unseen(job, test.sources)
    normalise = Normalise(job.settings.augment.mean, job.settings.augment.std)
    runtime = Runtime(Forward(normalise, device, network_dtype(job.settings, device)), mapped, report)
    kinds = {"finetune": by_finetuning, "heads": by_heads, "knn": by_neighbours}
    kinds |= {"retrieval": by_retrieval, "validation": by_retrieval, "classifier": by_own_classifier}
    evaluation = kinds[job.how.kind](job, train, test, runtime)
    return as_result(job, train, test, evaluation) | {"seconds": round(time.monotonic() - start, 2)}


def by_finetuning(job: Job, train: LabelledSet, test: LabelledSet, runtime: Runtime) -> Evaluation:
    """Full, linear or few-shot fine-tuning; the test uses the last epoch's weights."""
    how = job.how
    train_backbone = how.train == "all" and job.subject != "pixels"
    classifier = Classifier(job.network(), train.classes, how.dropout, train_backbone, how.bn == "frozen", job.seed)
    chosen = labelled_share(list(train.labels), list(train.labels.values()), how.labels, job.seed)
    batch = min(how.batch, len(chosen))
    spec = training_clips(job)
    failed: dict[str, str] = {}
    finetune(
        classifier,
        lambda epoch: record_failures(
            training_batches(train, chosen, spec, batch, job.seed, runtime.mapped, epoch), failed
        ),
        len(chosen) // batch,
        Training(how.epochs, how.lr, how.weight_decay, how.warmup, job.seed),
        runtime.forward,
        job.work,
        lambda epoch, loss: runtime.report(f"epoch {epoch}/{how.epochs}, loss {loss:.3f}"),
    )
    if any(map(may_pass, failed.values())):
        shutil.rmtree(job.work / "checkpoints", ignore_errors=True)  # trained without videos that the next try may read
    outputs = readable(job, clip_outputs(classifier, test, job.input, runtime.forward, runtime.mapped), job.test)
    predictions = average_clips(outputs.clips, outputs.label)
    facts = {"labelled videos": len(chosen), "steps": how.epochs * (len(chosen) // batch)}
    unread = [{"id": video, "reason": reason} for video, reason in sorted(failed.items())]
    return classified(outputs, predictions.probabilities, unread, facts, {"clip@1": predictions.clip_correct})


def by_own_classifier(job: Job, train: LabelledSet, test: LabelledSet, runtime: Runtime) -> Evaluation:
    """The classifier that a semi-supervised run has learned, without further training."""
    if job.subject != "run":
        raise CheckpointError(f"{job.how.name} tests the classifier of a run, but {job.subject} has none")
    network = trained_classifier(job.settings, Path(job.checkpoint), job.how.network, test.classes)
    network = network.to(runtime.forward.device)
    outputs = readable(job, clip_outputs(network, test, job.input, runtime.forward, runtime.mapped), job.test)
    predictions = average_clips(outputs.clips, outputs.label)
    return classified(outputs, predictions.probabilities, [], {}, {"clip@1": predictions.clip_correct})


def record_failures(batches: Iterable[Batch], failed: dict[str, str]) -> Iterator[Batch]:
    """Yield the same batches, and add videos that could not be decoded to ``failed`` with the reason.

    Raises:
        DataError: none of a batch could be.
    """
    for batch in batches:
        new = {video: error for video, error in zip(batch.id, batch.error, strict=True) if error}
        failed |= new
        if bool((batch.label < 0).all()):  # every clip is black
            raise none_read(
                f"none of the {len(new)} videos of a batch", [{"id": v, "reason": r} for v, r in new.items()]
            )
        yield batch


def training_clips(job: Job) -> ClipSpec:
    """The training clip of a video: a random window and square, with flip and jitter."""
    how = job.how
    brightness, contrast, saturation, hue = JITTER
    return ClipSpec(
        frames=how.frames,
        stride=how.stride,
        size=how.size,
        views=1,
        random_box=how.train_box,
        jitter=how.jitter,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        decoder=job.settings.data.decoder,
    )


def by_heads(job: Job, train: LabelledSet, test: LabelledSet, runtime: Runtime) -> Evaluation:
    """A linear head on stored features; held-out training videos decide its learning rate and weight decay."""
    how, (gallery, queries) = job.how, features(job, train, test, runtime)
    chosen = labelled_share(gallery.id, gallery.label.tolist(), how.labels, job.seed)
    rows = torch.tensor([video in chosen for video in gallery.id])
    x, labels, classes = gallery.mean[rows], gallery.label[rows], len(train.classes)
    groups = [train.groups[video] for video in gallery.id if video in chosen]
    choice = choose(x, labels, groups, classes, how.lrs, how.weight_decays, how.held_out, how.epochs, job.seed)
    weights, biases = train_heads(x, labels, classes, [(choice.lr, choice.weight_decay)], how.epochs, job.seed)
    if not weights.isfinite().all():
        raise NonFiniteLossError(
            f"a head's weights must be finite, but with a learning rate of {choice.lr:g} they are not"
        )
    logits = normalised(queries.mean) @ weights[0].T + biases[0]
    facts = {"lr": choice.lr, "weight decay": choice.weight_decay, "held-out accuracy": choice.accuracy.tolist()}
    return classified(queries, logits, gallery.failed, facts)


def by_retrieval(job: Job, train: LabelledSet, test: LabelledSet, runtime: Runtime) -> Evaluation:
    """Test videos query the training videos; in a validation, held-out training videos query the others."""
    how, (gallery, queries) = job.how, features(job, train, test, runtime)
    similarity = cosine(queries.mean, gallery.mean, how.centre)
    scores = {f"R@{k}": recall_at(similarity, queries.label, gallery.label, k).float() for k in how.ranks}
    nearest = similarity.topk(min(5, similarity.shape[1]), dim=1).indices
    facts = {"nearest": [[gallery.id[i] for i in row] for row in nearest.tolist()]}
    return Evaluation(queries, scores, None, gallery.failed, facts)


def by_neighbours(job: Job, train: LabelledSet, test: LabelledSet, runtime: Runtime) -> Evaluation:
    """k-NN classification: each test video gets the votes of its nearest training videos."""
    how, (gallery, queries) = job.how, features(job, train, test, runtime)
    similarity = cosine(queries.mean, gallery.mean)
    votes = knn_votes(similarity, gallery.label, len(train.classes), how.neighbours, how.temperature)
    return classified(queries, votes, gallery.failed, {})


def features(job: Job, train: LabelledSet, test: LabelledSet, runtime: Runtime) -> tuple[Outputs, Outputs]:
    """The features of the training and the test videos, read from files where these exist.

    There is one file per shard, so that splits and validations that share shards also share their features. Where all
    are there, the network is not loaded.
    """

    @cache
    def network() -> nn.Module:
        return job.network().to(runtime.forward.device)

    def outputs(part: LabelledSet, known: Outputs) -> Outputs:
        return clip_outputs(network(), part, job.input, runtime.forward, runtime.mapped, known)

    def of(videos: LabelledSet) -> Outputs:
        parts = []
        for part in by_shard(videos):
            file = job.features / f"{part.manifest.shards[0].sha256[:16]}.pt"
            parts.append(stored_outputs(file, partial(outputs, part), job.fresh))
            runtime.report(f"features of {sum(len(p.id) for p in parts)} of {videos.manifest.videos} videos")
        return only(concatenate(parts), videos.labels)

    gallery, queries = readable(job, of(train), job.train), readable(job, of(test), job.test)
    check_counts(_read_of(train, gallery), _read_of(test, queries), job.train, job.how, job.seed)
    return gallery, queries


def _read_of(videos: LabelledSet, outputs: Outputs) -> LabelledSet:
    """The same set without the videos that could not be read."""
    return videos._replace(labels={video: videos.labels[video] for video in outputs.id})


def readable(job: Job, outputs: Outputs, split: str) -> Outputs:
    """The same outputs.

    Raises:
        DataError: there are none.
    """
    if not outputs.id:
        raise none_read(f"{job.folder}: none of the {len(outputs.failed)} videos of split {split}", outputs.failed)
    return outputs


def none_read(what: str, failed: Sequence[dict[str, str]]) -> DataError:
    """The error that none of some videos could be read, with the reason for the first, and what helps."""
    if not failed:
        return DataError(f"{what} could be decoded")
    reason = failed[0]["reason"]
    fix = "; a larger --timeout gives it more time" if reason.startswith(TOOK) else ""
    return DataError(f"{what} could be decoded, such as {failed[0]['id']}: {reason}{fix}")
