"""Time and memory per video, worker or trial as their number doubles: constant or falling means linear or better."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from paramcrop.data.manifest import Manifest, Shard
from paramcrop.data.order import epoch_segments, place_of
from paramcrop.storage.runs import home
from paramcrop.sweeps.record import TrialRecord, read_records, write_record
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.pretrain import train_step
from paramcrop.training.two_views import build_model
from tests.benchmarks.scale import CORES, GLOBAL_BATCH, rates
from tests.benchmarks.timing import Line, Report, peak_bytes, take_turns
from tests.memory import made_clips, memory_batches, tiny_config

MEMORY = "bytes each"


def by_batch() -> list[Line]:
    lines = []
    for batch in (8, 16, 32, 64, 128):
        config = tiny_config(f"train.global_batch={batch}")
        model = build_model(config, torch.device("cpu"))
        optimizer = build_optimizer(config, model.policy, model.method)
        clips = made_clips(batch, config.data.clip_frames, config.data.clip_size)
        one = next(memory_batches(clips, build_clip_spec(config), 0, batch)(0))
        way = partial(train_step, model, one, optimizer, 0.0)
        seconds = take_turns({"step": way}, 5)["step"]
        lines.append(
            Line(f"{batch} videos a step: of a video", 1e6 * seconds / batch, {MEMORY: peak_bytes(way) / batch})
        )
    return lines


def by_workers() -> list[Line]:
    """Core time per video of a fixed global batch; workers beyond this machine's cores share them."""
    lines = []
    for workers in (1, 2, 4):
        found = rates(workers)
        core_seconds = found["step"] * min(workers, CORES)
        more = {MEMORY: workers * found["memory"] / GLOBAL_BATCH}
        lines.append(Line(f"{workers} workers: a core's, of a video", 1e6 * core_seconds / GLOBAL_BATCH, more))
    return lines


def by_videos() -> list[Line]:
    lines = []
    for videos in (4096, 16384, 65536, 262144):
        groups = (64,) * 4
        shards = tuple(Shard(f"shard-{i:05d}.parquet", 0, "", groups) for i in range(videos // 256))
        manifest = Manifest("id", (), shards)
        way = partial(epoch_segments, manifest, 0, 1, videos)
        order = take_turns({"order": way}, 3)["order"]
        place = take_turns({"place": partial(place_of, manifest, 0, 1, videos, videos // 2)}, 3)["place"]
        more = {MEMORY: allocated(way) / videos, "s to find one row": place}
        lines.append(Line(f"{videos} videos: to order an epoch, of a video", 1e6 * order / videos, more))
    return lines


def by_trials() -> list[Line]:
    lines = []
    for trials in (32, 64, 128, 256):
        with tempfile.TemporaryDirectory() as folder:
            for i in range(trials):
                write_record(Path(folder), TrialRecord(f"{i:010x}", f"{i}", {"a": i}, "wanted", started=time.time()))
            way = partial(read_records, Path(folder))
            seconds = take_turns({"read": way}, 5)["read"]
            more = {MEMORY: allocated(way) / trials}
        lines.append(Line(f"{trials} trials: to look at all, of a trial", 1e6 * seconds / trials, more))
    return lines


def allocated(way: Callable[[], object]) -> int:
    """Peak of Python's memory, in bytes."""
    tracemalloc.start()
    way()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def run(device: str) -> Report:
    groups = {
        "videos a step": by_batch(),
        f"workers, on {CORES} cores": by_workers(),
        "videos of an epoch": by_videos(),
        "trials of a sweep": by_trials(),
    }
    file = home() / "benchmarks" / "growth.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    draw(groups, file)
    lines = [line for group in groups.values() for line in group]
    notes = [f"workers share {GLOBAL_BATCH} videos per step, so each has a smaller batch, at its cost", str(file)]
    return Report("growth: constant or falling means linear or better", "us", lines, notes)


def draw(groups: dict[str, list[Line]], file: Path) -> None:
    """Draw a column for each group, with time above and memory below."""
    figure, panels = plt.subplots(2, len(groups), figsize=(3.2 * len(groups), 5), sharex="col", layout="constrained")
    for column, (name, lines) in zip(panels.T, groups.items(), strict=True):
        x = [int(line.name.partition(" ")[0]) for line in lines]
        column[0].plot(x, [line.value for line in lines], "o-")
        column[1].plot(x, [line.more[MEMORY] / 1000 for line in lines], "o-", color="tab:green")
        column[1].set(xlabel=name)
        column[1].set_xscale("log", base=2)
        column[1].set_xticks(x, [f"{n:,}" for n in x])
        for axes in column:
            axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
            axes.grid(alpha=0.3)
    panels[0, 0].set(ylabel="us each")
    panels[1, 0].set(ylabel="kB each")
    figure.suptitle("Time and memory of each as their number doubles: constant or falling means linear or better")
    figure.savefig(file, dpi=120)
    plt.close(figure)
