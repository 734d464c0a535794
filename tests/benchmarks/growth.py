"""What happens to a step's pace and memory as the batch doubles, and to the start of an epoch as the videos do."""

from __future__ import annotations

import time
from functools import partial

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from paramcrop.build import build_clip_spec, build_optimizer
from paramcrop.data.order import epoch_segments, place_of
from paramcrop.data.shards import Manifest, Shard
from paramcrop.pretrain import train_step
from paramcrop.runs import home
from paramcrop.sweeps.record import TrialRecord, read_records, write_record
from paramcrop.two_views import build_model
from tests.benchmarks.timing import Line, Report, peak_bytes, take_turns
from tests.memory import made_clips, memory_batches, tiny_config


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
        more = {"MB a video": peak_bytes(way) / batch / 1e6}
        lines.append(Line(f"batch of {batch}: us a video", 1e6 * seconds / batch, more))
    return lines


def by_videos() -> list[Line]:
    lines = []
    for videos in (4096, 16384, 65536, 262144):
        groups = (64,) * 4
        shards = tuple(Shard(f"shard-{i:05d}.parquet", 0, "", groups) for i in range(videos // 256))
        manifest = Manifest("id", (), shards)
        order = take_turns({"order": partial(epoch_segments, manifest, 0, 1, videos)}, 3)["order"]
        place = take_turns({"place": partial(place_of, manifest, 0, 1, videos, videos // 2)}, 3)["place"]
        lines.append(
            Line(
                f"{videos} videos: us a video to order an epoch",
                1e6 * order / videos,
                {"s in all": order, "s to find one row": place},
            )
        )
    return lines


def by_trials() -> list[Line]:
    import tempfile
    from pathlib import Path

    lines = []
    for trials in (32, 64, 128, 256):
        with tempfile.TemporaryDirectory() as folder:
            for i in range(trials):
                write_record(Path(folder), TrialRecord(f"{i:010x}", f"{i}", {"a": i}, "wanted", started=time.time()))
            seconds = take_turns({"read": partial(read_records, Path(folder))}, 5)["read"]
        lines.append(Line(f"{trials} trials: us a trial to look at all", 1e6 * seconds / trials, {}))
    return lines


def run(device: str) -> Report:
    groups = {"batch": by_batch(), "videos": by_videos(), "trials": by_trials()}
    figure, panels = plt.subplots(1, len(groups), figsize=(4 * len(groups), 3), layout="constrained")
    for axes, (name, lines) in zip(panels, groups.items(), strict=True):
        x = [int("".join(c for c in line.name.partition(":")[0] if c.isdecimal())) for line in lines]
        axes.plot(x, [line.value for line in lines], "o-")
        axes.set(xscale="log", xlabel=name, ylabel="us each", ylim=(0, None))
        axes.grid(alpha=0.3)
    file = home() / "benchmarks" / "growth.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)
    lines = [line for group in groups.values() for line in group]
    return Report("growth: level or falling is linear or better", "us", lines, [str(file)])
