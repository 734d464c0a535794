"""Plans of a folder of videos, carried out without Ray."""

from __future__ import annotations

from collections.abc import Callable

from paramcrop.data.manifest import Manifest
from paramcrop.data.prepare.attempt import begin, read_parts
from paramcrop.data.prepare.datasets import find_dataset
from paramcrop.data.prepare.plan import Part, Plan, make_plan
from paramcrop.data.prepare.transcode import make_shard
from paramcrop.data.shards import Video, read_videos


def plan_of(videos: str, **changes: int) -> Plan:
    settings = {"short_side": 16, "crf": 20, "shard_videos": 2, "seed": 0} | changes
    return make_plan(find_dataset("folder", videos, None), "folder", **settings)


def prepare(plan: Plan, videos: str, out: str, most: int = 99) -> dict[int, Part]:
    """Begin, and make up to ``most`` of the missing shards."""
    begin(out, fresh=False)
    parts = read_parts(out, plan)
    for piece in [piece for piece in plan.pieces if piece.number not in parts][:most]:
        parts[piece.number] = make_shard(piece, videos, out, 30)
    return parts


def rows(out: str) -> list[Video]:
    return sorted(read_videos(out), key=lambda video: video.id)


def same(plan: Plan) -> Callable[[Manifest], bool]:
    return lambda manifest: manifest.plan == plan.id
