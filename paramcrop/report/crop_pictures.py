"""Crops drawn on frames: a grid, and a short film as MP4 or, small enough for a page, as WebP.

The crops of several runs are drawn on the clips that the first run saved. A crop depends only on noise, so it can be
drawn on any clip; runs with the same seed, data and noise got the same clips and noise anyway. Where R_1 and R_2 were
on in only one of two runs, their clips differ, and each is drawn on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from paramcrop.data.video import encode
from paramcrop.errors import DataError
from paramcrop.report.plots import VIEW_COLORS, as_spelt
from paramcrop.report.snapshots import Snapshot, read_snapshots

SHOWN_FRAMES = 6
TILE = 1.6  # size of a frame in the grid, inches
SIDE, HEAD, LINE, GAP, MARGIN = 2.0, 0.2, 0.18, 0.08, 0.6  # layout of a tile in the film, inches
FPS = 12.0
DPI = 110
TILE_PIXELS, BAR, HEADER, MOST_FRAMES = 160, 5, 14, 24  # of the WebP


class Scene(NamedTuple):
    """A clip with the boxes of one run at one step: a row of the grid, or a tile of the film."""

    label: str
    step: int
    clip: np.ndarray  # uint8 (T, H, W, 3)
    boxes: list[tuple[int, np.ndarray]]  # (view, (3, 2)) in the coordinates of ``clip``

    def drawn(self, t: int) -> list[tuple[int, np.ndarray]]:
        """The boxes of the crops that cover frame t in time."""
        place = (t + 0.5) / len(self.clip)
        return [(view, box) for view, box in self.boxes if box[2, 0] <= place <= box[2, 1]]


def scenes(runs: Mapping[str, Path], video: int = 0) -> list[Scene]:
    """Every run at start, middle and end, on clip number ``video`` of the first run.

    If each view has its own clip, each view is a scene, mirrored as it was when the crop was taken.

    Raises:
        DataError: a run has no saved crops, or the first run has fewer clips.
    """
    kept = {label: read_snapshots(folder) for label, folder in runs.items()}
    first = next(iter(kept.values()))[0]
    if not 0 <= video < len(first.video):
        raise DataError(f"the number of a saved clip must be 0 to {len(first.video) - 1}, but is {video}")
    return [
        _scene(label, snapshot, shown, video, views)
        for label, snapshots in kept.items()
        for shown in [_shown(first, snapshots[0])]
        for snapshot in snapshots
        for views in (((0, 1),) if shown.video.shape[1] == 1 else ((0,), (1,)))
    ]


def _shown(first: Snapshot, own: Snapshot) -> Snapshot:
    """The snapshot whose clips show the crops of a run: that of the first run, or the run's own (see above)."""
    (videos, views, *size), (own_videos, own_views, *own_size) = first.video.shape, own.video.shape
    return own if (own_videos, own_size) == (videos, size) and own_views != views else first


def _scene(label: str, snapshot: Snapshot, shown_on: Snapshot, video: int, views: tuple[int, ...]) -> Scene:
    clip, flip, boxes = shown_on.video[video, views[0]], shown_on.flip[video], snapshot.boxes[video]
    name = label + (", before rotation" if snapshot.rotated else "")
    if len(views) == 1:
        (view,) = views
        shown = clip[:, :, ::-1] if flip[view] else clip
        return Scene(f"{name}, view {view + 1}", snapshot.step, shown, [(view, boxes[view])])
    # Both views share a clip but may be mirrored differently, so boxes are mapped back to the stored clip.
    return Scene(
        name, snapshot.step, clip, [(view, _mirror(boxes[view]) if flip[view] else boxes[view]) for view in views]
    )


def _mirror(box: np.ndarray) -> np.ndarray:
    return np.stack([1 - box[0, ::-1], box[1], box[2]])


@as_spelt()
def plot_crops(runs: Mapping[str, Path], out: Path, videos: Sequence[int] = (0,)) -> None:
    """Draw frames over time (columns) with the boxes of both crops; one row per clip, run and step.

    A box is drawn on the frames that its crop covers.

    Raises:
        DataError: see ``scenes``.
    """
    rows = [scene for video in videos for scene in scenes(runs, video)]
    shown = np.linspace(0, len(rows[0].clip) - 1, SHOWN_FRAMES).round().astype(int)
    size = (TILE * (SHOWN_FRAMES + 0.6), TILE * len(rows) * _aspect(rows[0]) + 0.5)
    figure, grid = plt.subplots(len(rows), SHOWN_FRAMES, figsize=size, squeeze=False, layout="constrained")
    for line, scene in zip(grid, rows, strict=True):
        for axes, t in zip(line, shown, strict=True):
            _show(axes, scene, t)
        line[0].set_ylabel(f"{scene.label}\nstep {scene.step}".replace(", ", "\n"), fontsize=7)
    for axes, t in zip(grid[0], shown, strict=True):
        axes.set_title(f"frame {t}", fontsize=8)
    figure.suptitle("crop of view 1 (orange) and of view 2 (green)", fontsize=9)
    figure.savefig(out, dpi=DPI)
    plt.close(figure)


@as_spelt()
def film_crops(runs: Mapping[str, Path], out: Path, video: int = 0) -> None:
    """The same as a film (MP4): a tile per run (rows) and step (columns), with the crops' spans in time below it.

    Raises:
        DataError: see ``scenes``.
    """
    all_scenes = scenes(runs, video)
    rows = [[s for s in all_scenes if s.label == label] for label in dict.fromkeys(s.label for s in all_scenes)]
    height = _aspect(all_scenes[0]) * SIDE + HEAD + LINE
    size = (MARGIN + max(map(len, rows)) * (SIDE + GAP), HEAD + len(rows) * (height + GAP))
    figure = plt.figure(figsize=size)
    corners = [
        (MARGIN + j * (SIDE + GAP), i * (height + GAP) + GAP) for i in range(len(rows)) for j in range(len(rows[i]))
    ]
    films = [
        _Tile(figure, corner, scene)
        for corner, scene in zip(corners, [s for row in reversed(rows) for s in row], strict=True)
    ]
    figure.suptitle("view 1 orange, view 2 green; bars: the span of each in time", fontsize=7, y=1 - 0.05 / size[1])
    canvas = FigureCanvasAgg(figure)
    frames = [_render(canvas, films, t) for t in range(len(all_scenes[0].clip))]
    out.write_bytes(encode(np.stack(frames), FPS).data)
    plt.close(figure)


class _Tile:
    """One scene of the film at ``corner`` (inches from the lower left), with a time line below it."""

    def __init__(self, figure: Figure, corner: tuple[float, float], scene: Scene) -> None:
        (width, height), (x, y), side = figure.get_size_inches(), corner, _aspect(scene) * SIDE
        self.axes = figure.add_axes((x / width, (y + LINE) / height, SIDE / width, side / height))
        line = figure.add_axes((x / width, y / height, SIDE / width, 0.8 * LINE / height))
        self.scene = scene
        self.axes.set_title(f"step {scene.step}", fontsize=7, pad=2)
        if x == MARGIN:
            self.axes.set_ylabel(scene.label.replace(", ", "\n"), fontsize=7)
        line.set(xlim=(0, 1), ylim=(0, 2), xticks=[], yticks=[])
        for view, box in scene.boxes:
            line.barh(1.5 - view, box[2, 1] - box[2, 0], 0.8, box[2, 0], color=VIEW_COLORS[view])
        self.now = line.axvline(0, color="black", lw=1.5)

    def show(self, t: int) -> None:
        for old in [*self.axes.images, *self.axes.patches]:
            old.remove()
        _show(self.axes, self.scene, t)
        self.now.set_xdata([(t + 0.5) / len(self.scene.clip)] * 2)


def _render(canvas: FigureCanvasAgg, films: list[_Tile], t: int) -> np.ndarray:
    for film in films:
        film.show(t)
    canvas.draw()
    pixels: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3]
    height, width = (side // 2 * 2 for side in pixels.shape[:2])  # H.264 needs even sides
    return np.array(pixels[:height, :width])  # a copy, because the canvas is reused


def _show(axes: Axes, scene: Scene, t: int) -> None:
    """Draw frame t with the boxes that cover it."""
    height, width = scene.clip.shape[1:3]
    axes.imshow(scene.clip[t])
    axes.set(xticks=[], yticks=[])
    for view, ((x0, x1), (y0, y1), _) in scene.drawn(t):
        corner, size = (x0 * width - 0.5, y0 * height - 0.5), ((x1 - x0) * width, (y1 - y0) * height)
        axes.add_patch(Rectangle(corner, *size, fill=False, ec=VIEW_COLORS[view], lw=2, clip_on=False))


def _aspect(scene: Scene) -> float:
    _, height, width, _ = scene.clip.shape
    return float(height / width)


def animate_crops(run: Path, video: int = 0) -> bytes:
    """A small film (animated WebP) of one run: a tile per step (columns), and per view if each has its own clip (rows).

    Raises:
        DataError: see ``scenes``.
    """
    found = scenes({"": run}, video)
    rows = [[s for s in found if s.label == label] for label in dict.fromkeys(s.label for s in found)]
    length = len(found[0].clip)
    shown = np.linspace(0, length - 1, min(length, MOST_FRAMES)).round().astype(int)
    frames = [_still(rows, int(t)) for t in shown]
    film, pace = BytesIO(), round(1000 / FPS * length / len(shown))
    frames[0].save(film, "WEBP", save_all=True, append_images=frames[1:], duration=pace, loop=0, quality=70)
    return film.getvalue()


def _still(rows: Sequence[Sequence[Scene]], t: int) -> Image.Image:
    """All tiles at frame t, with the steps above them."""
    tiles = [[_tile(scene, t) for scene in row] for row in rows]
    width, height = (side + 4 for side in tiles[0][0].size)
    image = Image.new("RGB", (width * len(tiles[0]), HEADER + height * len(tiles)), "white")
    for j, scene in enumerate(rows[0]):
        ImageDraw.Draw(image).text((j * width + 2, 1), f"step {scene.step}", fill="black")
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            image.paste(tile, (j * width, HEADER + i * height))
    return image


def _tile(scene: Scene, t: int) -> Image.Image:
    """Frame t with the boxes that cover it, and below it the span of each in time with a mark at t."""
    height, width = scene.clip.shape[1:3]
    zoom = max(1, TILE_PIXELS // width)
    tile = Image.new("RGB", (width * zoom, height * zoom + 2 * BAR + 3), "white")
    tile.paste(Image.fromarray(scene.clip[t]).resize((width * zoom, height * zoom), Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(tile)
    across, down = width * zoom - 1, height * zoom - 1
    for view, ((x0, x1), (y0, y1), _) in scene.drawn(t):
        draw.rectangle((x0 * across, y0 * down, x1 * across, y1 * down), outline=VIEW_COLORS[view], width=2)
    for view, box in scene.boxes:
        top = height * zoom + 1 + view * (BAR + 1)
        draw.rectangle((box[2, 0] * across, top, box[2, 1] * across, top + BAR - 1), fill=VIEW_COLORS[view])
    now = (t + 0.5) / len(scene.clip) * across
    draw.line((now, height * zoom, now, height * zoom + 2 * BAR + 2), fill="black", width=2)
    return tile
