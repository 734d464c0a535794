"""`paramcrop embed` as a command; its parts are tested in tests/export/test_features.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

import paramcrop
from paramcrop.errors import ConfigError, DataError, ParamCropError, ResourceError
from paramcrop.export.load import from_run
from ray_jobs.embed.command import main
from ray_jobs.embed.options import parse_arguments
from ray_jobs.engine import embedding
from ray_jobs.engine.embedding import Video, whole_videos
from tests.export.test_features import made_video
from tests.ray_jobs.commands import Command


@pytest.fixture(scope="module")
def encoder(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    from_run(tiny_run).save_pretrained(folder)
    return folder


@pytest.mark.ray
def test_a_folder_is_embedded_once_and_then_only_what_is_new(encoder: Path, tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "features.parquet"
    for i in range(5):
        made_video(videos / "ab"[i % 2] / f"{i}.mp4", seed=i)
    (videos / "bad.mp4").write_bytes(b"no video")
    given = ("--weights", str(encoder), "--videos", str(videos), "--out", str(out), "--clips", "2")
    command = Command(tmp_path / "home", "embed.py", *given, "--query", str(videos / "a" / "0.mp4"))
    assert command.wait() == 0, command.text
    assert "could not be read: bad.mp4: " in command.text and "5 videos embedded in " in command.text
    assert f"nearest to {videos}/a/0.mp4:\n  1.000  a/0.mp4" in command.text
    assert "Traceback" not in command.text and "actor" not in command.text.lower()
    features, own = paramcrop.Features.read(out), paramcrop.load(encoder)
    assert features.path == [path for path in ("a/0.mp4", "a/2.mp4", "a/4.mp4", "b/1.mp4", "b/3.mp4") for _ in range(2)]
    expected = own(own.preprocess(videos / "b" / "1.mp4", clips=2)).detach().numpy()
    assert np.array_equal(features.vectors[6:8], expected)
    assert list(features.about["failed"]) == ["bad.mp4"] and out.with_suffix(".html").exists()
    content = out.read_bytes()
    main(list(given))  # nothing is left, so Ray is not started
    assert out.read_bytes() == content
    (videos / "a" / "0.mp4").unlink()
    made_video(videos / "b" / "7.mp4", seed=7)
    command = Command(tmp_path / "home", "embed.py", *given)
    assert command.wait() == 0 and "1 video embedded in " in command.text, command.text
    assert "5 videos are done already, 1 of which could not be read; --fresh does all again" in command.text
    again = paramcrop.Features.read(out)
    assert again.path == features.path[2:] + ["b/7.mp4"] * 2
    assert np.array_equal(again.vectors[:-2], features.vectors[2:])


def test_rows_are_gathered_into_whole_videos() -> None:
    def row(path: str, clip: int, total: int, error: str = "") -> dict[str, Any]:
        return {"path": path, "clip": clip, "total": total, "error": error, "feature": [float(clip)]}

    def given() -> Iterator[dict[str, Any]]:
        yield from (row("a", 1, 2), row("b", 0, 3), row("a", 0, 2), row("b", 0, 1, "damaged"), row("c", 0, 1))

    found = list(whole_videos(given()))
    assert [(video.path, [each["clip"] for each in video.rows], video.error) for video in found] == [
        ("a", [0, 1], ""),
        ("b", [], "damaged"),
        ("c", [0], ""),
    ]
    assert isinstance(found[0], Video)


def test_an_encoder_that_dies_is_started_again_for_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, nothing = list[list[str]](), SimpleNamespace()

    def dies(paths: list[str], *given: Any) -> Iterator[Video]:
        asked.append(paths)
        if len(paths) > 1:
            yield Video(paths[0], [], "")
        raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(embedding, "_embedded", dies)
    monkeypatch.setattr(ray, "put", lambda value: value)
    found = list[str]()
    given: Any = nothing
    videos = embedding.embed(["a", "b", "c"], given, given, "float32", given)
    with pytest.raises(ResourceError, match=r"an encoder died 4 times: .*; run it again"):
        found.extend(video.path for video in videos)
    assert found == ["a", "b"] and asked == [["a", "b", "c"], ["b", "c"], ["c"], ["c"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "x.csv"), r"--out must be a file named \*\.parquet, but is 'x\.csv'"),
        (("--out", "x.parquet", "--clips", "2", "--every", "1"), "--clips and --every must not be given together"),
        (("--out", "x.parquet", "--clips", "0"), "--clips must be above 0"),
        ((), "--out; --help lists all options"),
    ],
)
def test_wrong_options_are_one_line(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arguments(["--weights", "w", "--videos", "v", *options], "")


def test_weights_that_are_not_there_are_refused_by_the_name_of_the_option(tmp_path: Path) -> None:
    made_video(tmp_path / "a.mp4")
    given = ["--weights", str(tmp_path / "absent"), "--videos", str(tmp_path), "--out", str(tmp_path / "f.parquet")]
    with pytest.raises(DataError, match=r"^--weights must be the folder of a run, but neither .*absent"):
        main(given)


def test_what_is_missing_is_one_line(encoder: Path, tmp_path: Path) -> None:
    given = ["--weights", str(encoder), "--videos", str(tmp_path), "--out", str(tmp_path / "no" / "f.parquet")]
    with pytest.raises(DataError, match=r"--videos=.* must have videos, but has none"):
        main(given)
    made_video(tmp_path / "a.mp4")
    with pytest.raises(ParamCropError, match=r"--out must be in a folder that exists, but .*/no does not"):
        main(given)


def test_a_dry_run_says_what_is_left(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_video(tmp_path / "a.mp4")
    out = tmp_path / "f.parquet"
    main(["--weights", str(encoder), "--videos", str(tmp_path), "--out", str(out), "--every", "2", "--dry-run"])
    text = capsys.readouterr().out
    assert "1 videos in " in text and "a clip every 2 s" in text and not out.exists()
