"""R-2D3D: a ResNet whose first two stages are 2-D and whose last two stages also convolve over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paramcrop.models.layers import NORMS, Chain, add_shortcut, norm_layer

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
Size = tuple[int, int, int]


class Block(nn.Module):
    """Residual block: (B, C, T, H, W) -> (B, C', T', H', W').

    It has two 3x3 convolutions (3x3x3 if ``temporal``), or as a bottleneck one of them between two 1x1x1 convolutions,
    the last of which has 4 x ``width`` channels.
    """

    def __init__(
        self, inputs: int, width: int, stride: Size, temporal: bool, norm: str, final_relu: bool, bottleneck: bool
    ) -> None:
        super().__init__()
        kernel = (3, 3, 3) if temporal else (1, 3, 3)
        self.outputs = 4 * width if bottleneck else width
        steps: list[tuple[Size, Size, int]] = [(kernel, stride, width), (kernel, (1, 1, 1), width)]
        if bottleneck:
            point = (1, 1, 1)
            steps = [(point, point, width), (kernel, stride, width), (point, point, self.outputs)]
        layers: list[nn.Module] = []
        channels = inputs
        for size, step, outputs in steps:
            padding = (size[0] // 2, size[1] // 2, size[2] // 2)
            layers += [nn.Conv3d(channels, outputs, size, step, padding, bias=False), norm_layer(outputs, norm)]
            layers += [nn.ReLU(inplace=True)]
            channels = outputs
        self.branch = Chain(*layers[:-1])  # the last ReLU comes after the sum
        self.shortcut: nn.Module = nn.Identity()
        if inputs != self.outputs or stride != (1, 1, 1):
            convolution = nn.Conv3d(inputs, self.outputs, 1, stride, bias=False)
            self.shortcut = Chain(convolution, norm_layer(self.outputs, norm))
        self.relu: nn.Module = nn.ReLU(inplace=True) if final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return add_shortcut(self.branch, x, self.shortcut(x), self.relu)


class R2D3D(nn.Module):
    """R-2D3D with the channels of DPC (64, 128, 256, 256) and stride T/4, H/32.

    Args:
        depth: 10, 18, 34 or 50; 50 uses bottlenecks and has four times the features.
        width: channels of the first stage, 64 in the paper. The stages have 1, 2, 4 and 4 times ``width`` channels.
        norm: "batch" or "group".
        final_relu: keep the last ReLU (as HiCo, unlike DPC).

    Raises:
        ValueError: an unknown depth or norm, or a width below 1.
    """

    def __init__(self, depth: int = 18, width: int = 64, norm: str = "batch", final_relu: bool = True) -> None:
        super().__init__()
        if depth not in BLOCKS or norm not in NORMS or width < 1:
            raise ValueError(
                f"depth must be one of {tuple(BLOCKS)}, norm one of {NORMS} and width at least 1, "
                f"but got {depth=}, {norm=}, {width=}"
            )
        self.stem = Chain(
            nn.Conv3d(3, width, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            norm_layer(width, norm),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        stages: list[Block] = []
        inputs = width
        for stage, blocks in enumerate(BLOCKS[depth]):
            outputs, temporal = width * (1, 2, 4, 4)[stage], stage >= 2
            for block in range(blocks):
                down = 2 if stage > 0 and block == 0 else 1
                last = stage == 3 and block == blocks - 1
                stride = (down if temporal else 1, down, down)
                relu = final_relu or not last
                stages.append(Block(inputs, outputs, stride, temporal, norm, relu, bottleneck=depth >= 50))
                inputs = stages[-1].outputs
        self.features = inputs
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def trunk(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, features, T/4, H/32, W/32), rounded up."""
        if x.is_cuda:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        out: Tensor = self.stages(self.stem(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, features): the mean of the trunk over time and space."""
        return self.trunk(x).mean((2, 3, 4))
