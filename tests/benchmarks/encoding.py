"""What shards could be encoded with: the time of decoding a window, the bytes, and the loss.

On the real videos below the folder that PARAMCROP_TEST_VIDEOS names, or else on made-up ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np

from paramcrop.data import video
from paramcrop.data.decoders.planes import PlaneFrames, packed
from paramcrop.data.prepare.source import transcode
from paramcrop.data.synthetic import CLASSES, render
from tests.benchmarks.timing import Line, Report

WINDOW, ROUNDS, CRF = 64, 3, 20
WAYS: dict[str, tuple[dict[str, str], int, int]] = {  # options of x264 besides the usual ones, keyframe interval, crf
    "format 2": ({"tune": ""}, 16, CRF),
    "fastdecode (format 3)": ({}, 16, CRF),
    "without B-frames": ({"bf": "0"}, 16, CRF),
    "without B-frames, one reference": ({"bf": "0", "refs": "1"}, 16, CRF),
    "a keyframe every 8": ({}, 8, CRF),
    "a keyframe every 32": ({}, 32, CRF),
    "preset medium": ({"preset": "medium"}, 16, CRF),
    "crf 18": ({}, 16, 18),
    "crf 22": ({}, 16, 22),
}


def sources() -> list[np.ndarray]:
    """Videos of short side 128 as planes, (n, 192, W), nearly without loss."""
    if folder := os.environ.get("PARAMCROP_TEST_VIDEOS"):
        small = sorted(p for p in (Path(folder) / "small").iterdir() if p.suffix in (".avi", ".mkv"))
        encoded = [transcode(path, crf=1).data for path in small]
    else:
        drawn = [render(name, 100, 128, 170, np.random.default_rng(i)) for i, name in enumerate(CLASSES)]
        encoded = [video.encode(pixels, 25.0, crf=1).data for pixels in drawn]
    return [planes for data in encoded if len(planes := decoded(data)) >= WINDOW]


def decoded(data: bytes, numbers: range | None = None) -> np.ndarray:
    frames = PlaneFrames(data)
    numbers = range(frames.count) if numbers is None else numbers
    planes = np.empty((len(numbers), frames.size[0] * 3 // 2, frames.size[1]), np.uint8)
    for out, (_, picture) in zip(planes, frames.planes(numbers), strict=True):
        packed(picture, out)
    return planes


def encoded(planes: np.ndarray, options: dict[str, str], interval: int, crf: int) -> bytes:
    def pictures() -> Iterator[av.VideoFrame]:
        for picture in planes:
            yield av.VideoFrame.from_ndarray(picture, format="yuv420p")

    settings = {name: value for name, value in (video.X264 | options).items() if value}
    with patch.object(video, "X264", settings), patch.object(video, "KEYFRAME_INTERVAL", interval):
        return video.encode_frames(pictures(), planes.shape[1] // 3 * 2, planes.shape[2], 25.0, crf).data


def window_ms(data: bytes, count: int) -> float:
    """Milliseconds of a core for a window, over windows at several places; the best of some rounds."""
    starts, times = np.linspace(0, count - WINDOW, 4).astype(int).tolist(), list[float]()
    for _ in range(ROUNDS):
        begin = time.process_time()
        for start in starts:
            decoded(data, range(start, start + WINDOW))
        times.append(time.process_time() - begin)
    return min(times) / len(starts) * 1000


def loss_db(planes: np.ndarray, data: bytes) -> float:
    """PSNR of the luma."""
    height = planes.shape[1] // 3 * 2
    error = decoded(data)[:, :height].astype(np.float32) - planes[:, :height]
    return float(10 * np.log10(255**2 / (error**2).mean()))


def run(device: str) -> Report:
    clips, lines = sources(), list[Line]()
    for name, (options, interval, crf) in WAYS.items():
        made = [encoded(planes, options, interval, crf) for planes in clips]
        ms = float(np.mean([window_ms(data, len(planes)) for data, planes in zip(made, clips, strict=True)]))
        size = float(np.mean([len(data) / len(planes) for data, planes in zip(made, clips, strict=True)]))
        db = float(np.mean([loss_db(planes, data) for data, planes in zip(made, clips, strict=True)]))
        lines.append(Line(name, ms, {"bytes a frame": round(size), "PSNR, dB": db}))
    notes = [f"{len(clips)} videos of short side {clips[0].shape[1] // 3 * 2}; planes, CPU time; mean of the videos"]
    return Report("decoding a window of 64 frames, by how it was encoded", "ms of a core", lines, notes)
