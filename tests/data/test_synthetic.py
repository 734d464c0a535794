from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from paramcrop.data.manifest import FORMAT, read_manifest
from paramcrop.data.shards import check_shards
from paramcrop.data.synthetic import CLASSES, PATTERNS, cached_dataset, motion, render, videos

HASH = """
import hashlib
from paramcrop.data.synthetic import videos
print(hashlib.sha256(b"".join(v.video for v in videos(16, 20, 32, 32))).hexdigest())
"""


def test_at_least_eight_classes_evenly_spread() -> None:
    assert len(CLASSES) >= 8
    labels = Counter(v.label for v in videos(20, 4, 16, 16))
    assert set(labels) == set(range(len(CLASSES)))
    assert max(labels.values()) - min(labels.values()) <= 1


def test_videos_are_equal_in_another_process() -> None:
    there = subprocess.run([sys.executable, "-c", HASH], capture_output=True, text=True, check=True).stdout.strip()
    assert there == hashlib.sha256(b"".join(v.video for v in videos(16, 20, 32, 32))).hexdigest()


def test_colour_does_not_depend_on_the_class() -> None:
    """A nearest-centroid classifier of the mean colour of a video stays near chance."""
    pixels = [
        (label, render(CLASSES[label], 6, 24, 24, np.random.default_rng([7, i, label])))
        for i in range(40)
        for label in range(8)
    ]
    features = np.stack([video.mean((0, 1, 2)) for _, video in pixels])
    labels = np.array([label for label, _ in pixels])
    train = np.arange(len(labels)) < len(labels) // 2
    centroids = np.stack([features[train & (labels == c)].mean(0) for c in range(8)])
    guess = np.linalg.norm(features[~train, None] - centroids, axis=2).argmin(1)
    assert (guess == labels[~train]).mean() < 0.3  # 1/8 by chance


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_moves(name: str) -> None:
    track = motion(name, np.linspace(0, 1, 30), np.random.default_rng(0))
    assert max(np.ptp(track.x), np.ptp(track.y), np.ptp(track.radius)) > 0.1


def test_an_unknown_motion_is_an_error() -> None:
    with pytest.raises(ValueError, match="the motion must be one of"):
        motion("fly", np.zeros(3), np.random.default_rng(0))


def test_cached_dataset_is_made_once(tmp_path: Path) -> None:
    folder = cached_dataset(tmp_path, clip_frames=4, clip_size=16, count=6)
    before = (Path(folder) / "manifest.json").stat().st_mtime_ns
    assert cached_dataset(tmp_path, 4, 16, 6) == folder
    assert (Path(folder) / "manifest.json").stat().st_mtime_ns == before
    assert read_manifest(folder).videos == 6
    assert f"-f{FORMAT.rpartition('/')[2]}-" in Path(folder).name  # a dataset of an older format is not reused
    assert check_shards(folder) == []
    assert [p.name for p in tmp_path.iterdir()] == [Path(folder).name]  # no temporary folder is left


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_a_motion_and_a_pattern(name: str) -> None:
    """The pattern's lines: how much the mean of each column and of each row varies."""
    frame = render(name, 40, 48, 48, np.random.default_rng(3)).mean((0, 3))
    columns, rows = frame.mean(0).std(), frame.mean(1).std()
    kind = PATTERNS[CLASSES.index(name) % len(PATTERNS)]
    assert (columns > 2 * rows) == (kind == "columns") and (rows > 2 * columns) == (kind == "rows")
