"""Where the time of a trial goes, besides training and evaluating: four small trials of a real sweep, part by part.

Then the waits for data of the same steps in a bare loop, with one torch thread and one DataLoader process, because a
trial here has one core for training and one for decoding.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from paramcrop.data.batch import Batch, to_batch
from paramcrop.data.synthetic import cached_dataset
from paramcrop.settings.config import Config
from paramcrop.settings.presets import load_config
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import read_metrics
from paramcrop.sweeps.record import read_records
from ray_jobs.videos import MADE_UP_VIDEOS
from tests.benchmarks.step import Parts, bare_steps, spawned
from tests.benchmarks.timing import Line, Report

ROOT = Path(__file__).resolve().parents[2]
TRIALS, STEPS = 4, 360  # trials of more than 100 s
BARE_STEPS = 180
TRAINING, WAITING = "training: steps, record, a checkpoint every eight", "waiting for data between them"
EVALUATING = "evaluating, and the run's page"
BUSY = (TRAINING, WAITING, EVALUATING)


def run(device: str) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        lower = [0.05 * i for i in range(TRIALS)]
        space = {
            "question": "?",
            "params": {"cropper.lower": lower},
            "seeds": [0],
            "set": {"train.max_steps": STEPS, "train.epochs": 200},
        }
        (home / "space.yaml").write_text(
            yaml.safe_dump(space | {"evaluate": {"tasks": ["retrieval"], "as_pretrained": True}})
        )
        command = [sys.executable, str(ROOT / "ray_jobs" / "sweep.py"), "--space", str(home / "space.yaml"), "--quiet"]
        start = time.time()
        subprocess.run(command, check=True, env=os.environ | {"PARAMCROP_HOME": folder, "RAY_ADDRESS": "local"})
        end = time.time()
        records = read_records(home / "sweeps" / "space")
        ends = [r.started + r.seconds for r in records]
        parts = [_parts(Path(r.runs[0]["folder"]), r.started, end) for r, end in zip(records, ends, strict=True)]
    names = list(parts[0])
    lines = [Line(name, sum(part[name] for part in parts) / TRIALS, {}) for name in names]
    trial = sum(r.seconds for r in records)
    busy = sum(part[TRAINING] + part[EVALUATING] for part in parts)
    lines.append(Line("a trial, whole", trial / TRIALS, {"of it training and evaluating": busy / trial}))
    between = [r.started - end for end, r in zip(ends, records[1:], strict=False)]
    lines.append(Line("from one trial to the next: Tune, the trial's process", sum(between) / len(between), {}))
    besides = [part[name] for part in parts[1:] for name in names if name not in BUSY]
    own = (sum(besides) + sum(between)) / len(between)
    lines.append(Line("a trial's own time, the first one's apart: all but training, waiting, evaluating", own, {}))
    lines.append(Line("the command, whole", end - start, {"of it training and evaluating": busy / (end - start)}))
    lines.append(Line(f"a bare loop and a DataLoader: waiting for data, {STEPS} steps", bare_waits(device), {}))
    return Report(
        "a trial's time, s (mean of four)",
        "s",
        lines,
        ["target: a trial's own time is at most 2 s above the floor, see `floor`"],
    )


def _parts(run: Path, begun: float, ended: float) -> dict[str, float]:
    """The seconds of each part, from the records of the run and the trial."""
    history = read_lines(run / "history.jsonl")
    at = {line["event"]: line["time"] for line in history}
    spans = itertools.pairwise(read_metrics(run))  # the first line's wait is for the first batch
    waited = sum(64 * (b["step"] - a["step"]) / b["clips_per_s"] * b["data_wait"] for a, b in spans)
    first = (run / "crops" / "step=0000000.npz").stat().st_mtime  # written when the first batch arrives
    last = max(folder.stat().st_mtime for folder in (run / "checkpoints").iterdir())
    return {
        "the trial's own start": at["running"] - begun,
        "Ray Train's start: controller, workers": at["workers"] - at["running"],
        "first batch: Ray Data's and the decoders' processes": first - at["workers"],
        TRAINING: last - first - waited,
        WAITING: waited,
        "Ray Train's end": at["finished"] - last,
        EVALUATING: ended - at["finished"],
    }


def bare_waits(device: str) -> float:
    """Seconds that a bare loop waits for data in the steps of a trial, after the first batch."""
    config = load_config("demo", None, [f"train.device={device}"])
    with tempfile.TemporaryDirectory() as folder:
        data = cached_dataset(Path(folder), config.data.clip_frames, config.data.clip_size, MADE_UP_VIDEOS)
        waited = Path(folder, "waited")
        process = spawned(bare_loop, config, data, device, waited)
        process.join()
        return float(waited.read_text()) * STEPS / BARE_STEPS


def bare_loop(config: Config, folder: str, device: str, waited: Path) -> None:
    torch.set_num_threads(1)
    times = math.ceil((BARE_STEPS + 2) * config.train.global_batch / MADE_UP_VIDEOS)
    loader = torch.utils.data.DataLoader(Parts(config, folder, times), None, collate_fn=dict, num_workers=1)
    waits = list[float]()

    def batches() -> Iterator[Batch]:
        parts = iter(loader)
        while True:
            start = time.perf_counter()
            part = next(parts)
            waits.append(time.perf_counter() - start)
            yield to_batch(part)

    for _ in itertools.islice(bare_steps(config, batches(), device), BARE_STEPS + 1):
        continue
    waited.write_text(f"{sum(waits[1:])}")
