"""Source files of every kind, made by PyAV."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from paramcrop.data.video import Encoded, VideoReader


def stripes(colours: Iterable[Any], height: int = 64, width: int = 96) -> np.ndarray:
    """uint8 (height, width, 3): one vertical stripe for each colour."""
    values = np.array([np.broadcast_to(colour, 3) for colour in colours], np.uint8)
    picture: np.ndarray = np.repeat(values[np.arange(width) * len(values) // width][None], height, 0)
    return picture


def write(
    path: Path,
    picture: np.ndarray,
    frames: int = 4,
    codec: str = "libx264",
    form: str = "yuv420p",
    matrix: int | None = None,
    full: bool = False,
    options: dict[str, str] | None = None,
    **attributes: Any,
) -> Path:
    """A file of ``frames`` equal frames of an RGB picture, in a pixel format, with a matrix (SWS_CS) and a range."""
    with av.open(str(path), "w") as container:
        stream = add(container, picture, codec, form, options, **attributes)
        if matrix is not None:
            stream.codec_context.colorspace = {5: 6}.get(matrix, matrix)
        if full or matrix is not None:
            stream.codec_context.color_range = 2 if full else 1
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if form != "rgb24":
                to = {"dst_colorspace": matrix or 5, "dst_color_range": 2 if full else 1}
                frame = frame.reformat(format=form, **to)
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def add(
    container: Any,
    picture: np.ndarray,
    codec: str = "libx264",
    form: str = "yuv420p",
    options: dict[str, str] | None = None,
    **attributes: Any,
) -> Any:
    stream = container.add_stream(codec, rate=10, options=options or {})
    stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], form
    for name, value in attributes.items():
        setattr(stream.codec_context, name, value)
    return stream


def moving(count: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """Noise of low contrast, so that packets have some bytes, and a bright bar that moves."""
    random, frames = np.random.default_rng(0), []
    for i in range(count):
        frame = random.integers(60, 90, (height, width, 3), np.uint8)
        frame[:, i % width] = 250
        frames.append(frame)
    return frames


def packets(count: int, **options: str) -> tuple[Any, list[bytes]]:
    """(stream to copy, the packets) of a moving H.264 video without B-frames at ten frames a second."""
    import io

    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = add(container, moving(1)[0], options={"bf": "0", "threads": "1", "g": "250"} | options)
        for i, pixels in enumerate(moving(count)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = av.open(io.BytesIO(sink.getvalue()), "r")
    return source, [bytes(packet) for packet in source.demux(video=0) if packet.size]


def remux(path: Path, source: Any, data: list[bytes], times: list[int] | None = None, **options: Any) -> Path:
    """Packets at ``times`` (default: 0, 1, 2, …), tenths of a second; the first is a keyframe."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for i, (payload, time) in enumerate(zip(data, times or range(len(data)), strict=True)):
            packet = av.Packet(payload)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 10), time, time
            packet.duration = 1
            packet.is_keyframe = i == 0
            container.mux(packet)
    return path


def display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix into the header of an MP4's only track, in place."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def means(encoded: Encoded, count: int) -> np.ndarray:
    """(count, 3): the colours in the middle of each of ``count`` vertical stripes, as training reads them."""
    frame = VideoReader(encoded.data).read(np.array([0]))[0].astype(float)
    h, w = frame.shape[:2]
    middles = [round(w * (i + 0.5) / count) for i in range(count)]
    return np.array([frame[h // 4 : -h // 4, x - 3 : x + 4].mean((0, 1)) for x in middles])
