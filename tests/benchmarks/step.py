"""The whole job on Ray beside a bare PyTorch loop with the same model: ready tensors, then decoding on both sides.

On ready tensors, also beside SimCLR put together from lightly's parts with the same backbone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
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
from paramcrop.two_views import build_model
from tests.benchmarks.decode import made_shards, rows_of
from tests.benchmarks.timing import Line, Report

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
    with made_shards(config.train.global_batch * 2) as (folder, _):
        rows = [row | {"epoch": 0, "position": i, "label": -1} for i, row in enumerate(rows_of(folder))]
        part = rows[: config.train.global_batch]
        ready = to_batch(cut_batch(part, spec, 0))
        ways: dict[str, Callable[[], float]] = {
            "ready tensors: lightly's SimCLR parts (peer)": lambda: lightlys(config, ready, device),
            "ready tensors: a bare loop (limit)": lambda: bare_loop(config, itertools.repeat(ready), device),
            "ready tensors: ours, whole": lambda: whole_loop(config, itertools.repeat(ready), device),
        }
        found = {name: max(way(), way()) for name, way in ways.items()}
    limit = found["ready tensors: a bare loop (limit)"]
    lines = [Line(name, rate, {"of the limit": rate / limit}) for name, rate in found.items()]
    notes = [f"S3D-G, {config.train.global_batch} videos a step, views of 16 x 112 x 112; best of two; bar 0.95"]
    return Report("a training step, clips (views) a second", "clips/s", lines, notes)
