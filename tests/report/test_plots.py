from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest

from paramcrop.data.video import VideoReader
from paramcrop.errors import DataError
from paramcrop.report.crop_pictures import film_crops, plot_crops, scenes
from paramcrop.report.pictures import draw_confusion, draw_per_class
from paramcrop.report.plots import add_legend, as_spelt, plot_figure5, plot_parameters
from paramcrop.report.snapshots import read_snapshots

ORANGE, GREEN = (255, 140, 0), (25, 163, 91)


def made_run(folder: Path, height: float, steps: tuple[int, ...] = (1, 2, 3, 4, 5)) -> Path:
    folder.mkdir()
    lines = [{"step": s, "crop_distance": height * s, "crop_iou": 1 - s / 10} for s in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def made_crops(
    folder: Path, clips: int = 1, box: tuple[float, float] = (0.1, 0.6), flip: bool = False, theta: float = 0.0
) -> Path:
    """The box of view 1 is at ``box`` in x and y at all times; that of view 2 is outside the clip."""
    (folder / "crops").mkdir(parents=True)
    boxes = np.tile(np.array([box, box, [0.0, 1.0]]), (4, 2, 1, 1))
    boxes[:, 1, 2] = [2.0, 3.0]
    arrays: dict[str, Any] = {
        "id": np.array(["a", "b", "c", "d"]),
        "video": np.zeros((4, clips, 8, 16, 16, 3), np.uint8),
        "flip": np.full((4, 2), flip),
        "boxes": boxes,
        "params": np.tile(np.array([0.5, 0.5, theta, 0.1, -0.1, 0.0], np.float32), (64, 2, 1)),
    }
    for step in (0, 5):
        np.savez(folder / "crops" / f"step={step:07d}.npz", **arrays)
    return folder


def has(path: Path, colour: tuple[int, ...]) -> bool:
    pixels = matplotlib.image.imread(path)[..., :3].reshape(-1, 3)
    return bool((np.abs(pixels - np.array(colour) / 255) < 0.02).all(1).any())


def curves(runs: Mapping[str, Sequence[Path]], monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[float, ...]]]:
    """Figure 5's curves: label -> points (step, value)."""
    monkeypatch.setattr(plt, "close", lambda *_: None)
    plot_figure5(runs, runs[next(iter(runs))][0] / "figure5.png")
    lines = [line for axes in plt.gcf().get_axes() for line in axes.get_lines()]
    monkeypatch.undo()
    plt.close("all")
    points = {str(line.get_label()): np.asarray(line.get_xydata()).round(6).tolist() for line in lines}
    return {label: [tuple(point) for point in of] for label, of in points.items()}


def test_figure5_draws_the_mean_of_each_labels_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"a": [made_run(tmp_path / f"a{i}", 0.1 * (i + 1)) for i in range(3)], "b": [made_run(tmp_path / "b", 0.05)]}
    found = curves(runs, monkeypatch)
    assert found["a: centre distance"] == [(s, round(0.2 * s, 6)) for s in (1, 2, 3, 4, 5)]
    assert found["b: centre distance"] == [(s, round(0.05 * s, 6)) for s in (1, 2, 3, 4, 5)]
    assert found["a: IoU"] == found["b: IoU"] == [(s, 1 - s / 10) for s in (1, 2, 3, 4, 5)]


def test_figure5_draws_a_colour_per_label(tmp_path: Path) -> None:
    runs = {"a": [made_run(tmp_path / f"a{i}", 0.1 * (i + 1)) for i in range(3)], "b": [made_run(tmp_path / "b", 0.05)]}
    plot_figure5(runs, tmp_path / "one.png")
    assert has(tmp_path / "one.png", (0x1F, 0x77, 0xB4)) and has(tmp_path / "one.png", (0xFF, 0x7F, 0x0E))  # C0, C1


def test_figure5_of_many_labels_has_two_panels(tmp_path: Path) -> None:
    runs = {name: [made_run(tmp_path / name, 0.1)] for name in "abcd"}
    plot_figure5(runs, tmp_path / "many.png")
    plot_figure5({"a": runs["a"]}, tmp_path / "one.png")
    many, one = (matplotlib.image.imread(tmp_path / f"{name}.png").shape for name in ("many", "one"))
    assert many[1] / many[0] > 1.4 * one[1] / one[0]


def test_seeds_are_drawn_at_the_steps_that_all_of_them_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"a": [made_run(tmp_path / "a0", 0.1), made_run(tmp_path / "a1", 0.2, steps=(1, 3, 5, 7))]}
    found = curves(runs, monkeypatch)["a: centre distance"]
    assert found == [(1, 0.15), (3, 0.45), (5, 0.75)]


@pytest.mark.parametrize("clips", [1, 2])
def test_crops_are_drawn_on_the_frames_they_cover(tmp_path: Path, clips: int) -> None:
    plot_crops({"run": made_crops(tmp_path, clips)}, tmp_path / "crops.png", videos=(0, 1))
    assert has(tmp_path / "crops.png", ORANGE) and not has(tmp_path / "crops.png", GREEN)


def test_boxes_of_every_run_are_drawn_on_the_clips_of_the_first(tmp_path: Path) -> None:
    made_crops(tmp_path / "one", box=(0.1, 0.6))
    made_crops(tmp_path / "two", box=(0.3, 0.9), theta=0.2)
    np.savez(tmp_path / "one" / "crops" / "torn.npz")  # not a snapshot
    (tmp_path / "one" / "crops" / "step=0000009.npz").write_bytes(b"still being written")
    drawn = scenes({"one": tmp_path / "one", "two": tmp_path / "two"}, video=2)
    assert [(scene.label, scene.step) for scene in drawn] == [
        ("one", 1),
        ("one", 6),
        ("two, before rotation", 1),
        ("two, before rotation", 6),
    ]
    assert [scene.boxes[0][1][0].tolist() for scene in drawn[1:3]] == [[0.1, 0.6], [0.3, 0.9]]
    assert [view for view, _ in drawn[0].drawn(3)] == [0]


def test_a_run_with_other_clips_than_the_first_is_drawn_on_its_own(tmp_path: Path) -> None:
    """The random row of the paper's tables has R1 and R2 on with the demo, the others do not."""
    runs = {"random": made_crops(tmp_path / "random", 2), "ParamCrop": made_crops(tmp_path / "ParamCrop", 1)}
    drawn = [(scene.label, len(scene.boxes)) for scene in scenes(runs) if scene.step == 1]
    assert drawn == [("random, view 1", 1), ("random, view 2", 1), ("ParamCrop", 2)]


@pytest.mark.parametrize(("clips", "shown"), [(1, [0.4, 0.9]), (2, [0.1, 0.6])])
def test_a_mirrored_view_is_drawn_at_its_place(tmp_path: Path, clips: int, shown: list[float]) -> None:
    """If both views share a clip, the box is mirrored back; otherwise the clip of the view is mirrored."""
    made_crops(tmp_path, clips, flip=True)
    file = tmp_path / "crops" / "step=0000000.npz"
    arrays = dict(np.load(file))
    arrays["video"][:, :, :, :, 0] = 255  # a white left edge
    np.savez(file, **arrays)
    scene = scenes({"run": tmp_path})[0]
    assert scene.boxes[0][1][0].tolist() == pytest.approx(shown)
    assert scene.clip[0, 0, 0 if clips == 1 else -1].tolist() == [255] * 3


def test_the_film_shows_the_boxes_frame_by_frame(tmp_path: Path) -> None:
    runs = {name: made_crops(tmp_path / name) for name in ("one", "two")}
    film_crops(runs, tmp_path / "crops.mp4")
    film = VideoReader((tmp_path / "crops.mp4").read_bytes())
    assert film.frames == 8
    frames = film.read(np.arange(8)).astype(int)
    orange = (np.abs(frames - np.array(ORANGE)).max(-1) < 60).sum((1, 2))
    assert (orange > 100).all()
    assert np.abs(frames[1:] - frames[:-1]).max((1, 2, 3)).min() > 60  # the time line moves


def test_histograms_show_both_views(tmp_path: Path) -> None:
    made_crops(tmp_path, theta=0.3)
    file = tmp_path / "crops" / "step=0000000.npz"
    arrays = dict(np.load(file))
    arrays["params"][:, 1] += 0.2
    np.savez(file, **arrays)
    plot_parameters(tmp_path, tmp_path / "parameters.png")
    for colour in (ORANGE, GREEN):  # on white with opacity 0.6
        assert has(tmp_path / "parameters.png", tuple(round(255 - 0.6 * (255 - c)) for c in colour))
    assert [snapshot.step for snapshot in read_snapshots(tmp_path)] == [1, 6]


def test_a_run_without_crops_and_a_missing_clip_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there are no saved crops in "):
        plot_crops({"run": tmp_path}, tmp_path / "crops.png")
    made_crops(tmp_path)
    with pytest.raises(DataError, match="must be 0 to 3, but is 4"):
        film_crops({"run": tmp_path}, tmp_path / "crops.mp4", video=4)


@pytest.mark.parametrize("name", [r"a$\frac$", "b$^$", "$x_1$", "50 $", r"c\$"])
def test_names_are_drawn_as_they_are_spelt(tmp_path: Path, name: str) -> None:
    """A "$" would start a formula: another text, or a traceback where it is none."""
    counts = np.array([[2, 1], [0, 3]])
    draw_confusion(counts, [name, "other"], tmp_path / "confusion.png")
    draw_per_class(counts, [name, "other"], tmp_path / "classes.png")
    with as_spelt():
        figure, axes = plt.subplots()
        text = axes.set_title(name)
        figure.canvas.draw()
        assert not text.get_parse_math() and text.get_text() == name
        plt.close(figure)
    assert plt.rcParams["text.parse_math"]  # in the pictures of others it stays as it was


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("label", ["short", "policy=paramcrop, " * 4, "W" * 30 + "=0.1, cropper.lower=0.2"])
def test_legends_are_inside_the_picture(count: int, label: str) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    lines = [axes.plot([0, 1], [0, i])[0] for i in range(count)]
    legend = add_legend(figure, lines, [f"{label} {i}: centre distance" for i in range(count)], most=2)
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    plt.close(figure)
