from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from paramcrop.data.manifest import Manifest, read_manifest, write_manifest
from paramcrop.data.shards import Video, check_shards, read_videos, write_shards
from paramcrop.errors import DataError


def made(n: int, size: int = 100) -> list[Video]:
    return [Video(f"v{i}", bytes([i % 256]) * size, 25.0, 10, 8, 8, i % 3, ("train",), f"sha{i}") for i in range(n)]


def test_videos_are_read_back_in_written_order(tmp_path: Path) -> None:
    written = made(50)
    manifest = write_shards(written, str(tmp_path), ("a", "b", "c"), {"short_side": 128}, 1000, 500, 4)
    assert list(read_videos(str(tmp_path))) == written
    assert read_manifest(str(tmp_path)) == manifest
    assert manifest.videos == 50
    assert len(manifest.shards) > 1
    assert check_shards(str(tmp_path)) == []


def test_row_groups_keep_their_limits_and_are_in_the_manifest(tmp_path: Path) -> None:
    manifest = write_shards(made(20), str(tmp_path), row_group_rows=100, row_group_bytes=600)
    assert manifest.shards[0].row_groups == (6, 6, 6, 2)
    file = pq.ParquetFile(tmp_path / manifest.shards[0].file)
    assert [file.metadata.row_group(g).num_rows for g in range(4)] == [6, 6, 6, 2]
    video = file.metadata.row_group(0).column(1)
    assert (video.path_in_schema, video.compression) == ("video", "UNCOMPRESSED")


def test_the_content_id_depends_on_the_sources_not_on_the_files(tmp_path: Path) -> None:
    def content(name: str, videos: list[Video], **settings: object) -> str:
        return write_shards(videos, str(tmp_path / name), settings=dict(settings), row_group_rows=3).content_id

    same = content("a", made(9))
    assert content("b", made(9)[::-1]) == same
    assert content("c", made(8)) != same
    assert content("d", [*made(8), replace(made(9)[8], source_sha256="other")]) != same
    assert content("e", made(9), short_side=256) != same


def test_check_names_a_damaged_and_a_missing_shard(tmp_path: Path) -> None:
    manifest = write_shards(made(30), str(tmp_path), shard_bytes=1000, row_group_rows=5)
    first, second = (tmp_path / shard.file for shard in manifest.shards[:2])
    damaged = bytearray(first.read_bytes())
    damaged[40] ^= 1
    first.write_bytes(damaged)
    second.unlink()
    problems = check_shards(str(tmp_path))
    assert [p.split(":")[0] for p in problems] == [first.name, second.name]


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "has no manifest.json"), ("{", "cannot read .*manifest.json"), ('{"format": "x"}', "but is 'x'")],
)
def test_a_folder_without_a_valid_manifest_is_an_error(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(str(tmp_path))


def test_uris_and_their_errors(tmp_path: Path) -> None:
    manifest = write_shards(made(3), f"file://{tmp_path}")
    assert read_manifest(str(tmp_path)) == manifest
    with pytest.raises(DataError, match="nosuch://x"):
        read_manifest("nosuch://x")


def test_no_videos_and_duplicate_ids_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no videos to write"):
        write_shards([], str(tmp_path))
    with pytest.raises(DataError, match="'v0' occurs twice"):
        write_shards(made(1) * 2, str(tmp_path))
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_manifest(str(tmp_path))  # a failed write does not look finished


def test_a_folder_of_videos_gets_the_command_that_prepares_it(tmp_path: Path) -> None:
    folder = tmp_path / "my videos"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "a.mp4").touch()
    with pytest.raises(DataError, match="holds videos, not shards; make shards of them with") as caught:
        read_manifest(str(folder))
    assert f"`paramcrop prepare --dataset folder --videos '{folder}' --out '{folder}-shards'`" in str(caught.value)


def test_manifest_counts_are_derived(tmp_path: Path) -> None:
    assert isinstance(write_shards(made(7), str(tmp_path), row_group_rows=2), Manifest)
    assert read_manifest(str(tmp_path)).shards[0].row_groups == (2, 2, 2, 1)


def test_a_shard_holds_one_set_of_splits_and_a_split_can_be_selected(tmp_path: Path) -> None:
    first, second = ("train1", "test2"), ("test1", "train2")
    videos = [replace(video, splits=first if i < 4 else second) for i, video in enumerate(made(9))]
    manifest = write_shards(videos, str(tmp_path))
    assert [(shard.splits, shard.videos) for shard in manifest.shards] == [(first, 4), (second, 5)]
    assert manifest.splits == {"test1": 5, "test2": 4, "train1": 4, "train2": 5}
    assert [shard.file for shard in manifest.select("test1").shards] == ["shard-00001.parquet"]
    assert manifest.select(None) == manifest == read_manifest(str(tmp_path))
    assert [video.splits for video in read_videos(str(tmp_path))] == [first] * 4 + [second] * 5
    with pytest.raises(DataError, match="one of test1, test2, train1, train2, but is 'val'"):
        manifest.select("val")


def test_check_compares_the_rows(tmp_path: Path) -> None:
    manifest = write_shards(made(5), str(tmp_path))
    wrong = replace(manifest, shards=(replace(manifest.shards[0], row_groups=(4,)),))
    write_manifest(wrong, str(tmp_path))
    assert check_shards(str(tmp_path)) == ["shard-00000.parquet: must have row groups of (4,) rows, but has (5,)"]
