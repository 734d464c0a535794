"""Attempts at a dataset: what they continue, make again, refuse and leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from paramcrop.data.manifest import read_manifest
from paramcrop.data.prepare.attempt import begin, clean, finish, finished, leftovers, read_parts
from paramcrop.data.prepare.transcode import make_shard
from paramcrop.data.shards import check_shards
from paramcrop.data.video import VideoReader
from paramcrop.errors import DataError
from tests.data.prepare.made_plans import plan_of, prepare, rows, same


def test_a_folder_becomes_shards_of_one_split_each(videos: str, tmp_path: Path) -> None:
    plan, out = plan_of(videos), str(tmp_path)
    reports: list[tuple[int, int]] = []
    begin(out, fresh=False)
    parts = {piece.number: make_shard(piece, videos, out, 30, lambda *t: reports.append(t)) for piece in plan.pieces}
    manifest = finish(out, plan, parts)
    assert read_manifest(out) == manifest == finished(out, same(plan))
    assert (manifest.splits, manifest.classes) == ({"test": 3, "train": 3}, ("down", "up"))
    reason = "PyAV cannot decode the video: Invalid data found when processing input"
    path = "train/up/1.mp4"
    assert manifest.rejected == ({"id": path, "path": path, "splits": "train", "reason": reason},)
    assert manifest.rejected_of("train") == list(manifest.rejected) and manifest.rejected_of("test") == []
    for video in rows(out):
        assert (min(video.height, video.width), video.frames, len(video.source_sha256)) == (16, 20, 64)
        assert video.label == ("/up/" in video.id) and video.splits == (video.id.partition("/")[0],)
        assert VideoReader(video.video).frames == 20
    assert check_shards(out) == leftovers(out) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", *(s.file for s in manifest.shards)]
    assert reports.count((1, 0)) + reports.count((1, 1)) == len(plan.pieces) and reports.count((2, 1)) == 1


def test_an_interrupted_attempt_continues_and_ends_equal(videos: str, tmp_path: Path) -> None:
    plan, out = plan_of(videos), str(tmp_path / "a")
    whole = finish(str(tmp_path / "b"), plan, prepare(plan, videos, str(tmp_path / "b")))
    prepare(plan, videos, out, most=2)
    root = Path(out)
    before = {path.name: path.stat().st_mtime_ns for path in root.glob("shard-*")}
    (root / "shard-00003.parquet").write_bytes(b"half a shard")
    (root / f".{'0' * 32}.shard-00003.parquet").write_bytes(b"half a shard")
    assert finished(out, same(plan)) is None
    manifest = finish(out, plan, prepare(plan_of(videos), videos, out))
    assert {name: (root / name).stat().st_mtime_ns for name in before} == before
    assert (manifest.content_id, manifest.shards, rows(out)) == (
        whole.content_id,
        whole.shards,
        rows(str(tmp_path / "b")),
    )
    assert check_shards(out) == leftovers(out) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda part, shard: part.write_text(part.read_text()[:-9]),
        lambda part, shard: shard.write_bytes(shard.read_bytes()[:-1]),
        lambda part, shard: shard.unlink(),
        lambda part, shard: part.write_text(json.dumps(json.loads(part.read_text()) | {"piece": "another"})),
    ],
)
def test_damaged_shards_and_parts_are_made_again(
    videos: str, tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    plan, out = plan_of(videos), str(tmp_path)
    prepare(plan, videos, out)
    damage(tmp_path / "parts" / "shard-00001.json", tmp_path / "shard-00001.parquet")
    assert sorted(read_parts(out, plan)) == [0, *range(2, len(plan.pieces))]
    finish(out, plan, prepare(plan, videos, out))
    assert check_shards(out) == []


def test_parts_of_other_settings_are_not_used(videos: str, tmp_path: Path) -> None:
    prepare(plan_of(videos), videos, str(tmp_path))
    assert len(read_parts(str(tmp_path), plan_of(videos))) == 4
    for change in ({"short_side": 24}, {"crf": 30}):
        assert read_parts(str(tmp_path), plan_of(videos, **change)) == {}
    plan = plan_of(videos, shard_videos=9)  # two shards instead of four; the others are removed
    assert len(finish(str(tmp_path), plan, prepare(plan, videos, str(tmp_path))).shards) == 2
    assert leftovers(str(tmp_path)) == []


def test_a_finished_folder_of_another_dataset_is_an_error_unless_fresh(videos: str, tmp_path: Path) -> None:
    plan, other, out = plan_of(videos), plan_of(videos, crf=30), str(tmp_path)
    finish(out, plan, prepare(plan, videos, out))
    with pytest.raises(DataError, match=r"holds another dataset; use --fresh to replace it, or another --out"):
        finished(out, same(other))
    begin(out, fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
    assert finish(out, other, prepare(other, videos, out)).plan == other.id


def test_shards_of_unknown_origin_are_an_error(videos: str, tmp_path: Path) -> None:
    (tmp_path / "shard-00000.parquet").write_bytes(b"someone's")
    with pytest.raises(DataError, match=r"holds shards without a manifest\.json"):
        finished(str(tmp_path), same(plan_of(videos)))


def test_leftovers_of_a_kill_after_the_manifest_are_listed_and_removed(videos: str, tmp_path: Path) -> None:
    plan, out = plan_of(videos), str(tmp_path)
    manifest = finish(out, plan, prepare(plan, videos, out))
    (tmp_path / "parts").mkdir()
    for name in ("shard-00001.json", f".{'0' * 32}.shard-00002.json"):
        (tmp_path / "parts" / name).touch()
    (tmp_path / "shard-00077.parquet").touch()
    (tmp_path / "mine.txt").touch()
    assert [line.split(":")[0] for line in leftovers(out)] == ["parts", "shard-00077.parquet"]
    clean(out, manifest)
    assert leftovers(out) == [] and (tmp_path / "mine.txt").exists() and check_shards(out) == []


def test_a_folder_of_an_earlier_version_is_read_and_named(videos: str, tmp_path: Path) -> None:
    plan, out = plan_of(videos), str(tmp_path)
    finish(out, plan, prepare(plan, videos, out))
    fields = json.loads((tmp_path / "manifest.json").read_text())
    del fields["treatments"]
    fields["settings"]["version"], fields["plan"] = 1, "other"
    (tmp_path / "manifest.json").write_text(json.dumps(fields))
    assert read_manifest(out).treatments == ()
    with pytest.raises(DataError, match="holds another dataset, or one that version 1 of the preparation made"):
        finished(out, same(plan))
