"""The decoders read the same frames under the same numbers, and planes have decord's colours."""

from __future__ import annotations

import io
import subprocess
import sys
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from paramcrop.crops.picture import to_rgb
from paramcrop.data.clips import ClipSpec
from paramcrop.data.decoders.planes import PlaneFrames, colours_of_planes
from paramcrop.data.manifest import Manifest
from paramcrop.data.prepare.source import transcode
from paramcrop.data.samples import epoch_batches
from paramcrop.data.shards import read_videos
from paramcrop.data.synthetic import render
from paramcrop.data.video import VideoReader, encode
from paramcrop.errors import ConfigError, VideoError
from tests.data.counted import counting, numbers_in

DECORD = pytest.mark.skipif(find_spec("decord") is None, reason="decord has no wheel for this machine")
RATES = (1, 5, 7.5, 10, 12, 12.5, 15, 24000 / 1001, 24, 25, 30000 / 1001, 30, 50, 60000 / 1001)
LENGTHS = (1, 2, 3, 15, 16, 17, 33, 70)


def has_torchcodec() -> bool:
    try:
        VideoReader(encode(np.zeros((2, 16, 16, 3), np.uint8), 10.0).data, "torchcodec")
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{rate:.3g}")
def test_every_decoder_gives_frame_n_under_number_n(rate: float) -> None:
    for length in LENGTHS:
        data = encode(counting(length), rate).data
        for decoder in ("planes", *(["decord"] if find_spec("decord") else []), *["torchcodec"] * has_torchcodec()):
            reader = VideoReader(data, decoder)
            assert reader.frames == length, (decoder, length)
            assert numbers_in(reader.read(np.arange(length))) == list(range(length)), (decoder, length)
            alone = np.array([length * 2 // 3])  # what comes after a seek
            assert numbers_in(reader.read(alone)) == alone.tolist(), (decoder, length)


@DECORD
def test_planes_have_decords_colours_to_the_bit() -> None:
    """On a video of several keyframes, frames wide apart and close together, the first and the last."""
    data = encode(render("sideways", 90, 48, 64, np.random.default_rng(0)), 12.0).data
    with_decord, with_planes = VideoReader(data, "decord"), VideoReader(data)
    assert with_decord.frames == with_planes.frames == 90
    for wanted in ([0], [89], [15, 16, 17], [3, 40, 41, 88], list(range(20, 84)), list(range(90)), [5, 5, 2]):
        read = with_planes.read(np.array(wanted))
        np.testing.assert_array_equal(with_decord.read(np.array(wanted)), read)


@pytest.mark.parametrize("seed", range(3))
def test_the_fastest_colours_are_those_that_pytorch_defines(seed: int) -> None:
    """Over all values, in planes of sizes that FFmpeg's converter treats differently."""
    height, width = ((48, 64), (120, 120), (6, 136))[seed]
    stored = np.random.default_rng(seed).integers(0, 256, (9, height * 3 // 2, width)).astype(np.uint8)
    defined = to_rgb(torch.from_numpy(stored)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(colours_of_planes(stored), defined)


def test_a_machine_whose_converter_rounds_otherwise_has_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = VideoReader(encode(render("grow", 20, 48, 66, np.random.default_rng(0)), 12.0).data)
    with_ffmpeg = reader.read(np.arange(20))
    monkeypatch.setattr("paramcrop.data.decoders.planes.ALIKE", False)
    np.testing.assert_array_equal(reader.read(np.arange(20)), with_ffmpeg)


@DECORD
def test_planes_have_decords_colours_on_real_videos(real_videos: Path) -> None:
    for path in sorted((real_videos / "small").glob("*.avi"))[:4]:
        encoded = transcode(path)
        frames = np.arange(min(encoded.frames, 70))
        colours = [VideoReader(encoded.data, name).read(frames).astype(int) for name in ("decord", "planes")]
        difference = np.abs(colours[0] - colours[1])
        assert difference.mean() < 1 and difference.max() < 4, path.name


def as_before(pixels: np.ndarray, fps: int) -> bytes:
    """A video as shards of format 2 have it: without fastdecode."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *pixels.shape[1:3], "yuv420p", 16
        stream.options = {"preset": "veryfast", "sc_threshold": "0", "crf": "20"}
        for i, picture in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@DECORD
def test_videos_of_older_shards_are_read_alike() -> None:
    data = as_before(render("circle", 50, 48, 64, np.random.default_rng(1)), 12)
    np.testing.assert_array_equal(
        VideoReader(data).read(np.arange(50)), VideoReader(data, "decord").read(np.arange(50))
    )


@pytest.mark.parametrize("form", ["yuv444p", "yuvj420p", "yuv420p10le"])
def test_a_file_that_is_no_shards_picture_is_read_as_ffmpeg_converts_it(form: str) -> None:
    """A user's own clip, which ``embed`` and the like read."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg" if form == "yuvj420p" else "ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 40, form
        for i in range(3):
            picture = av.VideoFrame.from_ndarray(np.full((32, 40, 3), 60 + 40 * i, np.uint8), format="rgb24")
            frame = picture.reformat(format=form)
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read = VideoReader(buffer.getvalue()).read(np.arange(3))
    assert np.abs(read.mean((1, 2, 3)) - [60, 100, 140]).max() < 3


def test_seeking_goes_on_decoding_where_no_keyframe_can_be_skipped() -> None:
    frames = PlaneFrames(encode(counting(70), 10.0).data)
    assert list(frames._runs([1, 2, 17, 33, 40])) == [[1, 2, 17, 33, 40]]
    assert list(frames._runs([1, 2, 33, 69])) == [[1, 2], [33], [69]]


@pytest.mark.parametrize("decoder", ["planes", "decord", "torchcodec"])
@pytest.mark.parametrize("data", [b"", b"not a video", bytes(range(256)) * 16])
def test_garbage_is_a_one_line_video_error(decoder: str, data: bytes) -> None:
    if decoder == "torchcodec" and not has_torchcodec():
        pytest.skip("torchcodec is not installed")
    if decoder == "decord" and find_spec("decord") is None:
        pytest.skip("decord has no wheel for this machine")
    with pytest.raises(VideoError, match="cannot open the video") as caught:
        VideoReader(data, decoder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_a_decoder_that_is_missing_says_what_to_do(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, decoder, None)  # importing it fails
    monkeypatch.setitem(sys.modules, f"{decoder}.decoders", None)
    with pytest.raises(ConfigError, match=f"^data.decoder={decoder} needs {decoder}") as caught:
        VideoReader(b"", decoder)
    assert "\n" not in str(caught.value)


BLOCKED = """
import sys
sys.modules["decord"] = None  # importing it fails
import numpy as np
from paramcrop.data.clips import ClipSpec, with_planes
from paramcrop.data.manifest import read_manifest
from paramcrop.data.samples import epoch_batches
folder, out = sys.argv[1:]
np.savez(out, **next(epoch_batches(folder, read_manifest(folder), ClipSpec(frames=8, size=32), 0, 0, 12, 2)))
"""


@DECORD
def test_a_machine_without_decord_cuts_the_batches_that_decord_cuts(
    shards: tuple[str, Manifest], tmp_path: Path
) -> None:
    folder, manifest = shards
    out = str(tmp_path / "blocked.npz")
    subprocess.run([sys.executable, "-c", BLOCKED, folder, out], check=True)
    spec = ClipSpec(frames=8, size=32, decoder="decord")
    here, blocked = next(epoch_batches(folder, manifest, spec, 0, 0, 12, 2)), np.load(out, allow_pickle=True)
    for name, column in here.items():
        np.testing.assert_array_equal(blocked[name], column, err_msg=name)
    assert next(read_videos(folder)).video
