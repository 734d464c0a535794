"""What `paramcrop prepare` prints."""

from __future__ import annotations

import shlex
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from paramcrop.data.manifest import Manifest, Shard, write_manifest
from paramcrop.data.prepare.datasets import Dataset, Source
from paramcrop.data.prepare.plan import make_plan, unread
from ray_jobs.options import resolved
from ray_jobs.prepare.command import main
from ray_jobs.prepare.report import describe_plan, print_summary

ROW = "a.csv:3: youtube_id must consist of letters, digits, - and _, but is '#NAME?'"
TREATMENTS = (
    {"id": "a", "path": "a", "turned": "90", "matrix": "bt709"},
    {"id": "b", "path": "b", "turned": "180", "lost": "decoded 3 of 9 frames"},
    {"id": "c", "path": "c", "rate": "varies", "stream": "2 of 2", "squeezed": "4:3", "range": "full"},
)
COUNTS = {
    "turned upright": 2,
    "pixels made square": 1,
    "full range made limited": 1,
    "colours of another matrix": 1,
    "best stream of several": 1,
    "frames lost or damaged": 1,
    "frame rate varies": 1,
}


def manifest(**changes: Any) -> Manifest:
    shards = tuple(Shard(f"{name}.parquet", 1, "", (2,), (name,)) for name in ("train", "test"))
    return Manifest("0123", ("a",), shards, **changes)


def summary(of: Manifest, out: str) -> list[str]:
    sink = StringIO()
    print_summary(of, out, 1.0, 2, Console(file=sink, width=200))
    return sink.getvalue().splitlines()


def test_the_printed_command_can_be_pasted_into_a_shell() -> None:
    for out in ("/data/a b", "/data/it's $HOME #1", "s3://bucket/shards"):
        words = shlex.split(summary(manifest(), out)[-1].removeprefix("pretrain with it: "))
        assert words == ["paramcrop", "pretrain", f"data.shards={out}", "data.split=train"]


def test_the_summary_counts_what_was_done_to_sources() -> None:
    lines = [line.strip("│ ").split("│") for line in summary(manifest(treatments=TREATMENTS), "out")]
    cells = {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}
    assert {what: int(cells[what]) for what in COUNTS} == COUNTS


def test_check_shows_what_was_done_to_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from paramcrop.data.synthetic import make_dataset

    out = str(tmp_path / "a b")
    made = make_dataset(out, 4, 8, 32, 40)
    write_manifest(Manifest(**vars(made) | {"treatments": TREATMENTS}), out)
    main(["--check", "--out", out])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("ok: 4 videos") and printed[1:] == [f"  {what}: {n}" for what, n in COUNTS.items()]


def test_unreadable_rows_are_counted_once_and_named() -> None:
    lines = summary(manifest(rejected=tuple(map(unread, [ROW, ROW.replace(":3:", ":9:")]))), "out")
    assert [line.split("│")[2].strip() for line in lines if "rejected" in line and "│" in line] == [
        "2: the row of the list cannot be read"
    ]
    assert f"  rejected: a.csv:3: the row of the list cannot be read: {ROW.removeprefix('a.csv:3: ')}" in lines


def test_the_plan_warns_of_unreadable_rows_and_of_folders() -> None:
    dataset = Dataset(("a",), (Source("x", "x", "a", ("train",), 1),), warnings=("look at it",), unreadable=(ROW,))
    plan = make_plan(dataset, "kinetics", 128, 20, 4, 0)
    assert describe_plan(plan, dataset).splitlines()[2:] == [
        f"warning: rows of the lists that cannot be read are left out: 1, such as {ROW}",
        "warning: look at it",
    ]


def test_a_folder_keeps_its_characters() -> None:
    assert resolved("/data/a #b%") == "/data/a #b%" and resolved("file:///data/a #b%") == "file:///data/a #b%"
