"""(Checkpoint, dataset, protocol, seed) -> a result: figures, what was said of every video, what could not be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paramcrop.data.batch import Batch
from paramcrop.data.clips import ClipSpec
from paramcrop.data.labels import labelled_share
from paramcrop.errors import CheckpointError, DataError
from paramcrop.evaluation.features import Normalise, Outputs, clip_outputs, kept_outputs, only, together
from paramcrop.evaluation.finetune import Classifier, Training, finetune
from paramcrop.evaluation.heads import choose, normalised, train_heads
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.metrics import (
    accuracy_per_class,
    average_clips,
    confusion,
    cosine,
    knn_votes,
    recall_at,
    top_k,
)
from paramcrop.evaluation.videos import LabelledSet, Map, by_shard, held_out, open_split, training_batches
from paramcrop.evaluation.weights import trained_classifier
from paramcrop.storage.runs import commit
from paramcrop.training.build import network_dtype

JITTER = (0.5, 0.5, 0.5, 0.25)  # brightness, contrast, saturation, hue
Tell = Callable[[str], None]


class Judged(NamedTuple):
    """Of the n test videos that could be read.

    Attributes:
        scores: metric -> float (n,), each video's 1 or 0 (clip@1: a share); its mean is the metric.
        predicted: class numbers (n,), or None where nothing is classified.
        facts: what else there is to say, such as a chosen learning rate.
    """

    test: Outputs
    scores: dict[str, Tensor]
    predicted: Tensor | None
    failed_train: list[dict[str, str]]
    facts: dict[str, Any]


class Place(NamedTuple):
    """Where an evaluation computes: device, dtype under autocast, how videos are decoded, whom to tell."""

    device: torch.device
    dtype: torch.dtype
    mapped: Map
    tell: Tell


def evaluate(job: Job, device: torch.device, mapped: Map, tell: Tell = lambda text: None) -> dict[str, Any]:
    """The result, as it is kept: plain values only.

    Raises:
        DataError, CheckpointError, ConfigError: one line; nothing was computed.
    """
    start = time.monotonic()
    train, test = open_split(job.folder, job.train), open_split(job.folder, job.test)
    if shared := train.labels.keys() & test.labels.keys():
        raise DataError(f"splits must share no video, but {job.train} and {job.test} share {min(shared)}")
    where = Place(device, network_dtype(job.settings, device), mapped, tell)
    if job.how.kind == "validation":
        train, test = held_out(train, job.how.held_out, job.how.videos, job.seed)
    kinds = {"finetune": by_finetuning, "heads": by_heads, "knn": by_neighbours}
    kinds |= {"retrieval": by_retrieval, "validation": by_retrieval, "classifier": by_own_classifier}
    judged = kinds[job.how.kind](job, train, test, where)
    return as_result(job, train, test, judged) | {"seconds": round(time.monotonic() - start, 2)}


def by_finetuning(job: Job, train: LabelledSet, test: LabelledSet, where: Place) -> Judged:
    """Full, linear or few-shot fine-tuning; the last epoch is tested."""
    how, config = job.how, job.settings
    normalise = Normalise(config.augment.mean, config.augment.std)
    whole = how.train == "all" and job.subject != "pixels"
    classifier = Classifier(job.network(), train.classes, how.dropout, whole, how.bn == "frozen", job.seed)
    chosen = labelled_share(list(train.labels), list(train.labels.values()), how.labels, job.seed)
    batch = min(how.batch, len(chosen))
    spec = training_clips(job)
    failed: dict[str, str] = {}
    finetune(
        classifier,
        lambda epoch: noting(training_batches(train, chosen, spec, batch, job.seed, where.mapped, epoch), failed),
        len(chosen) // batch,
        Training(how.epochs, how.lr, how.weight_decay, how.warmup, job.seed),
        normalise,
        where.device,
        where.dtype,
        job.work,
        lambda epoch, loss: where.tell(f"epoch {epoch}/{how.epochs}, loss {loss:.3f}"),
    )
    outputs = clip_outputs(classifier, test, job.input, normalise, where.device, where.dtype, where.mapped)
    said = average_clips(outputs.clips, outputs.label)
    facts = {"labelled videos": len(chosen), "steps": how.epochs * (len(chosen) // batch)}
    unread = [{"id": video, "reason": reason} for video, reason in sorted(failed.items())]
    return classified(outputs, said.probabilities, unread, facts, {"clip@1": said.clip_correct})


def by_own_classifier(job: Job, train: LabelledSet, test: LabelledSet, where: Place) -> Judged:
    """What a semi-supervised run has itself learned to say."""
    if job.subject != "run":
        raise CheckpointError(f"{job.how.name} tests what a run has learned, but {job.subject} has no classifier")
    network = trained_classifier(job.settings, Path(job.checkpoint), job.how.network, test.classes)
    normalise = Normalise(job.settings.augment.mean, job.settings.augment.std)
    outputs = clip_outputs(
        network.to(where.device), test, job.input, normalise, where.device, where.dtype, where.mapped
    )
    said = average_clips(outputs.clips, outputs.label)
    return classified(outputs, said.probabilities, [], {}, {"clip@1": said.clip_correct})


def noting(batches: Iterable[Batch], failed: dict[str, str]) -> Iterator[Batch]:
    """The same batches; videos that could not be decoded are added to ``failed`` with the reason."""
    for batch in batches:
        failed |= {video: error for video, error in zip(batch.id, batch.error, strict=True) if error}
        yield batch


def training_clips(job: Job) -> ClipSpec:
    """One clip per video: a random window, a random square, flip and jitter."""
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
    )


def by_heads(job: Job, train: LabelledSet, test: LabelledSet, where: Place) -> Judged:
    """A linear head on kept features; learning rate and weight decay chosen on held-out training videos."""
    how, (gallery, queries) = job.how, features(job, train, test, where)
    chosen = labelled_share(gallery.id, gallery.label.tolist(), how.labels, job.seed)
    rows = torch.tensor([video in chosen for video in gallery.id])
    x, labels, classes = gallery.mean[rows], gallery.label[rows], len(train.classes)
    choice = choose(x, labels, classes, how.lrs, how.weight_decays, how.held_out, how.epochs, job.seed)
    weights, biases = train_heads(x, labels, classes, [(choice.lr, choice.weight_decay)], how.epochs, job.seed)
    logits = normalised(queries.mean) @ weights[0].T + biases[0]
    facts = {"lr": choice.lr, "weight decay": choice.weight_decay, "held-out accuracy": choice.accuracy.tolist()}
    return classified(queries, logits, gallery.failed, facts)


def by_retrieval(job: Job, train: LabelledSet, test: LabelledSet, where: Place) -> Judged:
    """Test videos query the training videos; in a validation, training videos held out query the others."""
    how, (gallery, queries) = job.how, features(job, train, test, where)
    similarity = cosine(queries.mean, gallery.mean, how.centre)
    scores = {f"R@{k}": recall_at(similarity, queries.label, gallery.label, k).float() for k in how.ranks}
    nearest = similarity.topk(min(5, similarity.shape[1]), dim=1).indices
    facts = {"nearest": [[gallery.id[i] for i in row] for row in nearest.tolist()]}
    return Judged(queries, scores, None, gallery.failed, facts)


def by_neighbours(job: Job, train: LabelledSet, test: LabelledSet, where: Place) -> Judged:
    how, (gallery, queries) = job.how, features(job, train, test, where)
    similarity = cosine(queries.mean, gallery.mean)
    votes = knn_votes(similarity, gallery.label, len(train.classes), how.neighbours, how.temperature)
    return classified(queries, votes, gallery.failed, {})


def features(job: Job, train: LabelledSet, test: LabelledSet, where: Place) -> tuple[Outputs, Outputs]:
    """Of the training and the test videos, from the files that keep them if they are there."""
    config, network = job.settings, job.network().to(where.device)
    normalise = Normalise(config.augment.mean, config.augment.std)

    def of(videos: LabelledSet) -> Outputs:
        parts = []
        for part in by_shard(videos):
            file = job.features / f"{part.manifest.shards[0].sha256[:16]}.pt"
            run = partial(clip_outputs, network, part, job.input, normalise, where.device, where.dtype, where.mapped)
            parts.append(kept_outputs(file, run))
            where.tell(f"features of {sum(len(p.id) for p in parts)} of {videos.manifest.videos} videos")
        return only(together(parts), videos.labels)

    return of(train), of(test)


def classified(
    test: Outputs,
    scores: Tensor,
    failed_train: list[dict[str, str]],
    facts: dict[str, Any],
    more: dict[str, Tensor] | None = None,
) -> Judged:
    """Scores (n, C) of classes -> video@1, video@5 and whatever more there is."""
    right = {f"video@{k}": top_k(scores, test.label, k).float() for k in (1, 5)}
    return Judged(test, (more or {}) | right, scores.argmax(1), failed_train, facts)


def as_result(job: Job, train: LabelledSet, test: LabelledSet, judged: Judged) -> dict[str, Any]:
    """What is kept of an evaluation; ``n`` of ``of`` test videos were read."""
    outputs, predicted = judged.test, judged.predicted
    if not outputs.id:
        raise DataError(f"{job.folder}: a video of split {job.test} must decode, but none of {len(test.labels)} does")
    how, n = job.how, {"n": len(outputs.id), "of": test.all}
    rows = [{"metric": name, "value": float(value.mean())} | n for name, value in judged.scores.items()]
    result: dict[str, Any] = {
        "eval_id": job.eval_id,
        "subject": job.subject,
        "subject_id": job.subject_id,
        "dataset": job.dataset,
        "content_id": job.content_id,
        "source": train.manifest.settings.get("dataset", ""),
        "splits": [job.train, job.test],
        "protocol": how.label,
        "version": how.version,
        "numbers": how.model_dump(mode="json"),
        "seed": job.seed,
        "pretraining_seed": job.settings.seed,
        "pretraining_data": job.run_data,
        "commit": commit(),
        "classes": list(train.classes),
        "rows": rows,
        "facts": judged.facts,
        "videos": outputs.id,
        "labels": outputs.label.tolist(),
        "scores": {name: value.tolist() for name, value in judged.scores.items()},
        "failed": {"train": train.rejected + judged.failed_train, "test": test.rejected + outputs.failed},
    }
    if predicted is not None:
        per_class = accuracy_per_class(predicted, outputs.label, len(train.classes))
        known = per_class[~per_class.isnan()]
        result["rows"].append({"metric": "class mean", "value": float(known.mean())} | n)
        result["per_class"] = [None if value != value else value for value in per_class.tolist()]
        result["confusion"] = confusion(predicted, outputs.label, len(train.classes)).tolist()
    return result
