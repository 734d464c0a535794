"""A page to look at features: every clip with its nearest neighbours, and a 2-D map. One file, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from paramcrop.export.features import Features
from paramcrop.export.plane import plane
from paramcrop.export.search import plain_search
from paramcrop.report.page import templates
from paramcrop.storage.files import atomic_write

MOST = 1000  # clips on a page: a map of more takes minutes
SHOWN = 8  # neighbours of a clip


def write_gallery(features: Features, out: Path) -> Path:
    """Write the page of at least one clip; of more than ``MOST``, evenly chosen ones.

    Raises:
        OSError: ``out`` is not writable.
    """
    text = templates().get_template("gallery.html.j2").render(page=facts(features))
    with atomic_write(out) as part:
        part.write_text(text, encoding="utf-8")
    return out


def facts(features: Features) -> dict[str, Any]:
    """What the template shows."""
    n = len(features.path)
    rows = np.unique(np.linspace(0, n - 1, min(n, MOST)).round().astype(int))
    vectors, paths = features.vectors[rows], [features.path[row] for row in rows]
    groups = [PurePosixPath(path).parts[0] if "/" in path else "" for path in paths]
    names = sorted(set(groups))
    places = plane(vectors)
    every, others = neighbours(vectors, paths)
    clips = [
        {
            "path": paths[i],
            "start": round(float(features.start[row]), 2),
            "end": round(float(features.end[row]), 2),
            "group": names.index(groups[i]),
            "x": round(float(places[i, 0]), 4),
            "y": round(float(places[i, 1]), 4),
            "picture": base64.b64encode(features.pictures[row]).decode(),
            "every": every[i],
            "others": others[i],
        }
        for i, row in enumerate(rows)
    ]
    about = features.about
    return {
        "title": features.file.name,
        "clips": clips,
        "all": n,
        "videos": len(about["sizes"]) - len(about["failed"]),
        "groups": names if len(names) > 1 else [],
        "failed": about["failed"],
        "encoder": about["encoder"],
        "folder": about["videos"],
        "data": script(clips),
    }


def neighbours(vectors: np.ndarray, paths: list[str]) -> tuple[list[list[list[float]]], list[list[list[float]]]]:
    """[row, cosine] of the nearest of each clip: among all others, and the best one of each other video."""
    cosines, rows = plain_search(vectors)(vectors, len(vectors))
    every, others = list[list[list[float]]](), list[list[list[float]]]()
    for i, (near, values) in enumerate(zip(rows.tolist(), cosines.tolist(), strict=True)):
        pairs = [[row, round(value, 3)] for row, value in zip(near, values, strict=True) if row != i]
        best = dict[str, list[float]]()
        for pair in pairs:
            best.setdefault(paths[int(pair[0])], pair)
        every.append(pairs[:SHOWN])
        others.append([pair for path, pair in best.items() if path != paths[i]][:SHOWN])
    return every, others


def script(clips: Sequence[Mapping[str, Any]]) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(clips, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")
