"""Which stream of a source is its video, and what its picture means -> the upright picture of square pixels, as shards
have it.

Shards are untagged 4:2:0, which every decoder reads as limited range with the matrix of BT.601. A source may differ in
all of that: its container or stream says so, and here it is carried out.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer

# AVColorSpace of FFmpeg (Rec. ITU-T H.273, table 4) -> name. 5 and 6 are both BT.601; 2 is "unspecified".
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
SCALER = {"bt709": 1, "fcc": 4, "bt601": 5, "smpte240m": 7, "bt2020": 9}  # SWS_CS_* of libswscale
UNSPECIFIED, BT601 = 2, (5, 6)
LIMITED, FULL = 1, 2  # AVColorRange
# Bilinear, with accurate rounding and all chroma samples. Without, greys of RGB come out pink, by 3 of 255.
EXACT = 0x2 | 0x40000 | 0x2000 | 0x4000
ATTACHED = 0x400 | 0x800  # AV_DISPOSITION_ATTACHED_PIC, _TIMED_THUMBNAILS: pictures of a file, no videos
DEFAULT = 0x1  # AV_DISPOSITION_DEFAULT
WIDEST_PIXEL = 8  # a pixel is at most so many times as wide as high, or the ratio is taken for a mistake
# Metadata that is no UTF-8 is no error; PyAV 19 must not be told so.
LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}


def open_video(file: str | BinaryIO) -> InputContainer:
    """Open a video to read, by its path or from a binary file."""
    container: InputContainer = av.open(file, "r", **LENIENT)
    return container


def videos_in(container: InputContainer) -> list[av.VideoStream]:
    """The streams that are videos; covers and thumbnails are none."""
    return [s for s in container.streams.video if s.codec_context is not None and not s.disposition.value & ATTACHED]


def best_of(streams: Sequence[av.VideoStream]) -> av.VideoStream:
    """The video that the file calls its default, else the one with the largest picture, else the first.

    Muxers call the first stream the default unless they are asked for another, so only another one counts.
    """
    asked = [s for s in streams if s.disposition.value & DEFAULT] if not streams[0].disposition.value & DEFAULT else []
    return max(asked or streams, key=lambda s: (s.frames != 1, s.width * s.height))


@dataclass(frozen=True)
class Turn:
    """One of the eight ways to lay down a picture: transpose it first, then mirror it."""

    transpose: bool = False
    left_right: bool = False
    up_down: bool = False

    def __str__(self) -> str:
        """Degrees, clockwise, and whether it is mirrored left to right after that; empty: nothing is done."""
        mirrored = (self.transpose + self.left_right + self.up_down) % 2 == 1
        degrees = (90 if self.left_right != mirrored else 270) if self.transpose else 180 * self.up_down
        return " ".join([str(degrees)] * bool(degrees) + ["mirrored"] * mirrored)


@dataclass(frozen=True)
class Picture:
    """How to show the frames of a source.

    Attributes:
        turn: what makes them upright.
        pixel: width by height of a pixel.
        matrix: name of the matrix in ``MATRICES``, or "rgb".
        full: whether black is 0 and white 255 (of 8 bits) instead of 16 and 235.
    """

    turn: Turn
    pixel: Fraction
    matrix: str
    full: bool

    def size(self, height: int, width: int) -> tuple[float, float]:
        """(height, width) of a stored picture -> those of the upright one, in square pixels."""
        across = float(width * self.pixel)
        return (across, height) if self.turn.transpose else (height, across)

    @property
    def treatment(self) -> dict[str, str]:
        """What is done to the frames beyond scaling; empty: nothing."""
        squeezed = f"{self.pixel.numerator}:{self.pixel.denominator}" if self.pixel != 1 else ""
        matrix = self.matrix if self.matrix != "bt601" else ""
        facts = {"turned": str(self.turn), "squeezed": squeezed, "range": "full" if self.full else "", "matrix": matrix}
        return {name: value for name, value in facts.items() if value}


class Ratio(typing.Protocol):
    """A fraction of Python, or of PyAV 19."""

    @property
    def numerator(self) -> int: ...
    @property
    def denominator(self) -> int: ...


def picture_of(frame: av.VideoFrame, ratio: Ratio | None) -> Picture:
    """What a decoded frame and its stream's pixel ratio (None or 0: unknown, so square) say of a source."""
    pixel = Fraction(ratio.numerator, ratio.denominator) if ratio else Fraction(1)
    if not Fraction(1, WIDEST_PIXEL) <= pixel <= WIDEST_PIXEL:
        pixel = Fraction(1)
    form = frame.format
    if form.is_rgb or form.has_palette:
        return Picture(turn_of(frame), pixel, "rgb", False)  # RGB has but one range
    grey = form.name.startswith(("gray", "ya", "mono"))
    full = (
        form.name.startswith("yuvj") or int(frame.color_range) == FULL or (grey and int(frame.color_range) != LIMITED)
    )
    matrix = "bt601" if grey else MATRICES.get(int(frame.colorspace), "bt601")
    return Picture(turn_of(frame), pixel, matrix, full)


def turn_of(frame: av.VideoFrame) -> Turn:
    """The quarter turn, perhaps mirrored, of a frame's display matrix; a matrix between two counts as the nearer."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")  # PyAV's types do not say that it is a buffer
    if data is None:
        return Turn()
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].astype(float)
    # A point (x, y) is shown at (a x + c y, b x + d y), with y downwards.
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Turn(True, bool(c < 0), bool(b < 0))
    return Turn(False, bool(a < 0), bool(d < 0))


def shown(frame: av.VideoFrame, picture: Picture, height: int, width: int) -> av.VideoFrame:
    """A decoded frame -> its upright picture of ``height`` x ``width``, both even, 4:2:0, limited range, BT.601."""
    turn = picture.turn
    h, w = (width, height) if turn.transpose else (height, width)
    if picture.matrix == "bt601" and not picture.full:
        scaled = frame.reformat(w, h, format="yuv420p")
    else:
        scaled = frame.reformat(
            w,
            h,
            format="yuv420p",
            src_colorspace=SCALER.get(picture.matrix, SCALER["bt601"]),
            dst_colorspace=SCALER["bt601"],
            src_color_range=FULL if picture.full or picture.matrix == "rgb" else LIMITED,
            dst_color_range=LIMITED,
            interpolation=EXACT,
        )
    return scaled if turn == Turn() else turned(scaled, turn)


def turned(frame: av.VideoFrame, turn: Turn) -> av.VideoFrame:
    """A 4:2:0 frame, laid down in another way."""
    h, w = frame.height, frame.width
    y, u, v = np.split(frame.to_ndarray().reshape(-1), [h * w, h * w * 5 // 4])
    laid = [laid_down(y.reshape(h, w), turn), *(laid_down(c.reshape(h // 2, w // 2), turn) for c in (u, v))]
    height, width = laid[0].shape
    flat = np.concatenate([plane.reshape(-1) for plane in laid])
    return av.VideoFrame.from_ndarray(flat.reshape(height * 3 // 2, width), format="yuv420p")


def laid_down(plane: np.ndarray, turn: Turn) -> np.ndarray:
    """(h, w) -> (h, w), or (w, h) if it is transposed."""
    plane = plane.T if turn.transpose else plane
    return plane[:: -1 if turn.up_down else 1, :: -1 if turn.left_right else 1]
