from __future__ import annotations

import pytest
import torch
import torchvision.transforms.functional as TF

from paramcrop.crops.augment import OPERATIONS, Augmentation, augment, color_jitter

TORCHVISION = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)


def drawn(n: int, seed: int = 0) -> Augmentation:
    g = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(4, generator=g) for _ in range(n)])
    factors = torch.rand(n, 4, generator=g) * 1.6 + 0.2
    factors[:, 3] = torch.rand(n, generator=g) - 0.5
    return Augmentation(torch.rand(n, generator=g) < 0.5, order, factors)


def per_sample(frames: torch.Tensor, a: Augmentation) -> torch.Tensor:
    """The slow reference: torchvision, sample by sample and operation by operation."""
    out = []
    for clip, flip, order, factors in zip(frames.float() / 255, a.flip, a.order, a.factors, strict=True):
        images = (clip.flip(-1) if flip else clip).transpose(0, 1)
        for number in order.tolist():
            images = TORCHVISION[number](images, factors[number].item())
        out.append(images.transpose(0, 1))
    return torch.stack(out)


def test_equals_torchvision_sample_by_sample() -> None:
    frames, a = torch.randint(0, 256, (12, 3, 3, 10, 9), dtype=torch.uint8), drawn(12)
    torch.testing.assert_close(augment(frames, a), per_sample(frames, a), atol=2e-5, rtol=0)


@pytest.mark.parametrize("number", range(4))
def test_each_operation_alone(number: int) -> None:
    frames, a = torch.randint(0, 256, (6, 3, 2, 8, 8), dtype=torch.uint8), drawn(6, number)
    neutral = torch.tensor([n for _, n in OPERATIONS]).repeat(6, 1)
    neutral[:, number] = a.factors[:, number]
    a = a._replace(factors=neutral)
    torch.testing.assert_close(augment(frames, a), per_sample(frames, a), atol=1e-5, rtol=0)


def test_neutral_factors_change_nothing() -> None:
    frames = torch.rand(3, 3, 2, 4, 4)
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]] * 3)
    assert torch.equal(color_jitter(frames, torch.arange(4).repeat(3, 1), factors), frames)


def test_a_frame_does_not_depend_on_the_other_frames() -> None:
    frames, a = torch.randint(0, 256, (4, 3, 5, 6, 6), dtype=torch.uint8), drawn(4)
    torch.testing.assert_close(augment(frames, a)[:, :, 2:3], augment(frames[:, :, 2:3], a))


def test_the_input_is_not_modified() -> None:
    frames = torch.rand(2, 3, 2, 4, 4)
    before = frames.clone()
    augment(frames, drawn(2))
    assert torch.equal(frames, before)
