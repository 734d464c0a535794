"""Groups of near-duplicates: from names, from a table, from equal files; held-out splits never divide one."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from paramcrop.data.groups import group_of, hold_out, merge_duplicates
from paramcrop.data.labels import VideoInfo, labelled_share, read_infos
from paramcrop.data.manifest import read_manifest
from paramcrop.data.prepare.annotations import merge, parse_table
from paramcrop.data.prepare.datasets import Dataset, Source, find_dataset
from paramcrop.data.prepare.plan import make_plan
from paramcrop.data.shards import Video, read_videos, write_shards
from paramcrop.errors import DataError


@pytest.mark.parametrize(
    ("dataset", "video", "group"),
    [
        ("ucf101", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08"),
        ("ucf101", "HandstandPushups/v_HandStandPushups_g01_c04.avi", "HandstandPushups/v_HandStandPushups_g01"),
        ("ucf101", "Archery/other.avi", "Archery/other.avi"),
        ("hmdb51", "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair/April_09_brush_hair"),
        ("hmdb51", "eat/AMADEUS_eat_h_cm_np1_fr_med_10.avi", "eat/AMADEUS_eat"),
        ("hmdb51", "hit/50_FIRST_DATES_hit_f_nm_np1_ba_bad_23.avi", "hit/50_FIRST_DATES_hit"),
        ("hmdb51", "kick/#20_Rhythm_(clip)_kick_f_cm_np2_le_med_0.avi", "kick/#20_Rhythm_(clip)_kick"),
        ("ut-interaction", "set1/12_3_4.avi", "set1/3"),
        ("ut-interaction", "set2/12_3_4.avi", "set2/3"),
        ("kinetics", "abc_000001_000011", "abc_000001_000011"),
        ("folder", "v_Archery_g01_c01.avi", "v_Archery_g01_c01.avi"),
    ],
)
def test_the_group_is_the_source_that_the_official_names_tell(dataset: str, video: str, group: str) -> None:
    assert group_of(dataset, video) == group


def ucf(classes: int = 4, groups: int = 9, clips: int = 5) -> tuple[list[str], list[int]]:
    ids = [f"C{c}/v_C{c}_g{g:02d}_c{n:02d}.avi" for c in range(classes) for g in range(groups) for n in range(clips)]
    return ids, [int(video[1]) for video in ids]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_group_is_held_out_whole_and_every_class_keeps_its_share(seed: int) -> None:
    ids, labels = ucf()
    groups = [group_of("ucf101", video) for video in ids]
    held = hold_out(groups, labels, 0.2, seed)
    by_group = {group: {h for g, h in zip(groups, held, strict=True) if g == group} for group in groups}
    assert all(len(sides) == 1 for sides in by_group.values())
    assert Counter(label for label, h in zip(labels, held, strict=True) if h) == dict.fromkeys(range(4), 10)


def test_without_groups_it_is_the_share_of_each_class_as_before() -> None:
    ids = [f"video {i}" for i in range(53)]
    labels = [i % 3 for i in range(53)]
    held = hold_out(ids, labels, 0.2, seed=1)
    assert {v for v, h in zip(ids, held, strict=True) if h} == labelled_share(ids, labels, 0.2, seed=1)


def test_a_group_of_several_classes_stays_whole_and_no_class_loses_all() -> None:
    groups = [f"person {i % 5}" for i in range(30)]  # each acts in every class
    labels = [i // 10 for i in range(30)]
    held = hold_out(groups, labels, 0.2, 0)
    assert len({g for g, h in zip(groups, held, strict=True) if h}) == 1 and sum(held) == 6
    assert hold_out(["a", "b", "c"], [0, 1, 2], 0.2, 0) == [False] * 3  # a class of one group holds out nothing
    uneven = hold_out(["big"] * 9 + ["small"], [0] * 10, 0.2, 0)
    assert uneven == [False] * 9 + [True]
    for n in range(2, 12):
        assert sum(hold_out([str(i) for i in range(n)], [0] * n, 0.2, 3)) == math.ceil(0.2 * n)


def test_videos_of_one_file_are_one_group() -> None:
    groups = merge_duplicates(["a", "b", "c", "d", "e"], ["1", "2", "1", "", ""])
    assert groups[0] == groups[2] and len(set(groups)) == 4
    chained = merge_duplicates(["a", "a", "b", "b", "c"], ["1", "2", "2", "3", "3"])
    assert len(set(chained)) == 1


def rows(**fields: str) -> list[Video]:
    return [Video(f"{i}.avi", b"x", 25.0, 10, 8, 8, 0, ("train",), f"sha{i}", **fields) for i in range(3)]


def test_a_group_is_kept_in_the_shards_and_old_shards_are_readable(tmp_path: Path) -> None:
    written = rows(group="one")
    write_shards(written, str(tmp_path), ("a",), {"dataset": "folder"})
    manifest = read_manifest(str(tmp_path))
    assert list(read_videos(str(tmp_path))) == written
    assert read_infos(str(tmp_path), manifest)["1.avi"] == VideoInfo(0, "one", "sha1")
    file = tmp_path / manifest.shards[0].file
    pq.write_table(pq.read_table(file).drop_columns(["group"]), file)  # as older versions wrote it
    assert read_infos(str(tmp_path), manifest)["1.avi"] == VideoInfo(0, "1.avi", "sha1")
    assert list(read_videos(str(tmp_path))) == rows()


def test_a_table_may_name_groups_and_then_they_are_part_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("0.avi", "1.avi"):
        (tmp_path / "videos" / name).write_bytes(b"video")
    (tmp_path / "list.csv").write_text("file,class,split,group\n0.avi,a,train,x\n1.avi,a,train,\n")
    dataset = find_dataset("folder", str(tmp_path / "videos"), str(tmp_path / "list.csv"))
    assert [source.group for source in dataset.sources] == ["x", ""]
    with pytest.raises(DataError, match=r"must have one group, but 0.avi is in 'x' in l.csv:2 and in 'y' in l.csv:3"):
        merge(parse_table("l.csv", "file,class,group\n0.avi,a,x\n0.avi,a,y\n"))
    plain = Dataset(dataset.classes, tuple(replace(source, group="") for source in dataset.sources))
    with_groups, without = (make_plan(d, "folder", 128, 20, 10, 0).settings for d in (dataset, plain))
    assert with_groups["annotations"] != without["annotations"]


def test_sets_without_groups_keep_their_content_id() -> None:
    sources = tuple(Source(f"{i}.avi", f"{i}.avi", "a", ("train",), 10) for i in range(3))
    settings = make_plan(Dataset(("a",), sources), "folder", 128, 20, 10, 0).settings
    assert settings["annotations"] == "2c96abb527f6dd5d"  # as it was before there were groups


@pytest.mark.parametrize(
    ("written", "split"),
    [
        ("Train", "train"),
        ("TEST", "test"),
        ("Validation", "val"),
        ("valid", "val"),
        ("Train2", "train2"),
        ("Validation1", "val1"),
        ("", "train"),
        ("Held-Out", "Held-Out"),
    ],
)
def test_usual_names_of_splits_are_known_in_any_case(written: str, split: str) -> None:
    (entry,) = parse_table("l.csv", f"file,class,split\n0.mp4,a,{written}\n")
    assert entry.splits == (split,)
