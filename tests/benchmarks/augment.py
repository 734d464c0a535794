"""Flip and colour jitter of a crop's 16 frames: ours on a batch, kornia's on a batch, torchvision's clip by clip."""

from __future__ import annotations

import torch
from torch import Tensor

from paramcrop.crops.augment import Augmentation, augment
from paramcrop.crops.resample import to_float
from paramcrop.data.clips import ClipSpec, draw_augmentation, generator
from tests.benchmarks.timing import Line, Report, take_turns

FRAMES, SIDE = 16, 128
STRENGTH = (0.8, 0.8, 0.8, 0.2)


def run(device: str) -> Report:
    from kornia.augmentation import ColorJiggle, RandomHorizontalFlip, VideoSequential
    from torchvision.transforms import v2

    batch = 8 if device == "cpu" else 64
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (batch, FRAMES, SIDE, SIDE, 3), dtype=torch.uint8, device=device)
    frames = frames.permute(0, 4, 1, 2, 3)
    drawn = [draw_augmentation(generator(0, 0, str(i)), ClipSpec()) for i in range(batch)]
    values = {name: torch.tensor([one[name][0].tolist() for one in drawn]) for name in ("flip", "order", "factors")}
    augmentation = Augmentation(values["flip"].to(device), values["order"], values["factors"])
    kornias = VideoSequential(
        RandomHorizontalFlip(p=0.5), ColorJiggle(*STRENGTH, p=0.8), data_format="BCTHW", same_on_frame=True
    )
    jitter = v2.RandomApply([v2.ColorJitter(*STRENGTH)], p=0.8)
    torchvisions = v2.Compose([v2.RandomHorizontalFlip(0.5), jitter])

    def by_torchvision() -> Tensor:
        return torch.stack([torchvisions(to_float(clip).transpose(0, 1)) for clip in frames])

    ways = {
        "torchvision v2, clip by clip (peer)": by_torchvision,
        "kornia VideoSequential": lambda: kornias(to_float(frames)),
        "ours": lambda: augment(frames, augmentation),
    }
    seconds = take_turns(ways, 7, device)
    first = next(iter(ways))
    lines = [Line(n, 1000 * s / batch, {"times the peer": seconds[first] / s}) for n, s in seconds.items()]
    notes = ["each way draws its own random numbers; only the crop's 16 of the clip's 64 frames are augmented"]
    return Report("flip and colour jitter, ms a sample of 16 x 128 x 128", "ms", lines, notes)
