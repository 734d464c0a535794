"""A few rows -> the columns of a batch, in which no row is ever missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from paramcrop.data.clips import ClipSpec, Sample, cut_sample, draw_augmentation, generator
from paramcrop.errors import VideoError

Row = Mapping[str, Any]
Cut = Callable[[Row, ClipSpec, int, int, int], Sample]  # row, spec, seed, epoch, attempt
Following = Callable[[int, int], Iterable[Row]]  # epoch, position -> the rows that may stand in, in order


def cut_batch(
    rows: Sequence[Row],
    spec: ClipSpec,
    seed: int,
    following: Following = lambda epoch, position: (),
    cut: Cut = cut_sample,
) -> dict[str, Any]:
    """Cut a few rows (each with ``epoch`` and ``position``) -> columns, one entry per row, order kept.

    A row never vanishes: one that cannot be decoded is filled with the first of ``following`` that can, drawn anew, or
    with a black clip if none can; ``error`` says why (empty for a good row), ``substitute`` names the video shown
    (empty: none, or black), and ``label`` is that one's (-1: not known). How many are too many is the loop's to say.

    Args:
        cut: ``cut_sample``, or what does the same under a time limit. Its arrays are copied before it is called again.
    """
    columns: dict[str, Any] = {}
    errors, substitutes, labels = [], [], []
    for i, row in enumerate(rows):
        error, substitute, label = "", "", row["label"]
        try:
            sample = cut(row, spec, seed, row["epoch"], 0)
        except VideoError as failure:
            error = str(failure)
            sample, substitute, label = stand_in(row, spec, seed, following(row["epoch"], row["position"]), cut)
        columns = columns or {name: np.empty((len(rows), *v.shape), v.dtype) for name, v in sample.items()}
        for name, value in sample.items():
            columns[name][i] = value
        errors.append(error)
        substitutes.append(substitute)
        labels.append(label)
    texts = {"id": [row["id"] for row in rows], "error": errors, "substitute": substitutes}
    columns |= {name: np.array(values, dtype=object) for name, values in texts.items()}
    numbers = {name: [row[name] for row in rows] for name in ("epoch", "position")} | {"label": labels}
    return columns | {name: np.array(values, dtype=np.int64) for name, values in numbers.items()}


def stand_in(row: Row, spec: ClipSpec, seed: int, others: Iterable[Row], cut: Cut) -> tuple[Sample, str, int]:
    """What fills the slot of a row that cannot be decoded; the id and the label (-1: none) of the video it shows.

    Its draws depend on the slot alone, so that it is the same wherever it is made.
    """
    for other in others:
        try:
            return cut(other, spec, seed, row["epoch"], 1 + row["position"]), other["id"], other.get("label", -1)
        except VideoError:
            continue
    black = np.zeros((spec.clips, spec.frames, spec.size, spec.size, 3), np.uint8)
    whole = np.tile(np.array([0, 1], np.float32), (2, 3, 1))
    drawn = draw_augmentation(generator(seed, row["epoch"], row["id"]), spec)
    return {"video": black, "cube": whole, **drawn}, "", -1
