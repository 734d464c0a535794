"""The paper's datasets: classes, splits, videos; and in what the data of a run or a result falls short of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paramcrop.data.manifest import enlarged_from

CLASSES = {"kinetics": 400, "ucf101": 101, "hmdb51": 51}
SPLITS = {"ucf101": 3, "hmdb51": 3}  # official test splits; the paper averages over them
# Videos by split, None: all. The paper gives 240,000 for Kinetics' training split. It gives 6,849 for HMDB51, of which
# the official lists name 6,766.
VIDEOS: dict[str, dict[str | None, int]] = {
    "kinetics": {None: 240_000, "train": 240_000},
    "ucf101": {None: 13_320, "train1": 9_537, "train2": 9_586, "train3": 9_624},
    "hmdb51": {None: 6_766, "train1": 3_570, "train2": 3_570, "train3": 3_570},
}
# Videos disappear from YouTube: downloads of Kinetics-400 by many groups have 220,000 to 226,000 of the 240,000. The
# paper's own copy had some such number. The other two sets are archives that are complete.
LOST = {"kinetics": 0.1}


def missing_videos(dataset: str, split: str | None, videos: int | None) -> Iterator[str]:
    """ "9000 of the 13320 videos of ucf101", if that is fewer than the paper's set, less what ``LOST`` allows."""
    expected = VIDEOS.get(dataset, {}).get(split)
    if expected is not None and videos is not None and videos < expected * (1 - LOST.get(dataset, 0.0)):
        yield f"{videos} of the {expected} videos of {dataset}{f', {split}' if split else ''}"


def enlarged_frames(about: Mapping[str, Any], box: float, size: int) -> Iterator[str]:
    """ "frames enlarged from 112 to 224 pixels", or that the size of the frames is unknown.

    Args:
        about: ``Manifest.about`` as a run or a result recorded it. Others as in ``enlarged_from``.
    """
    short_side = about.get("short_side")
    if short_side is None:
        yield "frames of a size that was not recorded"
    elif (side := enlarged_from(short_side, box, size)) is not None:
        yield f"frames enlarged from {side} to {size} pixels"


def pretraining_frames(about: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    """``enlarged_frames`` of the clips that the croppers see, by a run's settings."""
    data = settings.get("data", {})
    if "clip_size" in data:
        box = data["random_box"][1] if data["random_cube"] else 1.0
        yield from enlarged_frames(about, box, data["clip_size"])
