"""Frames that are kept decoded, by `data.cache`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from paramcrop.data.clips import ClipSpec, with_planes
from paramcrop.data.decoders.kept import KeptFrames
from paramcrop.data.decoders.planes import PlaneFrames, packed
from paramcrop.data.manifest import Manifest
from paramcrop.data.samples import epoch_batches
from paramcrop.data.synthetic import render
from paramcrop.data.video import VideoReader, encode
from tests.data.counted import counting, numbers_in


@pytest.fixture(autouse=True)
def _empty_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """However full the disk under the tests is."""
    _disk(monkeypatch, 10**12, 10**12)


def test_kept_frames_are_the_decoded_ones_and_are_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(render("grow", 20, 48, 66, np.random.default_rng(0)), 12.0).data
    fresh = VideoReader(data).read(np.arange(20))
    for _ in range(2):
        reader = VideoReader(data, cache=str(tmp_path / "kept"))
        assert (reader.frames, reader.size) == (20, (48, 66))
        np.testing.assert_array_equal(reader.read(np.array([3, 19, 3])), fresh[[3, 19, 3]])
        monkeypatch.setattr(PlaneFrames, "pictures", None)
    monkeypatch.undo()
    (kept,) = (tmp_path / "kept").iterdir()
    for length in (999, 0):  # cut short by a crash
        kept.write_bytes(kept.read_bytes()[:length])
        np.testing.assert_array_equal(VideoReader(data, cache=str(tmp_path / "kept")).read(np.arange(20)), fresh)


def test_samples_do_not_depend_on_what_is_kept(shards: tuple[str, Manifest], tmp_path: Path) -> None:
    for spec in (ClipSpec(frames=8, size=32), with_planes(ClipSpec(frames=8, size=32), 32)):
        fresh = next(epoch_batches(*shards, spec, 0, 0, 12, 2))
        for _ in range(2):
            kept = next(epoch_batches(*shards, replace(spec, cache=str(tmp_path)), 0, 0, 12, 2))
            for name, column in fresh.items():
                np.testing.assert_array_equal(kept[name], column, err_msg=name)
    assert len(list(tmp_path.iterdir())) == 12


@pytest.mark.parametrize("numbers", [[3, 4, 5], [4, 1, 1]])
def test_many_kept_frames_are_cut_as_each_is(numbers: list[int]) -> None:
    """Also where the square lies partly beyond the picture."""
    stored = np.random.default_rng(0).integers(0, 256, (6, 48, 44), np.uint8)  # of 32 x 44 pixels
    kept, out, each = KeptFrames(stored), np.empty((3, 36, 24), np.uint8), np.empty((3, 36, 24), np.uint8)
    for top, left in ((2, 4), (16, 30)):
        packed(kept.stacked(np.array(numbers)), out, top, left)
        for number, one in zip(numbers, each, strict=True):
            packed(next(kept.planes([number]))[1], one, top, left)
        np.testing.assert_array_equal(out, each)


def test_a_folder_that_is_full_or_missing_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(counting(5), 10.0).data
    (tmp_path / "file").write_text("no folder")
    assert numbers_in(VideoReader(data, cache=str(tmp_path / "file")).read(np.arange(5))) == list(range(5))
    for total, free in ((10**13, 10**10), (10**8, 10**7)):  # 10 GB of a large disk, a tenth of a small one
        _disk(monkeypatch, total, free)
        assert numbers_in(VideoReader(data, cache=str(tmp_path / "full")).read(np.arange(5))) == list(range(5))
        assert not list((tmp_path / "full").iterdir())
    asked, pictures = list[int](), PlaneFrames.pictures

    def counted(frames: PlaneFrames, numbers: Sequence[int]) -> Any:
        asked.extend(numbers)
        return pictures(frames, numbers)

    monkeypatch.setattr(PlaneFrames, "pictures", counted)
    VideoReader(data, cache=str(tmp_path / "full")).read(np.array([1, 3]))
    assert asked == [1, 3]  # what cannot be kept is not decoded


@pytest.mark.parametrize(("total", "free"), [(10**13, 11 * 10**9), (10**8, 11 * 10**6)])
def test_what_fits_into_a_disk_is_kept(total: int, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large disk keeps frames though nine tenths of it are full."""
    _disk(monkeypatch, total, free)
    VideoReader(encode(counting(5), 10.0).data, cache=str(tmp_path)).read(np.arange(5))
    assert len(list(tmp_path.iterdir())) == 1


def _disk(monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
    """A disk of ``total`` bytes of which ``free`` are free."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=total, free=free))
