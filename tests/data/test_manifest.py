"""What a manifest says of the videos' pixels, and the warning where a clip is larger than they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramcrop.data.manifest import Manifest, enlarged_from, enlargement, read_manifest
from paramcrop.data.synthetic import make_dataset


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
