"""A source file -> a video as shards have it, of all frames that decode, and a report of what was done and lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from paramcrop.data.prepare.picture import ATTACHED, best_of, open_video, picture_of, shown, videos_in
from paramcrop.data.video import Encoded, encode_frames, first_line, scaled_size
from paramcrop.errors import VideoError

Packet = Any  # av.Packet, generic in later versions of PyAV
OUTPUT_CORRUPT = 0x8  # AV_CODEC_FLAG_OUTPUT_CORRUPT
WIDEST = 16384  # pixels; H.264 holds no more
UNEVEN = 0.1  # a rate varies if intervals far from the usual one are so large a share of all, or of the time
WHOLE = 0.9  # a file was read to its end if the last packet ends after so large a share of its duration


@dataclass
class Reading:
    """What one meets on the way through a file.

    Attributes:
        bad_packets: number of packets of the video that do not decode.
        bad_frames: number of frames that the decoder calls damaged.
        end: when the last packet of any stream ends, seconds.
        times: when the frames are shown, seconds.
        broken_off: whether the container is damaged, so that nothing behind can be read.
        error: the first error.
    """

    bad_packets: int = 0
    bad_frames: int = 0
    end: float = 0.0
    times: list[float] = field(default_factory=list)
    broken_off: bool = False
    error: av.FFmpegError | None = None


def transcode(path: str | Path, short_side: int = 128, crf: int = 20) -> Encoded:
    """Re-encode a video file as it is meant to be seen, with a short side of ``short_side`` pixels.

    It is turned, squeezed and cut as the file says, and its colours are those of its own range and matrix. Frames come
    as they are stored: a rate that varies is not evened out. Frames that do not decode are left out. Keyframes,
    rounding: see ``KEYFRAME_INTERVAL`` and ``scaled_size``.

    Raises:
        VideoError: the file is missing, has no video stream, or none of its frames can be decoded.
    """
    try:
        # Without a first keyframe, the decoder holds back all frames up to the next, which may be all there are.
        return _transcode(path, short_side, crf) or _transcode(path, short_side, crf, OUTPUT_CORRUPT) or _none(path)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: PyAV cannot decode the video: {first_line(error)}") from error


def _none(path: str | Path) -> Encoded:
    raise VideoError(f"{path}: the video has no frames")


def _transcode(path: str | Path, short_side: int, crf: int, flags: int = 0) -> Encoded | None:
    """``transcode`` with these flags of the decoder; None: it gives no frame."""
    with open_video(str(path)) as container:
        stream, reading = best_stream(container, path), Reading()
        stream.codec_context.thread_count = 1  # one core per file, which is as fast in total as FFmpeg's threads
        stream.codec_context.flags |= flags
        frames = frames_of(container, stream, reading)
        if (first := next(frames, None)) is None:
            if flags and reading.error is not None:
                raise reading.error
            return None
        picture = picture_of(first, stream.sample_aspect_ratio)
        height, width = scaled_size(*picture.size(first.height, first.width), short_side)
        if max(height, width) > WIDEST:
            raise VideoError(f"{path}: H.264 holds {WIDEST} pixels a side, but the picture needs {height} x {width}")
        upright = (shown(frame, picture, height, width) for frame in chain([first], frames))
        encoded = encode_frames(upright, height, width, float(stream.average_rate or 25), crf)
        announced = announced_frames(container, stream, reading.end)
        treatment = picture.treatment | streams_taken(container, stream) | rate_kept(reading.times, reading.bad_packets)
        return replace(encoded, announced=announced, damage=damage(reading), treatment=treatment)


def best_stream(container: InputContainer, path: str | Path) -> av.VideoStream:
    """See ``best_of``.

    Raises:
        VideoError: there is none.
    """
    streams = videos_in(container)
    if not streams:
        attached = any(s.disposition.value & ATTACHED for s in container.streams.video)
        without = ", only an attached picture" if attached else " that PyAV can decode" * bool(container.streams.video)
        raise VideoError(f"{path}: the file has no video stream{without}")
    return best_of(streams)


def frames_of(container: InputContainer, stream: av.VideoStream, reading: Reading) -> Iterator[av.VideoFrame]:
    """The frames of a stream; packets that do not decode are skipped, and where the file breaks off, it ends."""
    packets = packets_of(container, stream, reading)
    for packet in chain(packets, [None]):  # None flushes the decoder, unless a packet did
        try:
            frames = stream.codec_context.decode(packet)
        except (MemoryError, OSError):
            raise
        except EOFError:
            return
        except av.FFmpegError as error:
            reading.bad_packets += packet is not None
            reading.error = reading.error or error
            continue
        for frame in frames:
            reading.bad_frames += bool(frame.is_corrupt)
            if frame.pts is not None and stream.time_base:
                reading.times.append(float(frame.pts * stream.time_base))
            yield frame


def packets_of(container: InputContainer, stream: av.VideoStream, reading: Reading) -> Iterator[Packet]:
    """The packets of one stream. All streams are read, so that it is known how far the file goes."""
    played = [s for s in container.streams if s.type in ("audio", "video") and s.codec_context is not None]
    try:
        for packet in container.demux(played):
            if packet.pts is not None and packet.time_base:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                reading.end = max(reading.end, end)
            if packet.stream.index == stream.index and packet.size:
                yield packet
    except (MemoryError, OSError):
        raise
    except av.FFmpegError as error:
        reading.broken_off, reading.error = True, reading.error or error


def announced_frames(container: InputContainer, stream: av.VideoStream, end: float) -> int:
    """The number of frames according to the container; 0: unknown. What an edit list leaves out does not count.

    Args:
        end: when the last packet of any stream ends, seconds.
    """
    seconds, rate = _seconds(stream), float(stream.average_rate or 0)
    if stream.frames:
        # Edit lists are in MP4 and MOV. Elsewhere, the duration may be guessed from the size of the file.
        played = round((seconds or 0) * rate) if "mp4" in container.format.name else 0
        return min(stream.frames, played or stream.frames)
    if seconds is None and container.duration is not None:
        seconds = container.duration / av.time_base
        if len(container.streams) > 1 and end >= WHOLE * seconds:
            return 0  # the file is whole; the duration may be that of another stream
    return round((seconds or 0) * rate)


def _seconds(stream: av.VideoStream) -> float | None:
    """The duration of a stream; Matroska has it as a tag."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None


def damage(reading: Reading) -> str:
    """What did not decode, in words; empty: nothing."""
    counts = [(reading.bad_packets, "packet"), (reading.bad_frames, "frame")]
    texts = [f"{n} {what}{'s are' if n > 1 else ' is'} damaged" for n, what in counts if n]
    return ", ".join([*texts, *["the file breaks off"] * reading.broken_off])


def streams_taken(container: InputContainer, stream: av.VideoStream) -> dict[str, str]:
    """{"stream": "2 of 2"} if there was a choice among videos."""
    streams = videos_in(container)
    number = [s.index for s in streams].index(stream.index) + 1
    return {"stream": f"{number} of {len(streams)}"} if len(streams) > 1 else {}


def rate_kept(times: list[float], lost: int = 0) -> dict[str, str]:
    """{"rate": "varies"} if the frames shown at ``times``, seconds, are not evenly spaced but for ``lost`` frames."""
    # An AVI may give B-frames each other's times, and a file of joined parts may start again.
    steps = np.diff(np.sort(times))
    steps = np.sort(steps[steps > 0])
    steps = steps[: len(steps) - lost]
    if len(steps) < 2:
        return {}
    usual = np.median(steps)
    far = np.abs(steps - usual) > usual / 2
    return {"rate": "varies"} if max(far.mean(), steps[far].sum() / steps.sum()) > UNEVEN else {}
