"""Which of a source's streams is read, and what is kept of a damaged one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from paramcrop.data.prepare.source import rate_kept, transcode
from paramcrop.errors import VideoError
from tests.data.prepare.made_sources import add, means, moving, packets, remux, stripes


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
