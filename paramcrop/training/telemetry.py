"""What is logged of two crops, the same for every policy."""

from __future__ import annotations

import torch
from torch import Tensor

from paramcrop.crops.geometry import CropParams, box_in_video, centre_distance, crop_box, iou
from paramcrop.data.batch import Batch


@torch.no_grad()
def crop_scalars(crops: tuple[CropParams, CropParams], batch: Batch) -> dict[str, Tensor]:
    """Batch means of both crops.

    ``crop_distance``, ``crop_iou``: in the croppers' own frame (Figure 5). ``source_distance``, ``source_iou``: the
    crops composed with R_1, R_2 and un-flipped, so in the video (Figures 1b, 8 to 10). ``s_p_1`` ... ``dt_2``: each
    parameter of each view.
    """
    boxes = [crop_box(params) for params in crops]
    sources = [box_in_video(box, batch.cube[:, i], batch.flip[:, i]) for i, box in enumerate(boxes)]
    scalars = {
        "crop_distance": centre_distance(*boxes).mean(),
        "crop_iou": iou(*boxes).mean(),
        "source_distance": centre_distance(*sources).mean(),
        "source_iou": iou(*sources).mean(),
    }
    for i, params in enumerate(crops):
        for name, value in params._asdict().items():
            scalars[f"{name}_{i + 1}"] = torch.zeros_like(params.s_p).mean() if value is None else value.mean()
    return scalars


def stack_params(crops: tuple[CropParams, CropParams]) -> Tensor:
    """Both views' parameters -> (B, 2, 6), in the order of Eq. 5; theta is 0 where nothing rotates."""
    zero = torch.zeros_like(crops[0].s_p)
    return torch.stack([torch.stack([zero if p is None else p for p in params], -1) for params in crops], 1)
