"""Every metric against a slow reference and against torchmetrics, on random features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix
from torchmetrics.functional.retrieval import retrieval_hit_rate

from paramcrop.evaluation.metrics import (
    accuracy_per_class,
    average_clips,
    confusion,
    cosine,
    knn_votes,
    recall_at,
    top_k,
)

CLASSES = 7


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_labels(n: int, seed: int = 1) -> Tensor:
    return torch.randint(0, CLASSES, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_equals_a_loop_and_torchmetrics(k: int) -> None:
    scores, labels = random(60, CLASSES), some_labels(60)
    slow = [
        label in sorted(range(CLASSES), key=lambda c: -row[c])[:k]
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert top_k(scores, labels, k).tolist() == slow
    theirs = multiclass_accuracy(scores, labels, CLASSES, average="micro", top_k=k)
    assert top_k(scores, labels, k).float().mean().item() == pytest.approx(theirs.item())


def test_top_k_with_k_above_the_number_of_classes_is_always_right() -> None:
    assert top_k(random(5, 3), some_labels(5) % 3, 5).all()


def test_clips_average_their_softmax_not_their_logits() -> None:
    logits = [random(4, CLASSES, seed=i) * 5 for i in range(3)] + [random(1, CLASSES, seed=9)]
    labels = some_labels(4)
    predictions = average_clips(logits, labels)
    for i, clips in enumerate(logits):
        exponents = [[torch.exp(v).item() for v in clip] for clip in clips]
        slow = [sum(clip[c] / sum(clip) for clip in exponents) / len(clips) for c in range(CLASSES)]
        assert predictions.probabilities[i].tolist() == pytest.approx(slow, abs=1e-5)
        right = sum(max(range(CLASSES), key=lambda c: clip[c]) == labels[i] for clip in exponents) / len(clips)
        assert predictions.clip_correct[i].item() == pytest.approx(right)
    mean_logits = torch.stack([clips.mean(0) for clips in logits]).softmax(1)
    assert not torch.allclose(predictions.probabilities, mean_logits, atol=0.01)


def test_per_class_accuracy_and_confusion_equal_torchmetrics() -> None:
    predicted, labels = some_labels(80, 2), some_labels(80, 3)
    theirs = multiclass_accuracy(predicted, labels, CLASSES, average="none")
    torch.testing.assert_close(accuracy_per_class(predicted, labels, CLASSES), theirs)
    assert (
        confusion(predicted, labels, CLASSES).tolist()
        == multiclass_confusion_matrix(predicted, labels, CLASSES).tolist()
    )
    assert accuracy_per_class(predicted, labels, CLASSES + 1)[-1].isnan()  # a class with no video has no accuracy


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("centre", [False, True])
def test_recall_equals_a_loop_and_torchmetrics(k: int, centre: bool) -> None:
    queries, gallery, labels, theirs = random(30, 16), random(50, 16, seed=4), some_labels(30), some_labels(50, 5)
    similarity = cosine(queries, gallery, centre)
    q, g = (queries - queries.mean(0), gallery - gallery.mean(0)) if centre else (queries, gallery)
    hits = []
    for query, label in zip(q, labels.tolist(), strict=True):
        found = sorted(range(50), key=lambda i: -(query @ g[i] / query.norm() / g[i].norm()).item())[:k]
        hits.append(any(theirs[i].item() == label for i in found))
    assert recall_at(similarity, labels, theirs, k).tolist() == hits
    rates = [
        retrieval_hit_rate(row, theirs == label, top_k=k).item() for row, label in zip(similarity, labels, strict=True)
    ]
    assert [rate == 1 for rate in rates] == hits


def test_crafted_features_give_exactly_0_and_1() -> None:
    """Each query equals a gallery video, first of its own class, then of another."""
    gallery, labels = torch.eye(8), torch.arange(8) % 4
    assert recall_at(cosine(gallery, gallery), labels, labels, 1).float().mean() == 1
    assert recall_at(cosine(gallery, gallery), (labels + 1) % 4, labels, 1).float().mean() == 0
    assert recall_at(cosine(gallery, gallery), labels, labels, 99).all()


def test_knn_votes_equal_a_loop() -> None:
    queries, gallery, labels = random(20, 8), random(40, 8, seed=6), some_labels(40)
    similarity = cosine(queries, gallery)
    votes = knn_votes(similarity, labels, CLASSES, 9, 0.1)
    for row, vote in zip(similarity.tolist(), votes.tolist(), strict=True):
        slow = [0.0] * CLASSES
        for i in sorted(range(40), key=lambda i: -row[i])[:9]:
            slow[int(labels[i])] += 2.718281828459045 ** (row[i] / 0.1)
        assert vote == pytest.approx([v / sum(slow) for v in slow], abs=1e-5)
    one = knn_votes(similarity, labels, CLASSES, 1, 0.1).argmax(1)
    assert one.tolist() == labels[similarity.argmax(1)].tolist()


def test_k_beyond_the_gallery_takes_all_of_it() -> None:
    assert knn_votes(torch.ones(1, 3), torch.tensor([0, 0, 1]), 2, 20, 1.0)[0].tolist() == pytest.approx([2 / 3, 1 / 3])
