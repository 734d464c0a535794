"""The job on Ray compared with a bare PyTorch loop with the same model: on ready tensors, then with decoding.

On ready tensors, there is also SimCLR built from lightly's parts with the same backbone.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paramcrop.data.batch import Batch, to_batch
from paramcrop.data.killable import KEEP_MEMORY
from paramcrop.data.samples import cut_batch
from paramcrop.settings.config import Config
from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.optim import set_lr
from paramcrop.training.pretrain import pretrain, train_step
from paramcrop.training.recorder import Recorder
from paramcrop.training.two_views import build_model
from tests.benchmarks.decode import made_shards, rows_of
from tests.benchmarks.slices import SLICE, WARM, Side, in_slices, lines_in
from tests.benchmarks.timing import Line, Report, settle

ROOT = Path(__file__).resolve().parents[2]
STEPS, FED_STEPS = 12, 30  # more with decoding, where the times of two programs vary more
EPOCH, LASTING = 32, 320  # steps; long enough for the faster program to run until the slower one is done
PEER = "ready tensors: lightly's SimCLR parts (peer)"
LIMIT = "ready tensors: a bare loop (limit)"
OURS = "ready tensors: ours, whole"
FED = "decoding: a bare loop and a DataLoader (limit)"
JOB = "decoding: the job on Ray"


def settings(device: str) -> Config:
    """The paper's sizes, with a smaller batch on CPUs."""
    batch = 4 if device == "cpu" else 64
    return load_config("k400_simclr_s3dg", None, [f"train.global_batch={batch}", f"train.device={device}"])


def bare_steps(config: Config, batches: Iterable[Batch], device: str) -> Iterator[float]:
    """Seconds of each of our own steps in a bare loop."""
    place = torch.device(device)
    model = build_model(config, place)
    optimizer = build_optimizer(config, model.policy, model.method)
    for step, batch in enumerate(batches):
        start = now(device)
        set_lr(optimizer, step, STEPS + 1, 0)
        train_step(model, batch.to(place), optimizer, step / STEPS)
        yield now(device) - start


def taking_turns(config: Config, ready: Batch, device: str) -> dict[str, float]:
    """Median seconds of a step of ``pretrain``, with its checks, record and metrics, and of the other loops.

    The other loops take a step whenever ``pretrain`` asks for its next batch, so that conditions are equal for all.
    """
    others = {PEER: lightly_steps(config, ready, device), LIMIT: bare_steps(config, itertools.repeat(ready), device)}
    taken: dict[str, list[float]] = {name: [] for name in (*others, OURS)}

    def batches(epoch: int) -> Iterator[Batch]:
        for step in range(STEPS + 1):
            for name, steps in others.items():
                taken[name].append(next(steps))
            rows = torch.arange(len(ready.id)) + step * len(ready.id)
            begun = now(device)
            yield ready._replace(position=rows, epoch=torch.zeros_like(rows))
            taken[OURS].append(now(device) - begun)

    # One step more than is timed: after its last step, the loop does not ask for another batch.
    settings = config.train.model_copy(update={"max_steps": STEPS + 1})
    short = config.model_copy(update={"train": settings, "run": config.run.model_copy(update={"log_every": 1})})
    with tempfile.TemporaryDirectory() as folder:
        pretrain(short, batches, STEPS + 1, Recorder(Path(folder)), device=torch.device(device))
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def now(device: str) -> float:
    settle(device)
    return time.perf_counter()


class Parts(torch.utils.data.Dataset[dict[str, Any]]):
    """Global batches of a folder's videos, ``times`` times over, decoded in the process that asks for them."""

    def __init__(self, config: Config, folder: str, times: int = 1) -> None:
        self.spec, self.batch = build_clip_spec(config), config.train.global_batch
        rows = [row | {"epoch": 0, "position": i, "label": -1} for i, row in enumerate(rows_of(folder))]
        self.rows = rows * times

    def __len__(self) -> int:
        return len(self.rows) // self.batch

    def __getitem__(self, i: int) -> dict[str, Any]:
        return cut_batch(self.rows[i * self.batch : (i + 1) * self.batch], self.spec, 0)


def fed_loop(config: Config, folder: str, device: str, counted: Path) -> None:
    """The bare loop with torch's DataLoader, one process per core; writes a line to ``counted`` after each step."""
    os.setsid()  # so that its child processes can be stopped with it
    parts = Parts(config, folder, LASTING // EPOCH)
    loader = torch.utils.data.DataLoader(parts, None, collate_fn=dict, num_workers=os.cpu_count() or 1)
    with counted.open("w", buffering=1) as file:
        for seconds in bare_steps(config, (to_batch(part) for part in loader), device):
            print(seconds, file=file)


def start_loop(config: Config, folder: str, device: str, runs: Path) -> Side:
    counted = runs / "steps"
    process = spawned(fed_loop, config, folder, device, counted)
    assert process.pid is not None
    return Side(process.pid, partial(lines_in, counted))


def spawned(loop: Callable[..., None], config: Config, folder: str, device: str, *rest: object) -> SpawnProcess:
    """A process that runs ``loop`` with the environment of a job's workers."""
    process = multiprocessing.get_context("spawn").Process(target=loop, args=(config, folder, device, *rest))
    before = dict(os.environ)
    os.environ |= KEEP_MEMORY if device == "cpu" else {}
    process.start()
    os.environ.clear()
    os.environ |= before
    return process


def start_job(config: Config, folder: str, device: str, runs: Path) -> Side:
    """``ray_jobs/pretrain.py``: Ray Data, Ray Train, metrics, record and checkpoint."""
    options = [f"data.shards={folder}", f"run.storage={runs}", f"train.device={device}", "run.log_every=1"]
    options += [f"train.threads={os.cpu_count()}"]  # as many as torch gives the bare loop
    options += [f"train.global_batch={config.train.global_batch}", f"train.max_steps={LASTING}"]
    command = [sys.executable, str(ROOT / "ray_jobs" / "pretrain.py"), "--preset", "k400_simclr_s3dg", *options]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    return Side(process.pid, lambda: sum(map(lines_in, runs.rglob("metrics.jsonl"))))


def decoding(config: Config, device: str) -> dict[str, float]:
    """Mean seconds of a step with decoding, waits included; both sides take turns in slices."""
    with made_shards(config.train.global_batch * EPOCH) as (folder, _), tempfile.TemporaryDirectory() as runs:
        given = config, folder, device, Path(runs)
        return in_slices({FED: partial(start_loop, *given), JOB: partial(start_job, *given)}, FED_STEPS)


def lightly_steps(config: Config, batch: Batch, device: str) -> Iterator[float]:
    """Seconds of each step with lightly's projector and loss on our backbone, our random crops, and SGD."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    place = torch.device(device)
    model = build_model(config.model_copy(update={"policy": "random"}), place)
    method: Any = model.method
    head = SimCLRProjectionHead(method.backbone.features, 1024, 128).to(place)
    loss = NTXentLoss(0.1)
    optimizer = torch.optim.SGD([*method.backbone.parameters(), *head.parameters()], lr=0.01, momentum=0.9)
    while True:
        start = now(device)
        moved = batch.to(place)
        crops = model.policy(moved.noise, 0.0)
        z: list[Tensor] = [head(method.backbone(model.view(moved, i, params))) for i, params in enumerate(crops)]
        optimizer.zero_grad()
        loss(*z).backward()
        optimizer.step()
        yield now(device) - start


def run(device: str) -> Report:
    config = settings(device)
    views = 2 * config.train.global_batch
    with made_shards(config.train.global_batch) as (folder, _):
        rows = [row | {"epoch": 0, "position": i, "label": -1} for i, row in enumerate(rows_of(folder))]
        ready = to_batch(cut_batch(rows[: config.train.global_batch], build_clip_spec(config), 0))
        steps = taking_turns(config, ready, device)
    fed = decoding(config, device)
    lines = [Line(name, views / seconds, {"of the limit": steps[LIMIT] / seconds}) for name, seconds in steps.items()]
    lines += [Line(name, views / seconds, {"of the limit": fed[FED] / seconds}) for name, seconds in fed.items()]
    size = f"S3D-G, {config.train.global_batch} videos per step, views of 16 x 112 x 112"
    notes = [
        f"{size}; on ready tensors medians of {STEPS} steps, taking turns; with decoding means of {FED_STEPS}, the two "
        f"programs taking turns of {SLICE:.0f} s after {WARM} steps",
        "with decoding, malloc keeps freed memory in both programs, as in the job's workers",
        "targets: 0.95 on ready tensors, 0.90 with decoding",
    ]
    return Report("a training step, clips (views) per second", "clips/s", lines, notes)
