"""Predicted scaling: what 8 to 512 GPUs need, computed from times measured here, and where scaling stops.

A step of n workers takes the longest of its overlapping parts (network, decoding) plus the others: the gather of
embeddings and the all-reduce of gradients. A decoded video has 2.76 MB at the paper's sizes, an encoded one a tenth or
less. So decoding on other nodes costs network bandwidth, theirs and the trainer's.

On CPUs, the same arithmetic is compared with steps of 1, 2 and 4 processes on this machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as td

from paramcrop.data.clips import cut_sample, with_planes
from paramcrop.settings.config import Config
from paramcrop.settings.presets import load_config
from paramcrop.storage.checkpoint import save_checkpoint
from paramcrop.training.build import build_clip_spec, build_optimizer
from paramcrop.training.pretrain import train_step
from paramcrop.training.two_views import build_model, distribute
from tests.benchmarks.decode import made_shards, rows_of
from tests.benchmarks.timing import Line, Report, peak_bytes
from tests.memory import made_clips, memory_batches, on_ranks, tiny_config

GPU = 2928.0  # views/s, measured on an H200: a whole step of S3D-G, bfloat16, ready tensors (docs/numbers/gpu.md)
NETWORK = 12.5e9  # bytes/s per node: 100 Gbit/s
NVLINK = 200e9  # bytes/s of an all-reduce within a node
LATENCY = 30e-6  # seconds per hop of a collective
GPUS_A_NODE, CPUS_A_GPU_NODE, CPUS_A_CPU_NODE = 8, 192, 64
BATCH, DECODED = 1024, 2 * 64 * 120 * 120 * 3 // 2
CORES = os.cpu_count() or 1
GLOBAL_BATCH = 32  # videos per step measured here


class Measured(NamedTuple):
    """Measurements.

    Attributes:
        decode: core seconds per video. checkpoint: seconds to write one.
        parameters: number of the model's parameters. encoded: bytes per encoded video.
    """

    decode: float
    checkpoint: float
    parameters: int
    encoded: int


def measure() -> Measured:
    config = load_config("k400_simclr_s3dg")
    spec, model = with_planes(build_clip_spec(config), 128), build_model(config, torch.device("cpu"))
    with made_shards(8) as (folder, _), tempfile.TemporaryDirectory() as place:
        rows = rows_of(folder)
        cut_sample(rows[0], spec, 0, 0)
        start = time.perf_counter()
        for row in rows:
            cut_sample(row, spec, 0, 0)
        decode = (time.perf_counter() - start) / len(rows)
        state = {"model": model.state_dict(), "momentum": {n: p.clone() for n, p in model.named_parameters()}}
        start = time.perf_counter()
        save_checkpoint(Path(place) / "epoch=0001", state, {"epoch": 1, "step": 1})
        checkpoint = time.perf_counter() - start
    parameters = sum(p.numel() for p in model.parameters())
    return Measured(decode, checkpoint, parameters, sum(len(row["video"]) for row in rows) // len(rows))


class Step(NamedTuple):
    """The seconds of one step's parts, and the CPUs that decode its data."""

    network: float
    reduce: float
    gather: float
    decode_cpus: float

    @property
    def seconds(self) -> float:
        return self.network + self.reduce + self.gather


def step_of(gpus: int, m: Measured, batch: int = BATCH) -> Step:
    """The step on ``gpus`` GPUs, with as many decoding CPUs as keep them busy.

    The batch is fixed, so each worker's share shrinks. Below about 16 clips, a GPU is no longer busy, so its time does
    not fall any further.
    """
    clips = 2 * batch / gpus
    network = max(clips, 16) / GPU
    nodes = max(1, gpus // GPUS_A_NODE)
    bandwidth = NVLINK if nodes == 1 else NETWORK
    reduce = 2 * 4 * m.parameters / bandwidth + 2 * gpus**0.5 * LATENCY
    gather = 2 * batch * 128 * 4 / bandwidth + gpus**0.5 * LATENCY
    seconds = network + reduce + gather
    return Step(network, reduce, gather, batch * m.decode / seconds)


def run(device: str) -> Report:
    m = measure()
    lines = []
    alone = 0.0
    for gpus in (8, 16, 32, 64, 128, 256, 512):
        step = step_of(gpus, m)
        rate = 2 * BATCH / step.seconds
        alone = alone or rate / gpus
        nodes = gpus / GPUS_A_NODE
        cpu_nodes = max(0.0, step.decode_cpus - nodes * (CPUS_A_GPU_NODE - GPUS_A_NODE)) / CPUS_A_CPU_NODE
        videos = rate / 2 / nodes  # per second and GPU node
        lines.append(
            Line(
                f"{gpus} GPUs",
                rate,
                {
                    "of linear": rate / gpus / alone,
                    "CPUs decoding": round(step.decode_cpus),
                    "CPU nodes besides": round(cpu_nodes + 0.499),
                    "store, GB/s a GPU node": videos * DECODED / 1e9,
                    "encoded, MB/s in all": rate / 2 * m.encoded / 1e6,
                    "network if all is decoded elsewhere": videos * DECODED / NETWORK,
                },
            )
        )
    notes = [
        f"measured here: {1000 * m.decode:.0f} ms of a core to decode a video (two windows), {m.encoded / 1e3:.0f} kB "
        f"encoded, {DECODED / 1e6:.2f} MB decoded; a checkpoint of {m.parameters / 1e6:.1f}M parameters takes "
        f"{m.checkpoint:.2f} s",
        f"assumed: {GPU:.0f} clips/s per GPU (measured on an H200), {NETWORK / 1e9:g} GB/s of network per node, "
        f"{BATCH} videos per step",
        "CPU nodes take the decoding that a GPU node's own CPUs cannot do, and their network carries the result; "
        "scaling stops where a worker's share of the fixed batch no longer fills its GPU (128 and beyond)",
        *checked(),
    ]
    return Report("clips/s of S3D-G at the paper's sizes, predicted", "clips/s", lines, notes)


def checked() -> list[str]:
    """Predicted and measured steps of 1, 2 and 4 processes on this machine."""
    found = {ranks: rates(ranks) for ranks in (1, 2, 4)}
    one = found[1]["step"]
    notes = []
    for ranks, parts in found.items():
        shared = max(1.0, ranks / CORES)  # processes take turns on the cores
        predicted = one / ranks * shared + parts["reduce"] + parts["gather"]
        text = f"{ranks} process(es) on {CORES} cores: predicted {1000 * predicted:.0f} ms per step"
        notes.append(f"{text}, measured {1000 * parts['step']:.0f} ms ({parts['step'] / predicted:.2f} of it)")
    return notes


def rates(ranks: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        if ranks == 1:
            return _steps()
        return dict(on_ranks(ranks, _steps, Path(folder))[0])


def _config() -> Config:
    return tiny_config(
        f"train.global_batch={GLOBAL_BATCH}", "backbone.width=16", "cropper.size=32", "backbone.norm=group"
    )


def _steps(steps: int = 8) -> dict[str, float]:
    """Seconds of a step, of its all-reduce and of its gather, and its bytes of memory, on this rank."""
    from paramcrop import dist
    from paramcrop.data.batch import shard_batch

    torch.set_num_threads(1)
    config, cpu = _config(), torch.device("cpu")
    model = build_model(config, cpu)
    optimizer, wrapped = build_optimizer(config, model.policy, model.method), distribute(model, cpu)
    clips = made_clips(GLOBAL_BATCH, config.data.clip_frames, config.data.clip_size)
    batch = next(memory_batches(clips, build_clip_spec(config), 0, GLOBAL_BATCH)(0))
    part = shard_batch(batch, dist.rank(), dist.world_size())
    found: dict[str, Any] = {}
    for step in range(steps + 2):
        if step == 2:
            start = time.perf_counter()
        train_step(wrapped, part, optimizer, 0.0)
    found["step"] = (time.perf_counter() - start) / steps
    found["memory"] = peak_bytes(lambda: train_step(wrapped, part, optimizer, 0.0))
    gradient = torch.zeros(sum(p.numel() for p in model.parameters()))
    found["reduce"] = _timed(lambda: td.all_reduce(gradient)) if dist.world_size() > 1 else 0.0
    z = torch.zeros(len(part.id), config.projector.size)
    found["gather"] = _timed(lambda: dist.gather(z)) * 2 if dist.world_size() > 1 else 0.0
    return found


def _timed(way: Any, times: int = 5) -> float:
    way()
    start = time.perf_counter()
    for _ in range(times):
        way()
    return (time.perf_counter() - start) / times
