"""What an evaluation has found, and the form in which that is stored."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from paramcrop.data.killable import may_pass
from paramcrop.evaluation.features import Outputs
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.metrics import accuracy_per_class, confusion, top_k
from paramcrop.evaluation.videos import LabelledSet
from paramcrop.storage.versions import commit


class Evaluation(NamedTuple):
    """The outcome on the n test videos that could be read.

    Attributes:
        test: their outputs.
        scores: metric -> float (n,), 1 or 0 for each video (clip@1: a share); the mean is the metric.
        predicted: class indices (n,), or None if the protocol does not classify.
        failed_train: {"id", "reason"} of the training videos that could not be read.
        facts: further facts for the record, such as the chosen learning rate.
    """

    test: Outputs
    scores: dict[str, Tensor]
    predicted: Tensor | None
    failed_train: list[dict[str, str]]
    facts: dict[str, Any]


def classified(
    test: Outputs,
    scores: Tensor,
    failed_train: list[dict[str, str]],
    facts: dict[str, Any],
    more: dict[str, Tensor] | None = None,
) -> Evaluation:
    """Class scores (n, C) -> video@1 and video@5, besides ``more`` metrics."""
    right = {f"video@{k}": top_k(scores, test.label, k).float() for k in (1, 5)}
    return Evaluation(test, (more or {}) | right, scores.argmax(1), failed_train, facts)


def as_result(job: Job, train: LabelledSet, test: LabelledSet, evaluation: Evaluation) -> dict[str, Any]:
    """The result in the form in which it is stored; in each row, ``n`` of ``of`` test videos were read."""
    outputs, predicted = evaluation.test, evaluation.predicted
    how, n = job.how, {"n": len(outputs.id), "of": test.all}
    unread = [*evaluation.failed_train, *outputs.failed]
    rows = [{"metric": name, "value": float(value.mean())} | n for name, value in evaluation.scores.items()]
    result: dict[str, Any] = {
        "eval_id": job.eval_id,
        "subject": job.subject,
        "subject_id": job.subject_id,
        "dataset": job.dataset,
        "content_id": job.content_id,
        "source": train.about["dataset"],
        "set": train.about,
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
        "facts": evaluation.facts,
        "fresh": job.fresh,
        "again": sorted({failure["id"] for failure in unread if may_pass(failure["reason"])}),
        "videos": outputs.id,
        "labels": outputs.label.tolist(),
        "scores": {name: value.tolist() for name, value in evaluation.scores.items()},
        "failed": {"train": train.rejected + evaluation.failed_train, "test": test.rejected + outputs.failed},
    }
    if predicted is not None:
        per_class = accuracy_per_class(predicted, outputs.label, len(train.classes))
        known = per_class[~per_class.isnan()]
        result["rows"].append({"metric": "class mean", "value": float(known.mean())} | n)
        result["per_class"] = [None if value != value else value for value in per_class.tolist()]
        result["confusion"] = confusion(predicted, outputs.label, len(train.classes)).tolist()
    return result
