"""Source files of every kind become the picture that their makers meant."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paramcrop.data.prepare.picture import Turn, laid_down
from paramcrop.data.prepare.source import transcode
from paramcrop.data.video import VideoReader
from paramcrop.errors import VideoError
from tests.data.prepare.made_sources import display_matrix, means, stripes, write

GREYS = (32, 96, 160, 224)
COLOURS = ((253, 0, 0), (0, 253, 0), (0, 0, 253))
ONE, NOT = 1 << 16, -(1 << 16)

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
