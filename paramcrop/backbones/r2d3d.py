"""R-2D3D: a ResNet whose first two stages see one frame at a time and whose last two convolve in time as well."""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
NORMS = ("batch", "group")


def norm_layer(channels: int, norm: str) -> nn.Module:
    """BatchNorm with eps 1e-3, or GroupNorm over groups of 8 channels (does not depend on the batch)."""
    if norm == "batch":
        return nn.BatchNorm3d(channels, eps=1e-3, momentum=0.1)
    return nn.GroupNorm(max(channels // 8, 1), channels, eps=1e-3)


class Block(nn.Module):
    """Two 3x3 convolutions (in time too if ``temporal``) with a shortcut: (B, C, T, H, W) -> (B, C', T', H', W')."""

    def __init__(
        self, inputs: int, outputs: int, stride: tuple[int, int, int], temporal: bool, norm: str, final_relu: bool
    ) -> None:
        super().__init__()
        kernel, padding = ((3, 3, 3), (1, 1, 1)) if temporal else ((1, 3, 3), (0, 1, 1))
        self.branch = nn.Sequential(
            nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False),
            norm_layer(outputs, norm),
            nn.ReLU(inplace=True),
            nn.Conv3d(outputs, outputs, kernel, 1, padding, bias=False),
            norm_layer(outputs, norm),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != (1, 1, 1):
            self.shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), norm_layer(outputs, norm))
        self.relu: nn.Module = nn.ReLU(inplace=True) if final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return out


class R2D3D(nn.Module):
    """R-2D3D with the channels of DPC (64, 128, 256, 256) and stride T/4, H/32.

    Args:
        depth: 10, 18 or 34.
        width: channels of the first stage; 64 is the paper's. The later stages have 1, 2, 4 and 4 times as many.
        norm: "batch" or "group".
        final_relu: keep the last block's ReLU (HiCo does, DPC does not).

    Raises:
        ValueError: an unknown depth or norm, or a width below 1.
    """

    def __init__(self, depth: int = 18, width: int = 64, norm: str = "batch", final_relu: bool = True) -> None:
        super().__init__()
        if depth not in BLOCKS or norm not in NORMS or width < 1:
            raise ValueError(
                f"depth must be one of {tuple(BLOCKS)}, norm one of {NORMS} and width >= 1, "
                f"but got {depth=}, {norm=}, {width=}"
            )
        self.features = 4 * width
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            norm_layer(width, norm),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        stages: list[nn.Module] = []
        inputs = width
        for stage, blocks in enumerate(BLOCKS[depth]):
            outputs, temporal = width * (1, 2, 4, 4)[stage], stage >= 2
            for block in range(blocks):
                down = 2 if stage > 0 and block == 0 else 1
                last = stage == 3 and block == blocks - 1
                stride = (down if temporal else 1, down, down)
                stages.append(Block(inputs, outputs, stride, temporal, norm, final_relu or not last))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def trunk(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 4 width, T/4, H/32, W/32), rounded up."""
        out: Tensor = self.stages(self.stem(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 4 width): the trunk averaged over time and space."""
        return self.trunk(x).mean((2, 3, 4))
