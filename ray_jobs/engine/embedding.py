"""The features of videos by Ray Data: tasks decode on any CPU, and a pool of actors runs the encoder."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from paramcrop.crops.resample import to_float
from paramcrop.data.killable import Killable
from paramcrop.data.uniform import UniformSpec
from paramcrop.errors import ResourceError, VideoError
from paramcrop.evaluation.features import Forward, Normalise, check_finite
from paramcrop.export.clips import GROUP, Group, cut_group
from paramcrop.export.encoder import Encoder
from ray_jobs.engine.plans.plan import EvaluationPlan
from ray_jobs.engine.worker import own_errors

TASK_VIDEOS = 4  # videos of a decode task
PIXELS = "pixels"
DIED = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)
RETRIES = 3  # times that the rest is embedded again after a process or a node died


@dataclass(frozen=True)
class Cutting:
    """What is cut from the videos below ``folder``, a path or URI; see ``cut_group``. ``timeout``: seconds a group."""

    folder: str
    spec: UniformSpec
    every: float | None
    timeout: float


class Video(NamedTuple):
    """A finished video: a row of each clip (see ``paramcrop.export.features.COLUMNS``), or why there is none."""

    path: str
    rows: list[dict[str, Any]]
    error: str


def embed(
    paths: Sequence[str], cutting: Cutting, encoder: Encoder, precision: str, plan: EvaluationPlan
) -> Iterator[Video]:
    """Yield each video when all its clips are embedded, in any order.

    Args:
        precision: of the network, "float32" or "bfloat16".

    Raises:
        ParamCropError: the encoder's features are not finite. ResourceError: processes or nodes died repeatedly.
    """
    shared, left = ray.put(encoder), dict.fromkeys(paths)
    for attempt in range(RETRIES + 1):
        try:
            for video in _embedded(list(left), cutting, shared, precision, plan):
                del left[video.path]
                yield video
            return
        except DIED as error:
            if attempt == RETRIES:
                reason = str(error).strip().partition("\n")[0]
                raise ResourceError(f"an encoder died {RETRIES + 1} times: {reason}; run it again") from None


def _embedded(
    paths: Sequence[str], cutting: Cutting, shared: Any, precision: str, plan: EvaluationPlan
) -> Iterator[Video]:
    decoded = ray.data.from_items(
        [{"path": path} for path in paths], override_num_blocks=-(-len(paths) // TASK_VIDEOS)
    ).map_batches(partial(_decode, cutting=cutting), batch_size=TASK_VIDEOS, batch_format="numpy", num_cpus=1)
    # So that a group leaves as soon as it is cut.
    decoded.context.target_max_block_size = GROUP * cutting.spec.frames * cutting.spec.size**2 * 3
    with warnings.catch_warnings():
        # Ray has no other way yet to give these two, and warns of this one.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        embedded = decoded.map_batches(
            _Network,
            fn_constructor_args=([shared], plan.threads, plan.gpus > 0, precision),
            batch_size=None if plan.gpus == 0 else GROUP,
            batch_format="numpy",
            num_cpus=plan.cpus,
            num_gpus=plan.gpus or None,
            compute=ActorPoolStrategy(size=plan.actors),
            # Ray warns of actors that it can restart, because their arguments might be gone; ``embed`` retries.
            max_restarts=0,
            max_task_retries=0,
        )
    yield from whole_videos(own_errors(embedded.iter_rows()))


def whole_videos(rows: Iterator[Mapping[str, Any]]) -> Iterator[Video]:
    """Gather the rows of each video -> the video once it has all of them."""
    waiting = defaultdict[str, list[dict[str, Any]]](list)
    for row in rows:
        path = row["path"]
        if row["error"]:
            waiting.pop(path, None)
            yield Video(path, [], row["error"])
            continue
        waiting[path].append({**row, "feature": np.asarray(row["feature"], np.float32)})
        if len(waiting[path]) == row["total"]:
            yield Video(path, sorted(waiting.pop(path), key=lambda each: each["clip"]), "")


def _decode(batch: dict[str, np.ndarray], cutting: Cutting) -> Iterator[dict[str, Any]]:
    for path in map(str, batch["path"]):
        first, total = 0, 1
        while first < total:
            try:
                group = Group(*_cutter(cutting.timeout)(cutting.folder, path, cutting.spec, cutting.every, first))
            except VideoError as error:
                yield failed(path, str(error), cutting.spec)
                break
            yield columns(path, group)
            first, total = first + GROUP, group.total


@cache
def _cutter(timeout: float) -> Killable[Any, Group]:
    """One child process, which ends with this one."""
    return Killable(cut_group, timeout)


def columns(path: str, group: Group) -> dict[str, Any]:
    """The clips of a group as the columns of a block."""
    n = len(group.frames)
    return {
        "path": [path] * n,
        "clip": np.arange(group.first, group.first + n, dtype=np.int32),
        "total": np.full(n, group.total),
        "start": group.start,
        "end": group.end,
        "picture": group.pictures,
        "error": [""] * n,
        PIXELS: np.array(group.frames),  # a copy: those lie in memory that the next call reuses
    }


def failed(path: str, error: str, spec: UniformSpec) -> dict[str, Any]:
    """A row for a video that could not be read, or not to its end."""
    nothing = np.zeros((1, spec.frames, spec.size, spec.size, 3), np.uint8)
    none = np.zeros(1, np.float32)
    return columns(path, Group(nothing, 0, 1, none, none, [b""])) | {"error": [error]}


class _Network:
    """One actor of the pool."""

    def __init__(self, shared: list[Any], threads: int, gpu: bool, precision: str) -> None:
        encoder: Encoder = ray.get(shared[0])
        device = torch.device("cuda" if gpu else "cpu")
        if not gpu:
            torch.set_num_threads(threads)
        shown = encoder.description.input
        self.network = encoder.backbone.eval().to(device)
        self.forward = Forward(Normalise(shown.mean, shown.std), device, getattr(torch, precision))

    @torch.no_grad()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Replace the pixels (K, T, S, S, 3) by features (K, D).

        Raises:
            CheckpointError: one is not finite.
        """
        pixels = torch.from_numpy(batch.pop(PIXELS)).to(self.forward.device)
        # Per video and group, so that on CPUs the bits do not depend on which videos share a block.
        sizes = _runs(batch["path"]) if self.forward.device.type == "cpu" else [len(pixels)]
        parts = [self.forward(self.network, to_float(part.permute(0, 4, 1, 2, 3))) for part in pixels.split(sizes)]
        features = torch.cat(parts).cpu()
        for path, feature, error in zip(batch["path"], features, batch["error"], strict=True):
            if not error:
                check_finite(feature, str(path))
        return {**batch, "feature": features.numpy()}


def _runs(paths: np.ndarray) -> list[int]:
    """Lengths of runs of equal neighbours, of at most ``GROUP``."""
    lengths = list[int]()
    for i, path in enumerate(paths):
        if i and path == paths[i - 1] and lengths[-1] < GROUP:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths
