from __future__ import annotations

import os
from pathlib import Path

import pytest

from paramcrop.data.prepare.datasets import FINDERS, find_dataset
from paramcrop.data.prepare.files import list_videos
from paramcrop.errors import DataError
from tests.data.prepare.made_lists import files, split_sizes, touch, write


def spread(total: int, cells: int) -> list[int]:
    return [total // cells + (i < total % cells) for i in range(cells)]


def test_ucf101_has_its_three_splits(tmp_path: Path) -> None:
    """101 classes in 25 groups; split k tests on seven groups and trains on the others."""
    names = [f"Class{i:03d}" for i in range(1, 102)]
    of_split: list[list[str]] = []
    for total, groups in ((3783, range(1, 8)), (3734, range(8, 15)), (3696, range(15, 22)), (2107, range(22, 26))):
        cells = [(name, group) for name in names for group in groups]
        counts = zip(cells, spread(total, len(cells)), strict=True)
        of_split.append([f"{n}/v_{n}_g{g:02d}_c{c:02d}.avi" for (n, g), count in counts for c in range(count)])
    texts = {"classInd__txt": "".join(f"{i} {name}\r\n" for i, name in enumerate(names, 1))}
    for k in range(3):
        train = [path for j, paths in enumerate(of_split) if j != k for path in paths]
        texts[f"testlist0{k + 1}__txt"] = "".join(f"{path}\r\n" for path in of_split[k])
        texts[f"trainlist0{k + 1}__txt"] = "".join(f"{path} {int(path[5:8])} \n" for path in train)
    dataset = FINDERS["ucf101"]({}, write(tmp_path, **texts))
    assert len(dataset.sources) == 13320 and dataset.classes == tuple(names)
    train_sizes, test_sizes = (9537, 9586, 9624), (3783, 3734, 3696)
    assert split_sizes(dataset) == {f"train{k}": n for k, n in enumerate(train_sizes, 1)} | {
        f"test{k}": n for k, n in enumerate(test_sizes, 1)
    }


def test_hmdb51_has_its_three_splits(tmp_path: Path) -> None:
    """51 classes; split k trains on 70 videos of each and tests on 30."""
    texts = {}
    for label in (f"class_{c:02d}" for c in range(51, 0, -1)):
        for k in range(3):
            roles = {v: 2 if v // 30 == k else 1 for v in range(110)}
            unused = [v for v, role in roles.items() if role == 1][-10:]
            roles |= dict.fromkeys(unused, 0)
            lines = "".join(f"{label} #{v} (a&b).avi {role} \n" for v, role in roles.items())
            texts[f"{label}_test_split{k + 1}__txt"] = lines
    dataset = FINDERS["hmdb51"]({}, write(tmp_path, **texts))
    assert dataset.classes == tuple(f"class_{c:02d}" for c in range(1, 52))
    sizes = {f"train{k}": 3570 for k in (1, 2, 3)} | {f"test{k}": 1530 for k in (1, 2, 3)}
    assert split_sizes(dataset) == sizes


def test_files_are_found_by_path_case_and_name_and_others_are_missing(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "wave/a.avi", "wave/B.AVI", "deep/er/c.avi", "x/d.avi", "y/d.avi", "wave/extra.avi")
    lists = write(tmp_path / "l", wave_test_split1__txt="a.avi 1\nb.avi 1\nc.avi 2\nd.avi 2\ngone.avi 0\n")
    dataset = find_dataset("hmdb51", videos, lists)
    assert files(dataset) == {
        "wave/a.avi": "wave/a.avi",
        "wave/b.avi": "wave/B.AVI",
        "wave/c.avi": "deep/er/c.avi",
        "wave/d.avi": None,  # two files have this name
        "wave/gone.avi": None,
    }
    assert dataset.unlisted == 3
    assert [source.bytes for source in dataset.sources][:3] == [1, 2, 3]


def test_no_file_belongs_to_two_videos(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "wave/a.avi", "other/b.avi")
    lists = write(
        tmp_path / "l", wave_test_split1__txt="a.avi 1\nb.avi 1\n", walk_test_split1__txt="a.avi 1\nb.avi 1\n"
    )
    found = files(find_dataset("hmdb51", videos, lists))
    assert found == {"walk/a.avi": None, "walk/b.avi": None, "wave/a.avi": "wave/a.avi", "wave/b.avi": None}


def test_ucf101_spellings_are_matched(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "HandStandPushups/v_HandStandPushups_g01_c01.avi")
    classes, train = "1 HandstandPushups\r\n", "HandstandPushups/v_HandStandPushups_g01_c01.avi 1\r\n"
    dataset = find_dataset("ucf101", videos, write(tmp_path / "l", classInd__txt=classes, trainlist02__txt=train))
    (source,) = dataset.sources
    assert (source.label, source.splits, source.bytes) == ("HandstandPushups", ("train2",), 1)
    assert source.path == "HandStandPushups/v_HandStandPushups_g01_c01.avi"


def test_kinetics_files_with_and_without_times(tmp_path: Path) -> None:
    stored = ("train/riding a bike/-ab_000001_000011.mp4", "val/riding_a_bike/cd.mkv", "twice.mp4")
    videos = touch(tmp_path / "v", *stored)
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    train = header + "riding a bike,-ab,1,11,train,0\n" * 2 + "yoga,gone,0,10,train,0\n"
    val = header + "riding a bike,cd,2,12,validate,1\nyoga,twice,0,10,val,0\nyoga,twice,20,30,val,0\n"
    dataset = find_dataset("kinetics", videos, write(tmp_path / "l", train__csv=train, validate__csv=val))
    assert files(dataset) == {
        "-ab_000001_000011": stored[0],
        "gone_000000_000010": None,
        "cd_000002_000012": stored[1],
        "twice_000000_000010": None,  # the file may be either of the two
        "twice_000020_000030": None,
    }
    assert split_sizes(dataset) == {"train": 2, "val": 3}
    assert dataset.classes == ("riding a bike", "yoga")
    assert len(find_dataset("kinetics", videos, str(tmp_path / "l" / "train.csv")).sources) == 2


def test_ut_interaction_leaves_out_one_sequence_per_fold(tmp_path: Path) -> None:
    videos = touch(tmp_path, *(f"{i}_{1 + i // 6}_{i % 6}.avi" for i in range(60)))
    dataset = find_dataset("ut-interaction", videos, None)
    assert split_sizes(dataset) == {f"train{k}": 54 for k in range(1, 11)} | {f"test{k}": 6 for k in range(1, 11)}
    (source,) = (s for s in dataset.sources if s.id == "9_2_3.avi")
    assert source.label == "point"
    assert [split for split in source.splits if split.startswith("test")] == ["test2"] and "train2" not in source.splits
    touch(tmp_path, "stray.avi")
    with pytest.raises(DataError, match=r"must be ID_SEQUENCE_CLASS \(1 to 10, 0 to 5\), but is 'stray\.avi'"):
        find_dataset("ut-interaction", videos, None)


def test_folders_are_classes(tmp_path: Path) -> None:
    videos = touch(tmp_path, "top.MP4", "a/b/x.avi", "train/y.mkv", "notes.txt", ".hidden/z.avi", "a/._x.avi")
    dataset = find_dataset("folder", videos, None)
    assert [(s.id, s.label, s.splits) for s in dataset.sources] == [
        ("a/b/x.avi", "a/b", ("train",)),
        ("top.MP4", None, ("train",)),
        ("train/y.mkv", "train", ("train",)),
    ]
    assert dataset.classes == ("a/b", "train")


def test_folders_named_as_splits_are_splits(tmp_path: Path) -> None:
    dataset = find_dataset("folder", touch(tmp_path, "train/a/x.avi", "validation/a/y.avi", "test/z.avi"), None)
    assert [(s.id, s.label, s.splits) for s in dataset.sources] == [
        ("test/z.avi", None, ("test",)),
        ("train/a/x.avi", "a", ("train",)),
        ("validation/a/y.avi", "a", ("val",)),
    ]


def test_a_table_decides_over_the_folders(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "a/x.avi", "a/y.avi")
    table = write(tmp_path / "l", labels__csv="file,class,split\nx.avi,wave,test\nz.avi,wave,\n") + "/labels.csv"
    dataset = find_dataset("folder", videos, table)
    assert files(dataset) == {"x.avi": "a/x.avi", "z.avi": None}
    assert (dataset.classes, dataset.unlisted) == (("wave",), 1)


def test_a_uri_is_listed_like_a_path(tmp_path: Path) -> None:
    touch(tmp_path, "a b/x #1.avi", "y.avi")
    assert list_videos(f"file://{tmp_path}") == list_videos(str(tmp_path)) == {"a b/x #1.avi": 1, "y.avi": 2}


@pytest.mark.parametrize(
    ("name", "annotations", "message"),
    [
        ("ucf11", None, "--dataset must be one of .*, but is 'ucf11'; the nearest is ucf101"),
        ("ucf101", None, "--dataset ucf101 needs --annotations"),
        ("ucf101", "absent", "--annotations=.*absent does not exist"),
        ("ucf101", ".", "--annotations=.* must contain classInd.txt"),
        ("hmdb51", ".", "--annotations=.* must contain the lists CLASS_test_split1.txt"),
        ("kinetics", ".", "--annotations=.* must contain CSV lists"),
        ("ut-interaction", ".", "--dataset ut-interaction takes no --annotations"),
        ("folder", "binary.csv", "cannot read .*binary.csv as UTF-8 text"),
    ],
)
def test_an_error_names_a_wrong_dataset_or_list(
    tmp_path: Path, name: str, annotations: str | None, message: str
) -> None:
    videos = touch(tmp_path / "v", "x.avi")
    (tmp_path / "l").mkdir()
    if annotations == "binary.csv":
        (tmp_path / "l" / annotations).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=message):
        find_dataset(name, videos, annotations and str(tmp_path / "l" / annotations))


def test_an_error_names_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.avi")).touch()
    with pytest.raises(DataError, match=r"file names in --videos must be UTF-8, but one is .*a\\xff\.avi"):
        list_videos(str(tmp_path))


def test_an_error_names_a_folder_without_videos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--videos=.* does not exist"):
        find_dataset("folder", str(tmp_path / "absent"), None)
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"--videos=.* contains no video files"):
        find_dataset("folder", str(tmp_path), None)


def table(root: Path, *rows: str) -> str:
    return write(root / "l", labels__csv="\n".join(["file,class,split", *rows])) + "/labels.csv"


def test_a_listed_file_in_a_folder_is_never_one_of_the_same_name_in_another(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "walk/2.avi", "run/1.avi")
    dataset = find_dataset("folder", videos, table(tmp_path, "walk/1.avi,walk,train", "walk/2.avi,walk,train"))
    assert files(dataset) == {"walk/1.avi": None, "walk/2.avi": "walk/2.avi"}
    assert dataset.unlisted == 1


@pytest.mark.parametrize("listed", [("1.avi", "1.avi"), ("walk/1.avi", "run/1.avi")])
def test_a_bare_name_counts_only_where_it_is_unique(tmp_path: Path, listed: tuple[str, str]) -> None:
    videos = touch(tmp_path / "v", "deep/2.avi", "1.avi", "other/3.avi", "another/3.avi")
    rows = [f"{listed[1]},run,train", "2.avi,walk,train", "3.avi,walk,train"]
    rows = rows if listed[0] == listed[1] else [f"{listed[0]},walk,train", *rows]
    found = files(find_dataset("folder", videos, table(tmp_path, *rows)))
    assert (found.pop("2.avi"), found.pop("3.avi")) == ("deep/2.avi", None)
    assert found == ({"1.avi": "1.avi"} if listed[0] == listed[1] else {"walk/1.avi": None, "run/1.avi": None})


def test_folders_around_those_of_the_list_and_missing_ones_are_bridged(tmp_path: Path) -> None:
    below = touch(tmp_path / "v", "data/Walk/1.avi", "data/run/1.avi")
    listed = table(tmp_path, "walk/1.avi,walk,train", "run/1.avi,run,train", "hop/9.avi,hop,train")
    found = {"walk/1.avi": "data/Walk/1.avi", "run/1.avi": "data/run/1.avi", "hop/9.avi": None}
    assert files(find_dataset("folder", below, listed)) == found
    flat = touch(tmp_path / "flat", "9.avi")
    assert files(find_dataset("folder", flat, listed))["hop/9.avi"] == "9.avi"


def test_a_listed_file_may_have_any_extension_or_another_than_listed(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "walk/1.mp4", "run/1.avi.mkv", "run/2.bin", "run/3.avi", "run/3.mp4", "notes.txt")
    rows = ["walk/1.avi,walk,train", "run/2.bin,run,train", "run/3.webm,run,train", "run/4.avi,run,train"]
    dataset = find_dataset("folder", videos, table(tmp_path, *rows))
    assert files(dataset) == {
        "walk/1.avi": "walk/1.mp4",
        "run/2.bin": "run/2.bin",
        "run/3.webm": None,  # two files may be it
        "run/4.avi": None,
    }
    assert dataset.unlisted == 3  # of the videos


@pytest.mark.parametrize(("train", "other", "split"), [("Train", "Test", "test"), ("TRAIN", "valid", "val")])
def test_splits_may_be_spelt_in_any_case(tmp_path: Path, train: str, other: str, split: str) -> None:
    dataset = find_dataset("folder", touch(tmp_path, f"{train}/walk/x.avi", f"{other}/run/y.avi"), None)
    assert sorted((s.label, s.splits) for s in dataset.sources) == [("run", (split,)), ("walk", ("train",))]
    assert dataset.warnings == ()


def test_a_stray_file_beside_splits_is_left_out_and_named(tmp_path: Path) -> None:
    stored = ["train/fight/x.avi", "test/fight/y.avi", "intro.avi", "extra/z.avi"]
    dataset = find_dataset("folder", touch(tmp_path, *stored), None)
    assert [(s.id, s.label, s.splits) for s in dataset.sources] == [
        ("test/fight/y.avi", "fight", ("test",)),
        ("train/fight/x.avi", "fight", ("train",)),
    ]
    assert dataset.warnings == (
        "2 of the videos are in none of the folders of splits (test, train) and are left out, such as extra/z.avi",
    )


def test_a_class_with_the_name_of_a_split_is_a_class_and_that_is_said(tmp_path: Path) -> None:
    dataset = find_dataset("folder", touch(tmp_path, "train/x.avi", "bus/y.avi"), None)
    assert dataset.classes == ("bus", "train")
    assert dataset.warnings == ("the folder train is taken for a class and not for a split, because bus is none",)


def test_links_that_lead_in_a_circle_through_another_folder_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "v", "x.avi")
    touch(tmp_path / "w", "y.avi")
    (tmp_path / "v" / "w").symlink_to(tmp_path / "w", target_is_directory=True)
    assert list(list_videos(str(tmp_path / "v"))) == ["w/y.avi", "x.avi"]
    (tmp_path / "w" / "v").symlink_to(tmp_path / "v", target_is_directory=True)
    with pytest.raises(DataError, match=r"a link to a folder around it, but .*/v/w/v is one"):
        list_videos(str(tmp_path / "v"))


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_unreadable_rows_are_named_and_the_others_read(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "ab_000001_000011.mp4", "walk/a.avi")
    rows = 'hop,ab,1,11,train\nhop,#NAME?,1,11,train\nhop,cd,1,11,train\nhop,ef,x,11,train\nhop,gh,1,11,train\n"a"b,i\n'
    dataset = find_dataset("kinetics", videos, write(tmp_path / "k", a__csv=KINETICS + rows) + "/a.csv")
    assert list(files(dataset)) == ["ab_000001_000011", "cd_000001_000011", "gh_000001_000011"]
    assert [row.partition(": ")[0] for row in dataset.unreadable] == ["a.csv:3", "a.csv:5", "a.csv:7"]
    assert "'#NAME?'" in dataset.unreadable[0] and "not valid CSV" in dataset.unreadable[2]
    dataset = find_dataset("folder", videos, table(tmp_path, "walk/a.avi,walk,train", "../b.avi,walk,train"))
    assert files(dataset) == {"walk/a.avi": "walk/a.avi"} and dataset.unreadable[0].startswith("labels.csv:3: a path")
    hmdb = write(tmp_path / "h", walk_test_split1__txt="a.avi 1\nb.avi\nc.avi 2\n")
    dataset = find_dataset("hmdb51", videos, hmdb)
    assert len(dataset.sources) == 2 and dataset.unreadable[0].startswith("walk_test_split1.txt:2: ")


def test_a_list_of_which_most_rows_are_unreadable_is_refused(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "ab_000001_000011.mp4")
    rows = KINETICS + "hop,ab,1,11,train\n" + "hop,#NAME?,1,11,train\n" * 2
    with pytest.raises(DataError, match=r"a.csv:3: youtube_id must .* \(2 rows of a.csv cannot be read, and 1 can\)"):
        find_dataset("kinetics", videos, write(tmp_path / "k", a__csv=rows) + "/a.csv")
    swallowing = KINETICS + 'hop,ab,1,11,train\nhop,"cd,1,11,train\nhop,ef,1,11,train\n'
    with pytest.raises(DataError, match="not valid CSV: unexpected end of data"):
        find_dataset("kinetics", videos, write(tmp_path / "k", a__csv=swallowing) + "/a.csv")
