from __future__ import annotations

import pytest

from paramcrop.data.prepare.annotations import (
    Entry,
    merge,
    parse_classes,
    parse_hmdb_list,
    parse_kinetics,
    parse_table,
    parse_ucf_list,
)
from paramcrop.errors import DataError

CLASSES = {1: "ApplyEyeMakeup", 37: "HandstandPushups"}
KINETICS = "label,youtube_id,time_start,time_end,split,is_cc\n"


def facts(entries: list[Entry]) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return [(entry.key, entry.label, entry.splits) for entry in entries]


def test_ucf_classes_with_crlf_trailing_spaces_and_blank_lines() -> None:
    assert parse_classes("classInd.txt", "1 ApplyEyeMakeup \r\n\r\n37 HandstandPushups\r\n") == CLASSES


def test_ucf_train_and_test_lists() -> None:
    train = (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n \r\nHandstandPushups/v_HandStandPushups_g01_c01.avi 37 \r\n"
    )
    entries = parse_ucf_list("trainlist01.txt", train, CLASSES, "train1")
    assert facts(entries) == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup", ("train1",)),
        ("HandstandPushups/v_HandStandPushups_g01_c01.avi", "HandstandPushups", ("train1",)),
    ]
    assert entries[1].where == "trainlist01.txt:3"
    test = "HandStandPushups/v_HandStandPushups_g02_c01.avi\n"  # a copy with the other spelling
    assert facts(parse_ucf_list("testlist01.txt", test, CLASSES, "test1")) == [
        ("HandStandPushups/v_HandStandPushups_g02_c01.avi", "HandstandPushups", ("test1",))
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ApplyEyeMakeup/v.avi 37", r"t.txt:2: the number of ApplyEyeMakeup must be 1 as in classInd.txt, but is 37"),
        ("ApplyEyeMakeup/v.avi 1 1", r"t.txt:2: the number of ApplyEyeMakeup must be"),
        ("Juggling/v.avi 1", r"t.txt:2: the directory of a video must be one of the classes"),
        ("ApplyEyeMakeup 1", r"t.txt:2: the directory of a video must be"),
        ("ApplyEyeMakeup/../../v.avi 1", r"t.txt:2: a path must stay below its folder"),
        ("/ApplyEyeMakeup/v.avi", r"t.txt:2: a path must stay"),
        ("ApplyEyeMakeup\\v.avi", r"t.txt:2: a path must stay"),
    ],
)
def test_an_error_names_the_line_of_a_ucf_list(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_ucf_list("t.txt", f"ApplyEyeMakeup/good.avi\n{line}\n", CLASSES, "train1")


@pytest.mark.parametrize("text", ["1 A\n1 B\n", "one A\n", "1\n", "1 A B\n"])
def test_an_error_names_the_line_of_classind(text: str) -> None:
    with pytest.raises(DataError, match=r"classInd.txt:\d: a line must have a new number and a class"):
        parse_classes("classInd.txt", text)


def test_hmdb_lists_with_odd_names() -> None:
    text = "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \r\n#20_Rhythm&(clap)_clap_u.avi 2 \n\nwith 2 spaces 1.avi 0 \n"
    assert facts(parse_hmdb_list("brush_hair_test_split2.txt", text)) == [
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", ("train2",)),
        ("brush_hair/#20_Rhythm&(clap)_clap_u.avi", "brush_hair", ("test2",)),
        ("brush_hair/with 2 spaces 1.avi", "brush_hair", ()),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("wave_test_split1.txt", "a.avi 3\n", "wave_test_split1.txt:1: a line must have a file and 0, 1 or 2"),
        ("wave_test_split1.txt", "a.avi\n", "wave_test_split1.txt:1: a line must have"),
        ("wave_test_split1.txt", "../a.avi 1\n", "wave_test_split1.txt:1: a path must stay"),
        ("wave_test_split1.txt", "/a.avi 1\n", "wave_test_split1.txt:1: a path must stay"),
        ("wave_test_split4.txt", "a.avi 1\n", "wave_test_split4.txt: the name of an HMDB51 list must be"),
    ],
)
def test_an_error_names_the_line_of_an_hmdb_list(name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_hmdb_list(name, text)


def test_kinetics_lists() -> None:
    text = KINETICS + '"eating, with ""spoon""",-0abc_DEF-12,5,15,train,0\r\nyoga,xyz,120,130,validate,1\r\n\r\n'
    assert facts(parse_kinetics("k.csv", text)) == [
        ("-0abc_DEF-12_000005_000015", 'eating, with "spoon"', ("train",)),
        ("xyz_000120_000130", "yoga", ("val",)),
    ]
    assert facts(parse_kinetics("t.csv", "youtube_id,time_start,time_end,split\na,1.0,11.0,test\n")) == [
        ("a_000001_000011", None, ("test",))
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,youtube_id\n", "k.csv:1: the header must contain time_start, time_end, split"),
        (KINETICS + "yoga,x,a,b,train,0\n", "k.csv:2: time_start and time_end must be seconds"),
        (KINETICS + "yoga,x,1,nan,train,0\n", "k.csv:2: time_start and time_end must be seconds"),
        (KINETICS + "yoga,x,1,11,holdout,0\n", "k.csv:2: the split must be one of train, val, .* but is 'holdout'"),
        (KINETICS + "yoga,../x,1,11,train,0\n", "k.csv:2: youtube_id must consist of letters"),
        (KINETICS + 'yoga,"x,1,11,train,0\n', "k.csv:2: not valid CSV"),
    ],
)
def test_an_error_names_the_line_of_a_kinetics_list(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_kinetics("k.csv", text)


def test_a_users_table() -> None:
    text = "file, dataset, class ,split\na.avi,ucf101,Archery,validation\n./b/c d.mkv,x,,\n"
    assert facts(parse_table("l.csv", text)) == [("a.avi", "Archery", ("val",)), ("b/c d.mkv", None, ("train",))]
    with pytest.raises(DataError, match=r"l\.csv:2: a path must stay"):
        parse_table("l.csv", "file,class\n/etc/x.avi,a\n")


def test_merging_joins_the_splits_of_a_video() -> None:
    entries = [
        Entry("a", "x", ("train1",), "l:1"),
        Entry("b", None, ("test",), "l:2"),
        Entry("a", "x", ("test2",), "m:1"),
        Entry("a", "x", ("train1",), "l:9"),
        Entry("b", "y", ("test",), "n:1"),
    ]
    assert facts(merge(entries)) == [("a", "x", ("test2", "train1")), ("b", "y", ("test",))]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Entry("a", "y", ("train1",), "m:1"), "a video must have one class, but a is 'x' in l:1 and 'y' in m:1"),
        (
            Entry("a", "x", ("test1",), "m:1"),
            r"a video must be in one part of a split, but a is in test1 and train1 \(m",
        ),
    ],
)
def test_a_video_with_two_classes_or_in_both_parts_of_a_split_is_an_error(second: Entry, message: str) -> None:
    with pytest.raises(DataError, match=message):
        merge([Entry("a", "x", ("train1",), "l:1"), second])
    plain = [Entry("a", "x", ("train",), "l:1"), Entry("a", "x", ("val",), "m:1")]
    with pytest.raises(DataError, match="train and val"):
        merge(plain)
