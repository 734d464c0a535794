from __future__ import annotations

import torch

from paramcrop.crops.geometry import CropParams
from paramcrop.training.build import build_clip_spec
from paramcrop.training.two_views import crop_scalars, stack_params
from tests.memory import made_clips, memory_batches, tiny_config


def params(dx: float) -> CropParams:
    one, zero = torch.full((8,), 0.5), torch.zeros(8)
    return CropParams(one, one, None, zero + dx, zero, zero)


def test_distance_and_iou_in_clip_and_video() -> None:
    config = tiny_config()
    batch = next(memory_batches(made_clips(8, 8, 32), build_clip_spec(config), 0, 8)(0))
    cube = batch.cube.clone()
    cube[..., 0, :] = torch.tensor([0.0, 0.5])  # both clips are the left half of the video
    batch = batch._replace(cube=cube, flip=torch.zeros(8, 2, dtype=torch.bool))
    scalars = crop_scalars((params(-0.25), params(0.25)), batch)
    torch.testing.assert_close(scalars["crop_distance"], torch.tensor(0.25))
    torch.testing.assert_close(scalars["crop_iou"], torch.tensor(1 / 3))
    torch.testing.assert_close(scalars["source_distance"], torch.tensor(0.125))
    torch.testing.assert_close(scalars["source_iou"], torch.tensor(1 / 3))
    assert [scalars[name].item() for name in ("dx_1", "dx_2", "theta_1")] == [-0.25, 0.25, 0]
    flipped = crop_scalars((params(-0.25), params(0.25)), batch._replace(flip=torch.tensor([[True, False]] * 8)))
    torch.testing.assert_close(flipped["source_distance"], torch.tensor(0.0))  # the flip moves both to the same place
    torch.testing.assert_close(flipped["crop_distance"], torch.tensor(0.25))


def test_stacked_parameters_have_the_order_of_eq_5() -> None:
    stacked = stack_params((params(-0.25), params(0.25)))
    assert stacked.shape == (8, 2, 6)
    assert stacked[0, 1].tolist() == [0.5, 0.5, 0, 0.25, 0, 0]
