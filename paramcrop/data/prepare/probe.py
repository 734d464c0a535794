"""What preparing a dataset will take, from a few of its videos."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from paramcrop.data.killable import Killable
from paramcrop.data.prepare.plan import Plan
from paramcrop.data.prepare.transcode import read_source
from paramcrop.data.shards import open_folder
from paramcrop.data.video import transcode
from paramcrop.errors import VideoError


@dataclass(frozen=True)
class Estimate:
    """``bytes`` of all shards and ``seconds`` of one core, from ``videos`` that were tried; 0 videos: not known."""

    videos: int
    bytes: float
    seconds: float


def probe(plan: Plan, videos: str, timeout: float, most: int = 6) -> Estimate:
    """Transcode up to ``most`` videos drawn at random; those that cannot be read are passed over."""
    fs, root = open_folder(videos)
    drawn = random.Random(0).sample(plan.sources, min(most, len(plan.sources)))
    tried, read, written, seconds = 0, 0, 0, 0.0
    with Killable(transcode, timeout) as convert:
        for i, source in enumerate([*drawn[:1], *drawn]):  # the first twice: starting the process does not count
            start = time.monotonic()
            try:
                path = f"{root}/{source.path}"
                encoded, _ = read_source(fs, path, convert, plan.settings["short_side"], plan.settings["crf"])
            except VideoError:
                continue
            if i > 0:
                tried, read, written = tried + 1, read + (source.bytes or 0), written + len(encoded.data)
                seconds += time.monotonic() - start
    if not tried:
        return Estimate(0, 0, 0)
    return Estimate(tried, plan.bytes * written / max(read, 1), len(plan.sources) * seconds / tried)
