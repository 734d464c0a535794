"""Figures and pages of several runs: `paramcrop figures RUN [RUN ...] [--out DIR]`. Needs no Ray.

Runs that differ only in their seed are drawn as mean and range. RUN is a run's folder, or its name below runs/.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console, Group

from paramcrop.cli import run
from paramcrop.errors import ConfigError, DataError
from paramcrop.storage.find import label_runs
from paramcrop.storage.runs import home, read_metrics
from ray_jobs.options import EXIT_CODES, Parser
from ray_jobs.terminal import make_table


def main(argv: Sequence[str]) -> None:
    console = Console(soft_wrap=True)
    parser = Parser("paramcrop figures", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its name below runs/")
    parser.add_argument("--out", default="figures", metavar="DIR", help="folder for the figures (default: figures)")
    parser.add_argument("--video", type=int, default=0, help="which of the kept clips to draw on (default: 0)")
    parser.add_argument("--dry-run", action="store_true", help="print the runs to draw, then exit")
    arguments = parser.parse_args(argv)
    labels = label_runs(list(dict.fromkeys(find_run(run) for run in arguments.runs)))  # each once
    console.print(summary(labels), soft_wrap=False)
    if not arguments.dry_run:
        for path in draw(labels, make_folder(arguments), arguments.video):
            console.print(f"  {path}", highlight=False)


def find_run(name: str) -> Path:
    """The folder of a run.

    Raises:
        DataError: there is no such run, or it has no metrics yet.
    """
    places = [Path(name).expanduser().resolve(), home() / "runs" / name]
    for place in places:
        if read_metrics(place):
            return place
    raise DataError(f"RUN must be the folder of a run with metrics, but neither {places[0]} nor {places[1]} is one")


def make_folder(arguments: argparse.Namespace) -> Path:
    out = Path(arguments.out).expanduser().resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out must be a writable folder: {out}: {error.strerror}") from None
    return out


def draw(labels: Mapping[str, Sequence[Path]], out: Path, video: int) -> list[Path]:
    """Draw all figures -> their files."""
    from paramcrop.report.crop_pictures import film_crops, plot_crops
    from paramcrop.report.plots import plot_figure5, plot_parameters
    from paramcrop.report.run_page import write_page

    first = {label: folders[0] for label, folders in labels.items()}
    plot_figure5(labels, out / "figure5.png")
    plot_crops(first, out / "crops.png", (video,))
    film_crops(first, out / "crops.mp4", video)
    names = {label: re.sub(r"[^\w.=-]+", "_", label) for label in first}
    histograms = {out / f"crop_parameters-{names[label]}.png": run for label, run in first.items()}
    for path, folder in histograms.items():
        plot_parameters(folder, path)
    pages = [write_page(run, out / f"{run.name}.html") for folders in labels.values() for run in folders]
    return [*(out / name for name in ("figure5.png", "crops.png", "crops.mp4")), *histograms, *pages]


def summary(labels: Mapping[str, Sequence[Path]]) -> Group:
    """A table of centre distance, IoU and loss at start, middle and end, as means over seeds."""
    lines = [["", "centre distance", "IoU", "loss"]]
    for label, folders in labels.items():
        metrics = [read_metrics(folder) for folder in folders]
        rows = [[run[0], run[len(run) // 2], run[-1]] for run in metrics]
        figures = [
            " ".join(f"{np.mean([row[i][name] for row in rows]):.2f}" for i in range(3))
            for name in ("crop_distance", "crop_iou", "loss")
        ]
        lines.append([label + (f" ({len(folders)} seeds)" if len(folders) > 1 else ""), *figures])
    return make_table("at start, middle and end", lines)


if __name__ == "__main__":
    run("figures")
