"""S3D: Inception with each 3x3x3 convolution split into one over space and one over time. S3D-G adds gating."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paramcrop.models.layers import NORMS, Chain, gated, gated_cat, max_pool, norm_layer, run_chain

# Channels of the four branches, as in Inception v1: 1x1x1; 1x1x1 -> 3x3x3; 1x1x1 -> 3x3x3; pool -> 1x1x1.
BLOCKS = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
Size = tuple[int, int, int]
STD = 0.01  # standard deviation of the initial convolution weights at width 64


class Gating(nn.Module):
    """Feature gating: scale each channel by a sigmoid of all channel means; (B, C, T, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return gated(x, self.linear)


def conv(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int], norm: str
) -> list[nn.Module]:
    """Convolution without bias, norm and ReLU; the padding keeps the size at stride 1."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    layer = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
    return [layer, norm_layer(outputs, norm), nn.ReLU(inplace=True)]


def separable(inputs: int, outputs: int, kernel: int, stride: int, norm: str) -> list[nn.Module]:
    """A convolution over space and then one over time, each with norm and ReLU."""
    space = conv(inputs, outputs, (1, kernel, kernel), (1, stride, stride), norm)
    return space + conv(outputs, outputs, (kernel, 1, 1), (stride, 1, 1), norm)


class HalvingPool(nn.Module):
    """Max-pooling over 2x2x2, rounding down. A size of 1, which only inputs smaller than the paper's have, stays 1."""

    def forward(self, x: Tensor) -> Tensor:
        t, height, width = (min(2, size) for size in x.shape[2:])
        return max_pool(x, (t, height, width), (t, height, width), (0, 0, 0))


class Inception(nn.Module):
    """Four parallel branches, each gated after its last operation if ``gating``, then concatenated."""

    def __init__(self, inputs: int, channels: tuple[int, ...], gating: bool, norm: str) -> None:
        super().__init__()
        one, reduce_1, three_1, reduce_2, three_2, pooled = channels
        point = (1, 1, 1)
        layers = [
            conv(inputs, one, point, point, norm),
            conv(inputs, reduce_1, point, point, norm) + separable(reduce_1, three_1, 3, 1, norm),
            conv(inputs, reduce_2, point, point, norm) + separable(reduce_2, three_2, 3, 1, norm),
            [nn.MaxPool3d(3, 1, 1), *conv(inputs, pooled, point, point, norm)],
        ]
        widths = (one, three_1, three_2, pooled)
        gates: list[list[nn.Module]] = [[Gating(width)] if gating else [] for width in widths]
        self.branches = nn.ModuleList(Chain(*b, *g) for b, g in zip(layers, gates, strict=True))
        self.outputs, self.gating = sum(widths), gating

    def forward(self, x: Tensor) -> Tensor:
        if not self.gating:
            return torch.cat([branch(x) for branch in self.branches], 1)
        # The gates of all branches are applied together, so that a GPU writes each gated branch into its place.
        branches: list[list[Any]] = [[*branch.children()] for branch in self.branches]
        outputs = [run_chain(layers, x) for *layers, _ in branches]
        return gated_cat(outputs, [gate.linear for *_, gate in branches])


class S3D(nn.Module):
    """S3D (``gating=False``) or S3D-G, with stride T/8, H/32 and 1024 features at the paper's width.

    Args:
        width: channels of the first convolution, 64 in the paper (9,098,000 parameters with gating, 7,910,048
            without). The other layers scale with it and keep at least one channel.
        gating: gate each branch before the concatenation, as CoCLR and HiCo do. (The original TensorFlow code also
            gates after Conv2d_2c, and its gates have no bias.)
        norm: "batch" (eps 1e-3) or "group" (independent of the batch).

    Raises:
        ValueError: an unknown norm, or a width below 1.
    """

    def __init__(self, width: int = 64, gating: bool = True, norm: str = "batch") -> None:
        super().__init__()
        if norm not in NORMS or width < 1:
            raise ValueError(f"norm must be one of {NORMS} and width at least 1, but got {norm=}, {width=}")

        def share(channels: int) -> int:
            return max(1, round(channels * width / 64))

        layers: list[nn.Module] = [
            *separable(3, share(64), 7, 2, norm),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *conv(share(64), share(64), (1, 1, 1), (1, 1, 1), norm),
            *separable(share(64), share(192), 3, 1, norm),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ]
        inputs = share(192)
        for name, channels in BLOCKS.items():
            if name == "4b":
                layers.append(nn.MaxPool3d(3, 2, 1))
            elif name == "5b":
                layers.append(HalvingPool())
            block = Inception(inputs, tuple(map(share, channels)), gating, norm)
            layers.append(block)
            inputs = block.outputs
        self.layers = Chain(*layers)
        self.features = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                # A narrow layer sums fewer inputs. Without larger weights, the eps of batch norm (1e-3) would dominate
                # its variance.
                nn.init.normal_(module.weight, std=STD * (64 / width) ** 0.5)

    def trunk(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, features, t, h, w).

        All halvings round up but the last, which leaves at least 1: t = ⌈T/4⌉ // 2, h = ⌈H/16⌉ // 2, w = ⌈W/16⌉ // 2.
        """
        x = x.contiguous(memory_format=torch.channels_last_3d)  # 1.3 times as fast on CPUs; GPU kernels need it
        out: Tensor = self.layers(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, features): the mean of the trunk over time and space."""
        return self.trunk(x).mean((2, 3, 4))


def s3d(width: int = 64, norm: str = "batch") -> S3D:
    """S3D without gating."""
    return S3D(width, gating=False, norm=norm)
