"""The features of a folder of videos: cut, kept, searched and shown."""

from __future__ import annotations

import base64
import io
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import paramcrop
from paramcrop.data.synthetic import render
from paramcrop.data.uniform import UniformSpec
from paramcrop.data.video import VideoReader, encode
from paramcrop.errors import ConfigError, DataError, VideoError
from paramcrop.evaluation.features import Normalise
from paramcrop.export import clips, search
from paramcrop.export.clips import cut_group, starts_every
from paramcrop.export.features import Features, finish, make_table, parts_of, read_done, write_part
from paramcrop.export.gallery import write_gallery
from paramcrop.export.plane import plane

SPEC = UniformSpec(clips=3, frames=4, stride=2, size=24, box=0.875)
RANDOM = np.random.default_rng(0)


def made_video(file: Path, frames: int = 40, fps: float = 20.0, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode(render("circle", frames, 32, 40, np.random.default_rng(seed)), fps).data)
    return file


def test_clips_are_those_of_preprocess_with_their_times(exported: Path, tmp_path: Path) -> None:
    encoder = paramcrop.load(exported)
    file = made_video(tmp_path / "a" / "one.mp4")
    spec = encoder.description.input.clips(3)
    group = cut_group(str(tmp_path), "a/one.mp4", spec, None, 0)
    shown = encoder.description.input
    pixels = torch.from_numpy(group.frames).permute(0, 4, 1, 2, 3).float() / 255
    torch.testing.assert_close(Normalise(shown.mean, shown.std)(pixels), encoder.preprocess(file, clips=3))
    last = 40 - spec.span
    np.testing.assert_allclose(group.start, [0, round(last / 2) / 20, last / 20], atol=1e-3)
    np.testing.assert_allclose(group.end - group.start, (spec.span - 1) / 20, atol=1e-3)
    assert (group.first, group.total) == (0, 3)
    picture = Image.open(io.BytesIO(group.pictures[1]))  # from the source, not in the size of the network's clips
    middle = VideoReader(file.read_bytes()).read(np.array([round(last / 2) + spec.frames // 2 * spec.stride]))[0]
    assert picture.size == (32, 32) != (spec.size, spec.size)
    assert np.abs(np.asarray(picture, float) - middle[:, 4:36]).mean() < 8


def test_a_clip_every_so_many_seconds_comes_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "GROUP", 4)
    made_video(tmp_path / "one.mp4", frames=60)
    first, second = (cut_group(str(tmp_path), "one.mp4", SPEC, 0.4, start) for start in (0, 4))
    assert (first.total, second.total, second.first) == (7, 7, 4)
    np.testing.assert_allclose([*first.start, *second.start], [0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4], atol=1e-3)
    assert starts_every(np.arange(5) / 20, 0.4, SPEC).tolist() == [0]  # shorter than a clip


@pytest.mark.parametrize("content", [b"no video", None])
def test_a_file_that_is_no_video_is_an_error_of_the_video(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(VideoError):
        cut_group(str(tmp_path), "x.mp4", SPEC, None, 0)


def test_times_follow_the_packets(tmp_path: Path) -> None:
    reader = VideoReader(made_video(tmp_path / "a.mp4", frames=10, fps=12.5).read_bytes())
    np.testing.assert_allclose(reader.times(), np.arange(10) / 12.5, atol=1e-4)


def rows(path: str, vectors: np.ndarray) -> list[dict[str, Any]]:
    picture = clips.jpeg(np.zeros((8, 8, 3), np.uint8))
    return [
        {"path": path, "clip": i, "start": float(i), "end": i + 1.0, "feature": vector, "picture": picture}
        for i, vector in enumerate(vectors)
    ]


ABOUT = {"key": "k", "encoder": "demo-1", "features": 8, "videos": "/videos", "clips": 2, "every": None}


def made_features(folder: Path, videos: int = 6, each: int = 2) -> Features:
    """Features in which the clips of a video are near one another."""
    out, generator = folder / "f.parquet", np.random.default_rng(1)
    centres = generator.normal(size=(videos, 8))
    names = [f"{'ab'[i % 2]}/{i}.mp4" for i in range(videos)]
    table = make_table(
        [
            row
            for name, centre in zip(names, centres, strict=True)
            for row in rows(name, (centre + 0.05 * generator.normal(size=(each, 8))).astype(np.float32))
        ],
        8,
    )
    finish(out, [table], ABOUT | {"sizes": dict.fromkeys(names, 9), "failed": {}})
    return Features.read(out)


def test_what_is_done_is_not_done_again_and_what_has_changed_is(tmp_path: Path) -> None:
    out, sizes = tmp_path / "f.parquet", {"a.mp4": 1, "b.mp4": 2, "bad.mp4": 3, "slow.mp4": 4, "new.mp4": 5}
    assert read_done(out, "k", sizes).sizes == {}
    one, bad = {"a.mp4": 1, "bad.mp4": 3}, {"bad.mp4": "no video"}
    table = make_table(rows("a.mp4", RANDOM.normal(size=(2, 8))), 8)
    write_part(out, table, ABOUT | {"sizes": one, "failed": bad})
    two = {"b.mp4": 7, "slow.mp4": 4}
    slow = {"slow.mp4": "reading took longer than 60 s"}
    write_part(out, make_table(rows("b.mp4", RANDOM.normal(size=(2, 8))), 8), ABOUT | {"sizes": two, "failed": slow})
    done = read_done(out, "k", sizes)
    assert done.sizes == {"a.mp4": 1, "bad.mp4": 3} and done.failed == {"bad.mp4": "no video"}  # b has another size
    assert sum(map(len, done.tables)) == 2
    assert read_done(out, "other", sizes).sizes == {}
    finish(out, done.tables, ABOUT | {"sizes": done.sizes, "failed": done.failed})
    assert not parts_of(out).exists() and Features.read(out).path == ["a.mp4", "a.mp4"]
    assert read_done(out, "k", sizes).sizes == done.sizes
    (tmp_path / "mine.parquet").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out must be a new file or one of this command, but: features must be"):
        read_done(tmp_path / "mine.parquet", "k", sizes)


def test_the_search_finds_the_largest_cosine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = made_features(tmp_path)
    monkeypatch.setattr(search, "BLOCK", 5)  # queries one by one
    found = features.search(torch.tensor(features.vectors[[4, 7]]) * 3, k=3)
    assert [hits[0].row for hits in found] == [4, 7]
    assert found[0][0].cosine == pytest.approx(1, abs=1e-5) and found[0][1].path == features.path[4]
    assert [hit.cosine for hit in found[0]] == sorted((hit.cosine for hit in found[0]), reverse=True)
    assert len(features.search(features.vectors[0], k=99)[0]) == len(features.path)
    with pytest.raises(DataError, match="queries must have 8 features, but have 3"):
        features.search(np.ones(3))
    with pytest.raises(DataError, match=r"a file that `paramcrop embed` wrote, but .* is not: it does not"):
        Features.read(tmp_path / "absent.parquet")


@pytest.mark.parametrize("kind", search.KINDS)
def test_an_index_finds_what_the_plain_search_finds(kind: str, tmp_path: Path) -> None:
    if find_spec(kind) is None:
        pytest.skip(f"{kind} is not installed")
    features = made_features(tmp_path, videos=40)
    plain = features.search(features.vectors[:9], k=5)
    file = search.write_index(features.vectors, features.file, kind)
    indexed = features.search(features.vectors[:9], k=5)
    assert [[hit.row for hit in hits] for hits in indexed] == [[hit.row for hit in hits] for hits in plain]
    assert indexed[3][1].cosine == pytest.approx(plain[3][1].cosine, abs=1e-5)
    file.write_bytes(b"no index")
    with pytest.raises(ConfigError, match=r"must be an index that .* can read, but: .*; without the file, the"):
        features.search(features.vectors[:1])
    search.remove_indexes(features.file)
    assert not file.exists()


def test_the_page_is_one_file_with_every_clip_and_its_neighbours(tmp_path: Path) -> None:
    features = made_features(tmp_path)
    text = write_gallery(features, tmp_path / "f.html").read_text()
    assert not re.search(r"(?:src|href)=\"http|url\(http|@import", text)
    found = re.search(r'id="data">(.*?)</script>', text, re.S)
    assert found
    data = json.loads(found[1])
    assert [clip["path"] for clip in data] == features.path
    for i, clip in enumerate(data):
        assert clip["path"] == data[clip["every"][0][0]]["path"] and clip["every"][0][0] != i
        others = [data[row]["path"] for row, _ in clip["others"]]
        assert clip["path"] not in others and len(others) == len(set(others)) == 5
        assert base64.b64decode(clip["picture"]) == features.pictures[i]
        assert -1 <= clip["x"] <= 1 and -1 <= clip["y"] <= 1
    assert "12 clips of 6 videos" in text


def test_names_cannot_end_the_pages_data(tmp_path: Path) -> None:
    out, name = tmp_path / "f.parquet", "</script><script>alert(1)</script>.mp4"
    table = make_table(rows(name, RANDOM.normal(size=(1, 8))), 8)
    finish(out, [table], ABOUT | {"sizes": {name: 1, "<b>.mp4": 2}, "failed": {"<b>.mp4": "<i>"}})
    text = write_gallery(Features.read(out), tmp_path / "f.html").read_text()
    assert "<script>alert" not in text and "<b>.mp4" not in text and "1 clip of 1 video<" in text


def test_the_map_keeps_neighbours_together() -> None:
    generator = np.random.default_rng(0)
    label = np.repeat(np.arange(4), 10)
    vectors = generator.normal(size=(4, 16))[label] * 2 + generator.normal(size=(40, 16))
    places = plane(vectors)
    distance = ((places[:, None] - places[None]) ** 2).sum(2) + 9 * np.eye(40)
    assert (label[distance.argmin(1)] == label).mean() > 0.9
    assert np.array_equal(places, plane(vectors)) and np.abs(places).max() == pytest.approx(1)
    for few in (np.ones((1, 3)), np.ones((2, 3)), np.eye(3), np.zeros((12, 3))):
        assert plane(few).shape == (len(few), 2) and np.isfinite(plane(few)).all()
