"""A folder of videos to prepare."""

from __future__ import annotations

import numpy as np
import pytest

from paramcrop.data.synthetic import render
from paramcrop.data.video import encode


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Seven files in two classes, three of them in split "test"; one of the others is not a video."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(7):
        path = root / ("test" if i > 3 else "train") / ("up" if i % 2 else "down") / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = render("up" if i % 2 else "down", 20, 32, 40, np.random.default_rng(i))
        path.write_bytes(encode(frames, 10.0).data)
    (root / "train" / "up" / "1.mp4").write_text("no video")
    return str(root)
