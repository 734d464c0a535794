"""What a manifest says of the videos' pixels, and the warning where a clip is larger than they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paramcrop.data.manifest import Manifest, enlarged_from, enlargement, read_manifest
from paramcrop.data.shards import write_shards
from paramcrop.data.synthetic import CLASSES, make_dataset, videos
from paramcrop.errors import DataError


@pytest.mark.parametrize(
    ("settings", "side"),
    [({"short_side": 128}, 128), ({"height": 48, "width": 64}, 48), ({"crf": 20}, None), ({}, None)],
)
def test_the_short_side_is_that_of_the_preparation(settings: dict[str, int], side: int | None) -> None:
    assert Manifest("x", (), (), settings).about["short_side"] == side


def test_made_up_videos_say_their_size(tmp_path: Path) -> None:
    make_dataset(str(tmp_path), 2, 8, 32, 48)
    assert read_manifest(str(tmp_path)).about == {"dataset": "synthetic", "videos": 2, "classes": 8, "short_side": 32}


@pytest.mark.parametrize(
    ("short_side", "box", "size", "side"),
    [
        (128, 0.875, 224, 112),  # the default of prepare, the paper's fine-tuning
        (256, 0.875, 224, None),
        (128, 0.875, 128, 112),  # R1, R2 on it
        (128, 1.0, 128, None),
        (None, 0.875, 224, None),
    ],
)
def test_a_clip_is_enlarged_where_its_square_has_fewer_pixels(
    short_side: int | None, box: float, size: int, side: int | None
) -> None:
    assert enlarged_from(short_side, box, size) == side
    lines = enlargement("ucf101/paper-finetune", short_side, box, size, "size")
    assert [f"from {side} x {side}, because" in line for line in lines] == ([] if side is None else [True])


def test_the_warning_names_what_avoids_it() -> None:
    (line,) = enlargement("ucf101/paper-finetune", 128, 0.875, 224, "size")
    assert line == (
        "warning: ucf101/paper-finetune: clips of 224 x 224 pixels are enlarged from 112 x 112, because the videos "
        "have a short side of 128; prepare them with --short-side 256 or more, or set size=112"
    )
    assert "\n" not in line


def test_the_order_of_the_videos_is_in_the_data_id_but_not_in_the_content_id(tmp_path: Path) -> None:
    """It orders an epoch: other videos meet in a batch."""
    made = list(videos(8, 8, 32, 32, seed=0))
    sets = {"a": made, "b": made, "reversed": made[::-1]}
    found = {name: write_shards(rows, str(tmp_path / name), CLASSES, row_group_rows=4) for name, rows in sets.items()}
    found["groups"] = write_shards(made, str(tmp_path / "groups"), CLASSES, row_group_rows=2)
    assert len({manifest.content_id for manifest in found.values()}) == 1
    assert found["a"].data_id == found["b"].data_id == read_manifest(str(tmp_path / "a")).data_id
    assert len({manifest.data_id for manifest in found.values()}) == 3
    older = [replace(shard, order="") for shard in found["a"].shards]  # a folder of an earlier version
    assert replace(found["a"], shards=tuple(older)).data_id not in {manifest.data_id for manifest in found.values()}


def test_shards_of_format_2_are_read_and_others_refused(tmp_path: Path) -> None:
    made = make_dataset(str(tmp_path), 2, 8, 32, 48)
    file = tmp_path / "manifest.json"
    assert '"format": "paramcrop-shards/3"' in file.read_text()
    file.write_text(file.read_text().replace("paramcrop-shards/3", "paramcrop-shards/2"))
    assert read_manifest(str(tmp_path)) == made
    file.write_text(file.read_text().replace("paramcrop-shards/2", "paramcrop-shards/1"))
    with pytest.raises(
        DataError, match="must be paramcrop-shards/2 or paramcrop-shards/3, but is 'paramcrop-shards/1'"
    ):
        read_manifest(str(tmp_path))
