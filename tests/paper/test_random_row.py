"""The views that each reading of "random crop" gives, as measured for the table in docs/paper/differences.md.

``python -m pytest -q -s tests/paper/test_random_row.py`` prints the table.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from paramcrop.crops.geometry import box_in_video, crop_box, iou
from paramcrop.crops.policies import WholeClip
from paramcrop.data.clips import (
    ClipSpec,
    cubes_in_video,
    draw_augmentation,
    draw_cubes,
    generator,
    square_boxes,
    window_starts,
)
from paramcrop.settings.presets import load_config
from paramcrop.training.build import build_clip_spec, build_policy
from tests.wheel import ROOT

FRAMES, HEIGHT, WIDTH = 300, 240, 320  # a video of 10 s
VIDEOS, SEEDS = 1000, 10
PAGE = ROOT / "docs" / "paper" / "differences.md"


@cache
def draw(spec: ClipSpec, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cubes, flips and noise of ``VIDEOS`` videos, drawn as for training."""
    samples = []
    for i in range(VIDEOS):
        rng = generator(seed, 0, str(i))
        u = draw_cubes(rng, spec)
        windows, boxes = window_starts(u, spec, FRAMES), square_boxes(u, spec, HEIGHT, WIDTH)
        drawn = draw_augmentation(rng, spec)
        cube = cubes_in_video(windows, boxes, spec, (FRAMES, HEIGHT, WIDTH))
        samples.append((cube, drawn["flip"], drawn["noise"]))
    cubes, flips, noises = (torch.from_numpy(np.stack(each)) for each in zip(*samples, strict=True))
    return cubes, flips, noises


@torch.no_grad()
def boxes_of(policy: str, seed: int) -> list[Tensor]:
    """The box of each view in the video, (VIDEOS, 3, 2), with the paper's settings; ``seed`` also draws the weights."""
    config = load_config(None, None, [f"policy={policy}"])
    cube, flip, noise = draw(build_clip_spec(config), seed)
    torch.manual_seed(seed)
    crops = build_policy(config)(noise, 0.0)
    return [box_in_video(crop_box(crop), cube[:, i], flip[:, i]) for i, crop in enumerate(crops)]


def measure(policy: str) -> list[float]:
    """Means: a view's share of the frame and of the video's length; IoU of both views in the frame and in the video."""
    found = []
    for seed in range(SEEDS):
        views = boxes_of(policy, seed)
        width, height, length = torch.cat(views).diff(dim=-1)[..., 0].unbind(1)
        whole = views[0].new_tensor([0.0, 1.0]).expand(VIDEOS, 1, 2)  # the same time for both
        in_frame = iou(*(torch.cat([view[:, :2], whole], 1) for view in views))
        found.append([each.mean().item() for each in (width * height, length, in_frame, iou(*views))])
    means: list[float] = np.mean(found, 0).tolist()
    return means


def test_the_documentation_has_the_measured_views_of_each_reading() -> None:
    rows = re.findall(r"^\|[^|]*`policy=(\w+)`[^|]*((?:\| \.\d\d )+)\|$", PAGE.read_text(), re.M)
    assert [policy for policy, _ in rows] == ["none", "random", "paramcrop"]
    for policy, printed in rows:
        measured = measure(policy)
        print(f"{policy:10}", *(f"{value:.3f}" for value in measured))
        assert [float(value) for value in printed.split("|")[1:]] == pytest.approx(measured, abs=0.006)


def test_the_random_row_sees_more_than_a_nested_crop() -> None:
    """.44 of a 4:3 frame by R1 and R2 alone, .26 by a crop within theirs."""
    assert measure("none")[0] == pytest.approx(0.44, abs=0.005)
    assert measure("random")[0] == pytest.approx(0.26, abs=0.005)


def test_autoaugments_operations_are_over_the_random_row() -> None:
    config = load_config(None, None, ["policy=autoaugment", "cropper.noise_size=1"])  # it crops by no noise
    assert isinstance(build_policy(config), WholeClip)
    spec = build_clip_spec(config)
    assert spec.random_cube and spec.autoaugment == "imagenet"
