"""--test-share: a share of each class becomes the test split of a set without splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramcrop.data.prepare.datasets import find_dataset, with_test_share
from paramcrop.errors import DataError
from tests.data.prepare.made_lists import split_sizes, touch, write


def test_a_share_of_each_class_is_tested_and_no_group_is_divided(tmp_path: Path) -> None:
    names = [f"{label}/{group}-{clip}.mp4" for label in ("run", "walk") for group in "abcde" for clip in range(3)]
    videos = touch(tmp_path / "videos", *names, "jump/only-0.mp4")
    rows = [f"{name},{name.split('/')[0]},{name.rpartition('-')[0]}" for name in [*names, "jump/only-0.mp4"]]
    table = write(tmp_path / "lists", list__csv="file,class,group\n" + "\n".join(rows))
    whole = find_dataset("folder", videos, table)
    shared = with_test_share(whole, "folder", 0.2, 0)
    assert split_sizes(shared) == {"train": 25, "test": 6}
    of_group: dict[str, set[tuple[str, ...]]] = {}
    for source in shared.sources:
        of_group.setdefault(source.group, set()).add(source.splits)
    assert all(len(splits) == 1 for splits in of_group.values())
    assert shared.warnings == ("class jump is in train only, because its videos are one group",)
    assert with_test_share(whole, "folder", 0.2, 0) == shared != with_test_share(whole, "folder", 0.2, 1)


def test_a_set_with_splits_takes_no_share(tmp_path: Path) -> None:
    videos = touch(tmp_path, "train/run/a.mp4", "test/run/b.mp4")
    with pytest.raises(DataError, match="--test-share needs a set without splits, but this one has test"):
        with_test_share(find_dataset("folder", videos, None), "folder", 0.2, 0)
