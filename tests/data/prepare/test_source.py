"""Source files of every kind become the picture that their makers meant."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from paramcrop.data.prepare.picture import Turn, laid_down
from paramcrop.data.prepare.source import rate_kept, transcode
from paramcrop.data.video import Encoded, VideoReader
from paramcrop.errors import VideoError

GREYS = (32, 96, 160, 224)
COLOURS = ((253, 0, 0), (0, 253, 0), (0, 0, 253))
ONE, NOT = 1 << 16, -(1 << 16)


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


RANGES: dict[str, dict[str, Any]] = {
    "limited.mp4": {},
    "full_h264.mp4": {"full": True, "form": "yuvj420p"},
    "full_444.mkv": {"full": True, "form": "yuv444p", "codec": "ffv1"},
    "full_10_bits.mkv": {"full": True, "form": "yuv422p10le", "codec": "ffv1"},
    "limited_10_bits.mkv": {"form": "yuv422p10le", "codec": "ffv1"},
    "mjpeg.avi": {"full": True, "form": "yuvj420p", "codec": "mjpeg"},
    "mjpeg_422.mov": {"full": True, "form": "yuvj422p", "codec": "mjpeg"},
    "bgr0.mkv": {"form": "bgr0", "codec": "ffv1"},
    "gbrp.mkv": {"form": "gbrp10le", "codec": "ffv1"},
    "png.mov": {"form": "rgb24", "codec": "png"},
    "raw.avi": {"form": "bgr24", "codec": "rawvideo"},
    "x264rgb.mkv": {"form": "rgb24", "codec": "libx264rgb"},
    "grey.mkv": {"full": True, "form": "gray", "codec": "ffv1"},
    "x.gif": {"form": "rgb8", "codec": "gif"},
}


@pytest.mark.parametrize("name", RANGES)
def test_greys_of_every_range_are_themselves(tmp_path: Path, name: str) -> None:
    greys = (36, 109, 182, 255) if name == "x.gif" else GREYS  # its palette has no others
    encoded = transcode(write(tmp_path / name, stripes(greys), **RANGES[name]), 64)
    within = 22 if name == "x.gif" else 3  # blue has two bits in that palette
    assert np.abs(means(encoded, 4) - np.array(greys)[:, None]).max() <= within, means(encoded, 4)
    if name != "x.gif":
        assert encoded.treatment.get("range") == ("full" if RANGES[name].get("full") else None)


@pytest.mark.parametrize(("matrix", "name"), [(1, "bt709"), (4, "fcc"), (5, None), (7, "smpte240m"), (9, "bt2020")])
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_decoded_with_the_files_own_matrix(
    tmp_path: Path, matrix: int, name: str | None, full: bool
) -> None:
    form = "yuvj420p" if full else "yuv420p"
    source = write(tmp_path / "c.mp4", stripes(COLOURS), matrix=matrix, full=full, form=form, options={"crf": "1"})
    encoded = transcode(source, 64, crf=1)
    assert np.abs(means(encoded, 3) - np.array(COLOURS)).max() <= 5, means(encoded, 3)
    assert encoded.treatment.get("matrix") == name


def test_a_plain_source_is_only_scaled(tmp_path: Path) -> None:
    encoded = transcode(write(tmp_path / "p.mp4", stripes(GREYS)), 32)
    assert (encoded.treatment, encoded.damage, encoded.announced, encoded.frames) == ({}, "", 4, 4)


CORNER = stripes((30, 220))  # bright on the right, and white above
CORNER[:16] = 255
MATRICES = {
    "90": (0, ONE, NOT, 0),
    "180": (NOT, 0, 0, NOT),
    "270": (0, NOT, ONE, 0),
    "mirrored": (NOT, 0, 0, ONE),
    "90 mirrored": (0, ONE, ONE, 0),
    "180 mirrored": (ONE, 0, 0, NOT),
    "270 mirrored": (0, NOT, NOT, 0),
    "": (46341, 46340, -46340, 46341),  # 45 degrees: as near to none as to 90
}


@pytest.mark.parametrize("turned", MATRICES)
def test_a_display_matrix_turns_the_picture_upright(tmp_path: Path, turned: str) -> None:
    source = display_matrix(write(tmp_path / "r.mp4", CORNER), *MATRICES[turned])
    encoded = transcode(source, 64)
    expected = np.rot90(CORNER, -int("0" + turned.split(" ")[0].replace("mirrored", "")) // 90)
    expected = expected[:, ::-1] if "mirrored" in turned else expected
    frame = VideoReader(encoded.data).read(np.array([0]))[0]
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(float) - expected).mean() < 3
    assert encoded.treatment == ({"turned": turned} if turned else {})


def test_the_eight_turns_differ() -> None:
    plane = np.arange(6).reshape(2, 3)
    turns = [Turn(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]
    assert len({laid_down(plane, turn).tobytes() for turn in turns}) == len({str(turn) for turn in turns}) == 8


@pytest.mark.parametrize(("ratio", "size"), [((2, 1), (64, 86)), ((1, 2), (192, 64)), ((4, 3), (64, 64))])
def test_pixels_become_square(tmp_path: Path, ratio: tuple[int, int], size: tuple[int, int]) -> None:
    picture = stripes((255, 30), 64, 48) if ratio == (4, 3) else stripes((255, 30), 96, 64)
    source = write(tmp_path / "s.mp4", picture, sample_aspect_ratio=Fraction(*ratio))
    encoded = transcode(source, 64)
    assert (encoded.height, encoded.width) == size
    assert encoded.treatment == {"squeezed": f"{ratio[0]}:{ratio[1]}"}


def test_a_turned_picture_of_wide_pixels_is_squeezed_first(tmp_path: Path) -> None:
    source = write(tmp_path / "s.mp4", stripes((255, 30), 96, 64), sample_aspect_ratio=Fraction(2, 1))
    encoded = transcode(display_matrix(source, *MATRICES["90"]), 64)
    assert (encoded.height, encoded.width) == (86, 64)


def test_a_picture_that_h264_cannot_hold_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "tall.mp4", stripes((255, 30), 4096, 16))
    with pytest.raises(VideoError, match=r"H\.264 holds 16384 pixels a side, but the picture needs 32768 x 128"):
        transcode(source)


def two_streams(path: Path, defaults: tuple[bool, bool], sizes: tuple[int, int] = (32, 64)) -> Path:
    with av.open(str(path), "w") as container:
        pictures = [stripes((40 + 100 * i,), size, size) for i, size in enumerate(sizes)]
        streams = [add(container, picture) for picture in pictures]
        for stream, default in zip(streams, defaults, strict=True):
            stream.disposition = 1 if default else 0
        for i in range(5):
            for stream, picture in zip(streams, pictures, strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 10)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("defaults", [(True, False), (True, True), (False, False)])
def test_the_largest_video_is_taken(tmp_path: Path, name: str, defaults: tuple[bool, bool]) -> None:
    encoded = transcode(two_streams(tmp_path / name, defaults), 64)
    assert encoded.treatment == {"stream": "2 of 2"}
    assert np.abs(means(encoded, 1) - 140).max() < 4


def test_a_default_that_was_asked_for_is_taken(tmp_path: Path) -> None:
    encoded = transcode(two_streams(tmp_path / "a.mkv", (False, True), sizes=(64, 32)), 64)
    assert encoded.treatment == {"stream": "2 of 2"}


def with_sound(path: Path, seconds: float, video: Any = None) -> Path:
    """AAC, and a cover or video that ``video(container)`` adds before and feeds after."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        feed = video(container) if video is not None else None
        for i in range(round(seconds * 16000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, i * 1024
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
        if feed is not None:
            feed()
    return path


def feeding(frames: int, codec: str = "libx264", form: str = "yuv420p", attached: bool = False) -> Any:
    picture = stripes((200, 30))

    def begin(container: Any) -> Any:
        stream = add(container, picture, codec, form)
        if attached:
            stream.disposition = 0x400

        def feed() -> None:
            for i in range(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=form)
                frame.pts, frame.time_base = i, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

        return feed

    return begin


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    source = with_sound(tmp_path / "song.mp4", 1, feeding(1, "png", "rgb24", attached=True))
    with pytest.raises(VideoError, match="the file has no video stream, only an attached picture"):
        transcode(source)
    with pytest.raises(VideoError, match=r"the file has no video stream$"):
        transcode(with_sound(tmp_path / "speech.mp4", 1))


def test_sound_that_is_longer_than_the_video_is_no_loss(tmp_path: Path) -> None:
    encoded = transcode(with_sound(tmp_path / "long.mkv", 6, feeding(10)), 32)
    assert (encoded.frames, encoded.announced) == (10, 10)


def test_a_bad_packet_is_skipped_and_counted(tmp_path: Path) -> None:
    source, data = packets(30)
    data[12] = bytes(len(data[12]))
    encoded = transcode(remux(tmp_path / "bad.mp4", source, data), 32)
    assert (encoded.frames, encoded.announced, encoded.damage) == (29, 30, "1 packet is damaged")


def test_frames_after_a_bad_first_packet_are_kept(tmp_path: Path) -> None:
    source, data = packets(30)
    data[0] = bytes(len(data[0]))
    encoded = transcode(remux(tmp_path / "bad.mp4", source, data), 32)
    assert (encoded.frames, encoded.announced) == (29, 30)
    assert encoded.damage.startswith("1 packet is damaged")


def test_a_file_of_bad_packets_alone_is_refused(tmp_path: Path) -> None:
    source, data = packets(5)
    with pytest.raises(VideoError, match="PyAV cannot decode the video: Invalid data"):
        transcode(remux(tmp_path / "bad.mp4", source, [bytes(len(payload)) for payload in data]))


def test_what_is_left_of_a_cut_file_is_kept(tmp_path: Path) -> None:
    source, data = packets(50)
    path = remux(tmp_path / "cut.mp4", source, data, movflags="faststart")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 5])
    encoded = transcode(path, 32)
    assert 10 < encoded.frames < 45 and encoded.announced == 50
    assert encoded.damage


def test_a_cut_avi_is_measured_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    with av.open(str(path), "w") as container:
        stream = add(container, moving(1)[0], "mpeg4")
        for i, pixels in enumerate(moving(60)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    encoded = transcode(path, 32)
    assert 15 < encoded.frames < 50 and encoded.announced == 60


def test_frames_outside_an_edit_list_are_not_missing(tmp_path: Path) -> None:
    source, data = packets(60)
    encoded = transcode(remux(tmp_path / "edited.mp4", source, data, list(range(-50, 10))), 32)
    assert (encoded.frames, encoded.announced, encoded.damage) == (10, 10, "")


def test_a_rate_that_varies_is_kept_and_said(tmp_path: Path) -> None:
    source, data = packets(40)
    slow_then_fast = [*range(0, 200, 10), *range(200, 220)]
    encoded = transcode(remux(tmp_path / "vfr.mkv", source, data, slow_then_fast), 32)
    assert (encoded.frames, encoded.treatment) == (40, {"rate": "varies"})


def test_a_dropped_frame_or_rounded_times_are_no_varying_rate() -> None:
    steady = np.round(np.arange(120) / 29.97, 3)
    assert rate_kept(steady.tolist()) == rate_kept(np.delete(steady, 50).tolist()) == rate_kept([0.0]) == {}
    assert rate_kept([0, 1, 3, 2, 5, 4, 7, 6]) == rate_kept([*range(20), *range(20)]) == {}
    assert rate_kept([*range(10), 50, *range(51, 60)]) == {"rate": "varies"}
