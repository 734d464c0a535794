"""Where a trial's time goes besides training and evaluating: four small trials of a real sweep, part by part."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from paramcrop.lines import read_lines
from paramcrop.runs import read_metrics
from paramcrop.sweeps.record import read_records
from tests.benchmarks.timing import Line, Report

ROOT = Path(__file__).resolve().parents[2]
TRIALS, STEPS = 4, 1120  # of more than 100 s each
TRAINING = "training: steps, record, a checkpoint every eight"


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
        parts = [_parts(Path(r.runs[0]["folder"]), r.started, r.started + r.seconds) for r in records]
    names = list(parts[0])
    lines = [Line(name, sum(part[name] for part in parts) / TRIALS, {}) for name in names]
    trial = sum(r.seconds for r in records)
    busy = sum(part[TRAINING] + part["evaluating"] for part in parts)
    lines.append(Line("a trial, whole", trial / TRIALS, {"of it training and evaluating": busy / trial}))
    lines.append(Line("the command, whole", end - start, {"of it training and evaluating": busy / (end - start)}))
    return Report(
        "a trial's time, s (mean of four)", "s", lines, ["bar: 0.85 of the command is training and evaluating"]
    )


def _parts(run: Path, begun: float, ended: float) -> dict[str, float]:
    """Seconds, part by part, by what the run and the trial wrote down."""
    history = read_lines(run / "history.jsonl")
    at = {line["event"]: line["time"] for line in history}
    spans = itertools.pairwise(read_metrics(run))  # the first line's wait is that for the first batch
    waited = sum(64 * (b["step"] - a["step"]) / b["clips_per_s"] * b["data_wait"] for a, b in spans)
    first = (run / "crops" / "step=0000000.npz").stat().st_mtime  # taken when the first batch is there
    last = max(folder.stat().st_mtime for folder in (run / "checkpoints").iterdir())
    return {
        "the trial's own start": at["running"] - begun,
        "Ray Train's start: controller, workers": at["workers"] - at["running"],
        "first batch: Ray Data's and the decoders' processes": first - at["workers"],
        TRAINING: last - first - waited,
        "waiting for data between them": waited,
        "Ray Train's end": at["finished"] - last,
        "evaluating": ended - at["finished"],
    }
