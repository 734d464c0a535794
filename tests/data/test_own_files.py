"""Files of the user's own, which nothing has prepared."""

from __future__ import annotations

import gc
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from paramcrop.data.decoders.planes import PlaneFrames
from paramcrop.data.prepare.picture import open_video
from paramcrop.data.video import VideoReader, encode
from tests.data.counted import counting
from tests.data.prepare.made_sources import add, display_matrix, stripes, write


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_a_users_own_file_is_upright(tmp_path: Path, matrix: tuple[int, int, int, int], turns: int) -> None:
    picture = stripes((30, 220))
    picture[:16] = 255
    source = display_matrix(write(tmp_path / "r.mp4", picture), *(65536 * value for value in matrix))
    frame = VideoReader(source.read_bytes()).read(np.array([1]))[0]
    expected = np.rot90(picture, turns)
    assert frame.shape == expected.shape and np.abs(frame.astype(float) - expected).mean() < 3


def test_a_users_own_file_has_square_pixels_and_its_best_stream(tmp_path: Path) -> None:
    wide = write(tmp_path / "s.mp4", stripes((255, 30)), sample_aspect_ratio=Fraction(2))
    assert VideoReader(wide.read_bytes()).read(np.array([0])).shape == (1, 64, 192, 3)
    with av.open(str(tmp_path / "two.mp4"), "w") as container:
        pictures = (stripes((0,), 32, 48), stripes((220,)))
        streams = [add(container, picture, "libx264", "yuv420p") for picture in pictures]
        for stream, picture in zip(streams, pictures, strict=True):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    frame = VideoReader((tmp_path / "two.mp4").read_bytes()).read(np.array([0]))[0]
    assert frame.shape == (64, 96, 3) and frame.mean() > 200


def test_readers_close_their_files() -> None:
    frames = PlaneFrames(encode(counting(5), 10.0).data)
    container = frames._container
    gc.disable()
    try:
        del frames
        with pytest.raises(Exception, match="Container is not open"):
            next(container.decode(video=0))
    finally:
        gc.enable()


READS_TO_THE_END = """
import atexit, sys
def last():
    print(len(reader.read([0, 1])))
atexit.register(last)  # before the reader exists, so it runs after what the reader may register
from paramcrop.data.decoders.planes import PlaneFrames
reader = PlaneFrames(open(sys.argv[1], "rb").read())
"""


def test_metadata_that_is_no_utf8_is_no_error(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "plain.mp4"), "w") as container:
        container.metadata["comment"] = "caf#"
        stream = add(container, picture := stripes((255, 30)))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    stored = (tmp_path / "plain.mp4").read_bytes()
    latin = stored.replace(b"caf#", b"caf\xe9")
    assert latin != stored
    assert VideoReader(latin).read(np.array([0])).shape == VideoReader(stored).read(np.array([0])).shape


def test_a_file_that_a_thread_still_reads_is_not_closed_when_the_program_ends(tmp_path: Path) -> None:
    """Closing it ended one program in three by a segmentation fault."""
    (tmp_path / "video.mp4").write_bytes(encode(counting(5), 10.0).data)
    command = [sys.executable, "-c", READS_TO_THE_END, str(tmp_path / "video.mp4")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "2\n"


def test_a_users_own_files_are_read_at_their_frames(real_videos: Path) -> None:
    """AVI stores no times: those that FFmpeg gives to XviD's B-frames are out of order."""
    paths = sorted(p for p in (real_videos / "small").iterdir() if p.suffix in (".avi", ".mkv"))
    assert paths
    for path in paths:
        with open_video(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
        reader = VideoReader(path.read_bytes())
        assert 0 <= reader.frames - len(frames) <= 1, path
        numbers = np.array([1, len(frames) // 2, 3, len(frames) - 2])
        for number, shown in zip(numbers, reader.read(numbers), strict=True):
            apart = np.abs(shown - frames[number]).mean()
            assert apart < 2, (path, number, apart)
