"""Parts of a labelled set that hold the same share of each class: seeded, nested, the same everywhere."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence


def ranked_by_class(ids: Sequence[str], labels: Sequence[int], seed: int) -> list[float]:
    """Each video's place among its class, in [0, 1): below a share lie that share of every class, rounded up.

    The order is by a hash of (seed, id), so a smaller share is part of a larger one.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        members[label].append(i)
    rank = [0.0] * len(ids)
    for rows in members.values():
        rows.sort(key=lambda i: hashlib.sha256(f"{seed}/{ids[i]}".encode()).digest())
        for place, i in enumerate(rows):
            rank[i] = place / len(rows)
    return rank


def labelled_share(ids: Sequence[str], labels: Sequence[int], share: float, seed: int) -> set[str]:
    """The ids of ``share`` of each class's videos, at least one of each."""
    rank = ranked_by_class(ids, labels, seed)
    return {video for video, place in zip(ids, rank, strict=True) if place < share}
