from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from paramcrop.plots import plot_crops, plot_figure5


def made_run(folder: Path, height: float) -> Path:
    folder.mkdir()
    lines = [{"step": s, "crop_distance": height * s, "crop_iou": 1 - s / 10} for s in range(1, 6)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def colours(path: Path) -> np.ndarray:
    return matplotlib.image.imread(path)[..., :3].reshape(-1, 3)


def test_figure5_draws_a_colour_per_label(tmp_path: Path) -> None:
    runs = {"a": [made_run(tmp_path / f"a{i}", 0.1 * (i + 1)) for i in range(3)], "b": [made_run(tmp_path / "b", 0.05)]}
    plot_figure5(runs, tmp_path / "one.png")
    pixels = colours(tmp_path / "one.png")
    for wanted in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)):  # C0 and C1
        assert (np.abs(pixels - np.array(wanted) / 255) < 0.02).all(1).any()


@pytest.mark.parametrize("clips", [1, 2])
def test_crops_are_drawn_on_the_frames_they_cover(tmp_path: Path, clips: int) -> None:
    (tmp_path / "crops").mkdir()
    boxes = np.tile(np.array([[0.1, 0.6], [0.1, 0.6], [0.0, 1.0]]), (4, 2, 1, 1))
    boxes[:, 1, 2] = [2.0, 3.0]  # the second view's crop lies beyond the clip: no green box
    for step in (0, 5):
        video, flip = np.zeros((4, clips, 8, 16, 16, 3), np.uint8), np.zeros((4, 2), bool)
        np.savez(tmp_path / "crops" / f"step={step:07d}.npz", video=video, flip=flip, boxes=boxes)
    plot_crops(tmp_path, tmp_path / "crops.png")
    pixels = colours(tmp_path / "crops.png")
    orange, green = ((np.abs(pixels - np.array(c) / 255) < 0.02).all(1).any() for c in ((255, 140, 0), (25, 163, 91)))
    assert orange and not green


def test_a_run_without_crops_draws_nothing(tmp_path: Path) -> None:
    plot_crops(tmp_path, tmp_path / "crops.png")
    assert not (tmp_path / "crops.png").exists()
