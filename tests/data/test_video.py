from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paramcrop.data.prepare.source import transcode
from paramcrop.data.synthetic import render
from paramcrop.data.video import VideoReader, encode, scaled_size
from paramcrop.errors import VideoError


def moving(frames: int = 40) -> np.ndarray:
    return render("sideways", frames, 48, 64, np.random.default_rng(0))


def scene(frames: int = 40) -> np.ndarray:
    """A disc that moves before a smooth colour field with some grain: uint8 (frames, 48, 64, 3)."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(30, 225, (1, 3, 5, 6)))
    field = torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear", align_corners=True)[0]
    ground = field.permute(1, 2, 0).numpy() + rng.normal(0, 6, (48, 64, 1))
    rows, columns = np.mgrid[:48, :64]
    discs = [np.hypot(rows - 24, columns - 16 - 0.8 * i)[..., None] < 8 for i in range(frames)]
    shown = np.stack([np.where(disc, (200, 60, 90), ground) for disc in discs])
    pixels: np.ndarray = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    return pixels


def test_encoding_keeps_every_frame_approximately() -> None:
    pixels = scene()
    encoded = encode(pixels, 12.0)
    assert (encoded.frames, encoded.height, encoded.width, encoded.fps) == (40, 48, 64, 12.0)
    decoded = VideoReader(encoded.data).read(np.arange(40))
    assert decoded.shape == pixels.shape
    assert np.abs(decoded.astype(int) - pixels).mean() < 6


def test_reads_in_any_order_and_with_repeats_equal_a_full_read() -> None:
    data = encode(moving(), 12.0).data
    whole = VideoReader(data).read(np.arange(40))
    indices = np.array([39, 0, 17, 17, 3, 16])
    np.testing.assert_array_equal(VideoReader(data).read(indices), whole[indices])


def test_encoding_is_reproducible() -> None:
    assert encode(moving(), 12.0).data == encode(moving(), 12.0).data


@pytest.mark.parametrize("data", [b"", b"not a video", bytes(range(256)) * 16])
def test_garbage_is_a_one_line_video_error(data: bytes) -> None:
    with pytest.raises(VideoError, match="PyAV cannot open the video") as caught:
        VideoReader(data)
    assert "\n" not in str(caught.value)


def test_transcode_scales_the_short_side_and_sets_keyframes(tmp_path: Path) -> None:
    import av

    source = tmp_path / "source.mp4"
    source.write_bytes(encode(moving(), 25.0).data)
    encoded = transcode(source, short_side=24)
    assert (encoded.frames, encoded.height, encoded.width) == (40, 24, 32)
    small = tmp_path / "small.mp4"
    small.write_bytes(encoded.data)
    with av.open(str(small)) as container:
        keys = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert keys[:3] == [0, 16, 32]


def test_transcode_names_a_file_that_it_cannot_read(tmp_path: Path) -> None:
    text = tmp_path / "text.avi"
    text.write_text("hello")
    for path in (text, tmp_path / "absent.mp4"):
        with pytest.raises(VideoError, match=path.name):
            transcode(path)


def test_scaled_size_is_even_and_keeps_the_aspect() -> None:
    assert scaled_size(240, 320, 128) == (128, 170)
    assert scaled_size(320, 240, 128) == (170, 128)


def test_real_videos_transcode_and_read_back(real_videos: Path) -> None:
    paths = [p for p in sorted((real_videos / "small").iterdir()) if p.suffix in (".avi", ".mkv")]
    assert paths
    for path in paths:
        encoded = transcode(path)
        reader = VideoReader(encoded.data)
        assert abs(reader.frames - encoded.frames) <= 2
        assert min(reader.read(np.array([0, reader.frames // 2])).shape[1:3]) == 128
