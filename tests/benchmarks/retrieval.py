"""Retrieval over the features of 13,000 videos, and feature extraction compared with the backbone alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from paramcrop.evaluation.features import Forward, Normalise, _outputs
from paramcrop.evaluation.metrics import cosine, knn_votes, recall_at
from paramcrop.models.r2d3d import R2D3D
from tests.benchmarks.timing import Line, Report, peak_bytes, take_turns

QUERIES, GALLERY, SIZE, CLASSES = 3783, 9537, 1024, 101  # UCF101's first split, S3D-G's features


def run(device: str) -> Report:
    torch.manual_seed(0)
    queries, gallery = torch.randn(QUERIES, SIZE), torch.randn(GALLERY, SIZE)
    labels, known = torch.randint(CLASSES, (QUERIES,)), torch.randint(CLASSES, (GALLERY,))

    def retrieve() -> Any:
        similarity = cosine(queries, gallery)
        return [recall_at(similarity, labels, known, k) for k in (1, 5, 10, 20, 50)]

    def vote() -> Any:
        return knn_votes(cosine(queries, gallery), known, CLASSES, 20, 0.07)

    clips = np.zeros((10, 16, 112, 112, 3), np.uint8)
    network = R2D3D(depth=18).eval().to(device)
    normalise, place = Normalise(0.45, 0.225), torch.device(device)
    ready = torch.zeros(10, 3, 16, 112, 112, device=device)

    def extract() -> Any:
        return _outputs(network, torch.from_numpy(clips), Forward(normalise, place, torch.float32))

    with torch.no_grad():
        seconds = take_turns({"recall": retrieve, "votes": vote}, 3)
        clip = take_turns({"features": extract, "alone": lambda: network(ready)}, 3, device)
    size = QUERIES * GALLERY * 4
    lines = [
        Line("R@1 to R@50, 3,783 x 9,537 (limit 2 s)", seconds["recall"], {"MB": peak_bytes(retrieve) / 1e6}),
        Line("k-NN votes, the same", seconds["votes"], {"MB": peak_bytes(vote) / 1e6}),
        Line(
            "features of 10 clips, R-2D3D-18",
            clip["features"],
            {"of the backbone's own speed": clip["alone"] / clip["features"]},
        ),
        Line("the backbone alone on ready tensors", clip["alone"], {}),
    ]
    notes = [f"the similarity matrix has {size / 1e6:.0f} MB; target: features at 0.9 of the backbone's own speed"]
    return Report("retrieval and features, seconds", "s", lines, notes)
