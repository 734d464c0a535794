"""The whole job on Ray beside a bare PyTorch loop with the same model: ready tensors, then decoding on both sides.

On ready tensors, also beside SimCLR put together from lightly's parts with the same backbone.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paramcrop.batch import Batch, to_batch
from paramcrop.build import build_clip_spec, build_optimizer
from paramcrop.config import Config
from paramcrop.data.samples import cut_batch
from paramcrop.optim import set_lr
from paramcrop.presets import load_config
from paramcrop.pretrain import pretrain, train_step
from paramcrop.record import Recorder
from paramcrop.runs import read_metrics
from paramcrop.two_views import build_model
from tests.benchmarks.decode import made_shards, rows_of
from tests.benchmarks.timing import Line, Report

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6


def settings(device: str) -> Config:
    """The paper's sizes; on CPUs a batch that they can take."""
    batch = 4 if device == "cpu" else 64
    return load_config("k400_simclr_s3dg", None, [f"train.global_batch={batch}", f"train.device={device}"])


def bare_loop(config: Config, batches: Iterator[Batch], device: str) -> float:
    """Clips/s of our own step without anything around it."""
    place = torch.device(device)
    model = build_model(config, place)
    optimizer = build_optimizer(config, model.policy, model.method)
    start = 0.0
    for step, batch in enumerate(itertools.islice(batches, STEPS + 1)):
        set_lr(optimizer, step, STEPS + 1, 0)
        train_step(model, batch.to(place), optimizer, step / STEPS)
        if step == 0:
            start = time.perf_counter()
    return 2 * STEPS * config.train.global_batch / (time.perf_counter() - start)


def whole_loop(config: Config, batches: Iterator[Batch], device: str) -> float:
    """Clips/s of ``pretrain``, with its checks, exchanges and metrics (every step, here)."""
    timed: list[float] = []

    def numbered(epoch: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches):
            timed.append(time.perf_counter())
            rows = torch.arange(len(batch.id)) + step * len(batch.id)
            yield batch._replace(position=rows, epoch=torch.zeros_like(rows))

    short = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": STEPS + 1})})
    pretrain(short, numbered, STEPS + 1, Recorder(None), device=torch.device(device))
    return 2 * STEPS * config.train.global_batch / (time.perf_counter() - timed[1])


class Parts(torch.utils.data.Dataset[dict[str, Any]]):
    """Global batches, decoded where they are asked for."""

    def __init__(self, config: Config, folder: str) -> None:
        self.spec, self.batch = build_clip_spec(config), config.train.global_batch
        self.rows = [row | {"epoch": 0, "position": i, "label": -1} for i, row in enumerate(rows_of(folder))]

    def __len__(self) -> int:
        return len(self.rows) // self.batch

    def __getitem__(self, i: int) -> dict[str, Any]:
        return cut_batch(self.rows[i * self.batch : (i + 1) * self.batch], self.spec, 0)


def fed_loop(config: Config, folder: str, device: str) -> float:
    """The bare loop with torch's DataLoader, a process of it for each core."""
    loader = torch.utils.data.DataLoader(Parts(config, folder), None, collate_fn=dict, num_workers=os.cpu_count() or 1)
    return bare_loop(config, (to_batch(part) for part in loader), device)


def job(config: Config, folder: str, device: str) -> float:
    """``ray_jobs/pretrain.py``: Ray Data, Ray Train, metrics and checkpoint; clips/s from the second step on."""
    with tempfile.TemporaryDirectory() as runs:
        options = [f"data.shards={folder}", f"run.storage={runs}", f"train.device={device}"]
        options += [f"train.threads={os.cpu_count()}"]  # as many as torch gives the bare loop
        options += [f"train.global_batch={config.train.global_batch}", f"train.max_steps={STEPS + 1}"]
        command = [sys.executable, str(ROOT / "ray_jobs" / "pretrain.py"), "--preset", "k400_simclr_s3dg"]
        environment = os.environ | {"RAY_ADDRESS": "local"}
        subprocess.run(
            [*command, *options, f"run.log_every={STEPS + 1}"], check=True, env=environment, stdout=subprocess.DEVNULL
        )
        (metrics,) = Path(runs).rglob("metrics.jsonl")
        return float(read_metrics(metrics.parent)[-1]["clips_per_s"])


def lightlys(config: Config, batch: Batch, device: str) -> float:
    """Clips/s of lightly's projection head and loss on our backbone, random crops by our policy, SGD."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    place = torch.device(device)
    model = build_model(config.model_copy(update={"policy": "random"}), place)
    method: Any = model.method
    head = SimCLRProjectionHead(method.backbone.features, 1024, 128).to(place)
    loss = NTXentLoss(0.1)
    optimizer = torch.optim.SGD([*method.backbone.parameters(), *head.parameters()], lr=0.01, momentum=0.9)
    moved, start = batch.to(place), 0.0
    for step in range(STEPS + 1):
        crops = model.policy(moved.noise, 0.0)
        z: list[Tensor] = [head(method.backbone(model.view(moved, i, params))) for i, params in enumerate(crops)]
        optimizer.zero_grad()
        loss(*z).backward()
        optimizer.step()
        if step == 0:
            start = time.perf_counter()
    return 2 * STEPS * config.train.global_batch / (time.perf_counter() - start)


def run(device: str) -> Report:
    config = settings(device)
    spec = build_clip_spec(config)
    with made_shards(config.train.global_batch * (STEPS + 1)) as (folder, _):
        rows = [row | {"epoch": 0, "position": i, "label": -1} for i, row in enumerate(rows_of(folder))]
        part = rows[: config.train.global_batch]
        ready = to_batch(cut_batch(part, spec, 0))
        ways: dict[str, Callable[[], float]] = {
            "ready tensors: lightly's SimCLR parts (peer)": lambda: lightlys(config, ready, device),
            "ready tensors: a bare loop (limit)": lambda: bare_loop(config, itertools.repeat(ready), device),
            "ready tensors: ours, whole": lambda: whole_loop(config, itertools.repeat(ready), device),
            "decoding: a bare loop and a DataLoader (limit)": lambda: fed_loop(config, folder, device),
            "decoding: the job on Ray": lambda: job(config, folder, device),
        }
        found = {name: max(way(), way()) for name, way in ways.items()}
    limits = {name.partition(":")[0]: rate for name, rate in found.items() if "(limit)" in name}
    lines = [Line(name, rate, {"of the limit": rate / limits[name.partition(":")[0]]}) for name, rate in found.items()]
    size = f"S3D-G, {config.train.global_batch} videos a step, views of 16 x 112 x 112; {STEPS} steps after the first"
    notes = [size, "best of two; bars: 0.95 on ready tensors, 0.90 with decoding"]
    return Report("a training step, clips (views) a second", "clips/s", lines, notes)
