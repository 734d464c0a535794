"""What an embedding has to do, what earlier attempts have done, and how the rest is computed and kept."""

from __future__ import annotations

import hashlib
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from paramcrop.data.uniform import UniformSpec
from paramcrop.errors import ConfigError
from paramcrop.export.encoder import Encoder, serialised
from paramcrop.export.features import Done, Features, finish, make_table, parts_of, read_about, read_done, write_part
from paramcrop.export.load import load
from paramcrop.export.search import remove_indexes
from paramcrop.settings.digest import short_hash
from ray_jobs.device import evaluators_device
from ray_jobs.embed.options import CLIPS
from ray_jobs.terminal import Pace, Progress, Standing, bar

KEEP = 15.0  # seconds of work that a killed attempt loses at most, besides the videos in flight


@dataclass
class Work:
    """An embedding in progress.

    Attributes:
        out: the file. encoder: what embeds. spec, every: which clips, see ``cut_group``.
        sizes: path -> bytes of all videos. done: of earlier attempts. about: the file's own description.
        new: paths that this attempt has dealt with.
    """

    out: Path
    encoder: Encoder
    spec: UniformSpec
    every: float | None
    sizes: Mapping[str, int]
    done: Done
    about: dict[str, Any]
    new: list[str] = field(default_factory=list)

    @property
    def failed(self) -> dict[str, str]:
        """Path -> reason, of all attempts."""
        return self.done.failed

    @property
    def left(self) -> list[str]:
        """Paths of the videos that are not embedded yet."""
        return [path for path in self.sizes if path not in self.done.sizes]

    def describe(self) -> list[str]:
        shown, before, failed = self.encoder.description, len(self.done.sizes), len(self.failed)
        which = f"{self.spec.clips} clips each" if self.every is None else f"a clip every {self.every:g} s"
        lines = [
            f"encoder: {self.about['encoder']}, {shown.features} features",
            f"{len(self.sizes)} videos in {self.about['videos']}, {which}, of {self.spec.frames} frames, stride "
            f"{self.spec.stride}, {self.spec.size} x {self.spec.size}",
        ]
        unread = f", {failed} of which could not be read" if failed else ""
        return lines + ([f"{before} videos are done already{unread}; --fresh does all again"] if before else [])

    def keep(self, rows: list[dict[str, Any]], failed: Mapping[str, str], paths: list[str]) -> None:
        """Store finished videos, so that a later attempt need not embed them."""
        table = make_table(rows, self.about["features"])
        sizes = {path: self.sizes[path] for path in paths}
        write_part(self.out, table, self.about | {"sizes": sizes, "failed": dict(failed)})
        self.done.tables.append(table)
        self.done.sizes.update(sizes)
        self.done.failed.update(failed)
        self.new += paths

    def finish(self) -> Features:
        """Write the file of all videos, unless it is there already."""
        if self.new or parts_of(self.out).exists() or not self.out.exists() or self._others():
            remove_indexes(self.out)  # first: an index must never lie beside the rows of another file
            finish(self.out, self.done.tables, self.about | {"sizes": self.done.sizes, "failed": self.failed})
        return Features.read(self.out)

    def _others(self) -> bool:
        """Whether the file has videos that are no longer there."""
        return set(read_about(self.out)["sizes"]) != set(self.sizes)


def make_work(arguments: Namespace, sizes: Mapping[str, int]) -> Work:
    """Load the encoder and read what earlier attempts have done.

    Raises:
        CheckpointError, DataError, ConfigError: see ``load``; or ``--out`` is another file or not writable.
    """
    encoder = load(arguments.weights, trust=arguments.trust, like=arguments.like, what="--weights")
    out = Path(arguments.out).expanduser().resolve()
    if not out.parent.is_dir():
        raise ConfigError(f"--out must be in a folder that exists, but {out.parent} does not")
    described, clips = encoder.description, arguments.clips or CLIPS
    spec = described.input.clips(clips)
    weights = hashlib.sha256(serialised(encoder.backbone.state_dict())).hexdigest()
    precision = precision_of(encoder, evaluators_device(arguments.device))
    what = [weights, described.architecture.model_dump(), described.input.model_dump(mode="json"), precision]
    key = short_hash([*what, clips if arguments.every is None else None, arguments.every])
    about = {
        "key": key,
        "encoder": name_of(encoder),
        "features": described.features,
        "videos": arguments.videos,
        "clips": clips if arguments.every is None else None,
        "every": arguments.every,
        "input": described.input.model_dump(mode="json"),
        "precision": precision,
    }
    done = read_done(out, "" if arguments.fresh else key, sizes)
    return Work(out, encoder, spec, arguments.every, sizes, done, about)


def precision_of(encoder: Encoder, device: str) -> str:
    """float32 on CPUs, and on GPUs for an encoder trained in float32 or by another program; else bfloat16."""
    return "float32" if device == "cpu" or encoder.description.pretraining.precision == "float32" else "bfloat16"


def name_of(encoder: Encoder) -> str:
    p = encoder.description.pretraining
    return f"{p.run}-{p.run_id}" + (f", epoch {p.epoch}" if p.epoch else "")


class Videos:
    """The number of embedded videos of ``total``; ``before`` of them by earlier attempts."""

    def __init__(self, total: int, before: int) -> None:
        self._total, self.done, self.failed, self._pace = total, before, 0, Pace(total)

    def look(self) -> Standing:
        text = f"{self.failed} could not be read  " if self.failed else ""
        text += self._pace.left(self.done)
        return Standing(
            bar("embed", self.done, self._total, text), (f"{self.done}/{self._total} videos  {text}".rstrip(),)
        )


def embed_left(work: Work, arguments: Namespace, console: Console) -> None:
    """Embed what is left on Ray, and keep it part by part."""
    from ray_jobs.engine.admission import admitted, need_of_evaluations
    from ray_jobs.engine.connect import cluster_nodes, connect, connection
    from ray_jobs.engine.embedding import Cutting, embed
    from ray_jobs.engine.plans.plan import plan_jobs

    connect(ray_logs=False)
    console.print(connection())
    plan = plan_jobs(cluster_nodes(), len(work.left), arguments.evaluators, arguments.device)
    console.print(f"resources: {plan.arithmetic}")
    videos = Videos(len(work.sizes), len(work.done.sizes))
    rows, paths, failed, kept = list[dict[str, Any]](), list[str](), dict[str, str](), time.monotonic()
    cutting = Cutting(arguments.videos, work.spec, work.every, arguments.timeout)
    with (
        admitted(need_of_evaluations(plan), f"embed {arguments.videos}", console.print),
        Progress(videos.look, console),
    ):
        try:
            for video in embed(work.left, cutting, work.encoder, work.about["precision"], plan):
                rows += video.rows
                paths.append(video.path)
                failed |= {video.path: video.error} if video.error else {}
                videos.done, videos.failed = videos.done + 1, videos.failed + bool(video.error)
                if time.monotonic() - kept > KEEP:
                    work.keep(rows, failed, paths)
                    rows, paths, failed, kept = [], [], {}, time.monotonic()
        finally:
            if paths:
                work.keep(rows, failed, paths)
    for path, reason in work.done.failed.items():
        console.print(f"could not be read: {path}: {reason}")
