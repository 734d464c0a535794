"""Batches without files or decoding, and tests with several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as td
from torch.multiprocessing.spawn import spawn

from paramcrop.data.batch import Batch, to_batch
from paramcrop.data.clips import ClipSpec, draw_augmentation, generator
from paramcrop.data.synthetic import CLASSES, render
from paramcrop.settings.config import Config
from paramcrop.settings.presets import load_config
from paramcrop.training.recorder import Recorder

TINY = (
    *("data.clip_frames=8", "data.clip_size=32", "cropper.frames=4", "cropper.size=24", "backbone.width=8"),
    *("projector.hidden=16", "projector.size=8", "train.global_batch=8", "optim.lr=0.05", "augment.jitter=0"),
    # Nothing that depends on the batch besides the backbone's norms, which a test can turn off.
    *("projector.batch_norm=false", "projector.final_batch_norm=false", "cropper.clip_norm=null", "cropper.lr=0.002"),
)


def tiny_config(*overrides: str) -> Config:
    """The settings of the demo, reduced further."""
    return load_config("demo", None, (*TINY, *overrides))


def made_clips(n: int, frames: int, size: int, seed: int = 0) -> np.ndarray:
    """Clips, uint8 (n, frames, size, size, 3), with all classes in turn."""
    return np.stack([render(CLASSES[i % 8], frames, size, size, np.random.default_rng([seed, i])) for i in range(n)])


def memory_batches(clips: np.ndarray, spec: ClipSpec, seed: int, batch: int) -> Callable[[int], Iterator[Batch]]:
    """A function epoch -> batches. Both views share a clip; flip, jitter and noise are drawn as for decoded videos."""

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        order = np.random.default_rng([seed, epoch]).permutation(len(clips))
        for first in range(0, len(clips) - batch + 1, batch):
            rows = order[first : first + batch]
            drawn = [draw_augmentation(generator(seed, epoch, str(i)), spec) for i in rows]
            columns: dict[str, Any] = {name: np.stack([d[name] for d in drawn]) for name in drawn[0]}
            columns |= {
                "video": clips[rows][:, None],
                "id": [str(i) for i in rows],
                "error": [""] * batch,
                "substitute": [""] * batch,
            }
            columns["cube"] = np.tile(np.array([0, 1], np.float32), (batch, 2, 3, 1))
            columns |= {"label": rows % 8, "epoch": np.full(batch, epoch), "position": np.arange(first, first + batch)}
            yield to_batch(columns)

    return epoch_batches


class MetricsInMemory(Recorder):
    """A recorder that keeps the metrics of every logged step, and the warnings."""

    def __init__(self) -> None:
        super().__init__(None)
        self.lines: list[dict[str, float]] = []
        self.warnings: list[str] = []

    def warning(self, step: int, text: str) -> None:
        self.warnings.append(text)

    def metrics(self, step: int, epoch: int, values: dict[str, float]) -> None:
        self.lines.append({"step": step, "epoch": epoch, **values})


def on_two_ranks(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    return on_ranks(2, function, folder, *arguments)


def on_ranks(ranks: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Run ``function(*arguments)``, a module-level function, in ``ranks`` gloo processes -> the value of each."""
    spawn(_rank, (ranks, function, str(folder), arguments), nprocs=ranks)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]


def _rank(rank: int, ranks: int, function: Callable[..., Any], folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    td.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.save(function(*arguments), f"{folder}/rank{rank}.pt")
    td.destroy_process_group()
    os._exit(0)  # gloo's threads outlive the group and sometimes abort the process when the interpreter exits
