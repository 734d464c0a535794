"""Video networks of other programs: which of them a file's tensors are of, and the same tensors under our names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from paramcrop.models.interfaces import Backbone

Channels = tuple[float, float, float]  # red, green, blue
T = TypeVar("T")

# Where our S3D keeps what the others number in their own ways: the first layer of each of their parts.
TORCHVISION_BLOCKS = {5: 17, 6: 18, 8: 20, 9: 21, 10: 22, 11: 23, 12: 24, 14: 26, 15: 27}
COCLR_BLOCKS = {
    **{"3.1": 17, "3.2": 18, "4.1": 20, "4.2": 21, "4.3": 22, "4.4": 23, "4.5": 24},
    **{"5.1": 26, "5.2": 27},
}
COCLR_NETWORKS = ("encoder_q.0.", "backbone.", "module.encoder_q.0.", "module.backbone.", "module.", "")
COCLR_FIRST = "block1.0.conv1.weight"
PARTS = {"conv": 0, "bn": 1, "conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}  # convolution, norm, ReLU, and again


class Origin(NamedTuple):
    """A network of another program.

    Attributes:
        name: what it is called here. backbone: the name of the same architecture here, see ``make_backbone``.
        mean, std: of the pixels in [0, 1], for which it was trained. eps: of its batch norms.
        frames, size, stride, box: the clips that it was published with, see ``UniformSpec``.
        rename: its name of a tensor -> ours; None: the backbone has no such tensor.
    """

    name: str
    backbone: str
    mean: Channels
    std: Channels
    eps: float
    frames: int
    size: int
    stride: int
    box: float
    rename: Callable[[str], str | None]

    def renamed(self, state: Mapping[str, T]) -> dict[str, T]:
        """The backbone's tensors under our names."""
        named = {self.rename(name): value for name, value in state.items()}
        return {name: value for name, value in named.items() if name is not None}


class R3D(nn.Module):
    """torchvision's r3d_18 without its classifier, a ``Backbone`` of 512 features. Its tensors keep their names."""

    features = 512

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.video import r3d_18

        whole = r3d_18(weights=None)
        self.stem = whole.stem
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4

    def trunk(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 512, T/8, H/16, W/16), rounded up."""
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 512)."""
        return self.trunk(x).mean((2, 3, 4))


OTHERS: Mapping[str, Callable[[], Backbone]] = {"torchvision-r3d_18": R3D}  # besides our own backbones


class Renormalised(nn.Module):
    """A backbone for pixels normalised with its own mean and std, fed with pixels normalised with others.

    Args:
        given, own: (mean, std) of each channel.
    """

    def __init__(self, backbone: nn.Module, given: tuple[float, float], own: tuple[Channels, Channels]) -> None:
        super().__init__()
        self.backbone, self.features = backbone, backbone.features
        (mean, std), (own_mean, own_std) = given, (torch.tensor(value)[:, None, None, None] for value in own)
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, features)."""
        out: Tensor = self.backbone(x * self.get_buffer("scale") + self.get_buffer("shift"))
        return out


def set_eps(backbone: nn.Module, eps: float | None) -> None:
    """Give all batch norms this eps; None: leave theirs."""
    for module in backbone.modules():
        if eps is not None and isinstance(module, nn.BatchNorm3d):
            module.eps = eps


def recognise(names: Iterable[str]) -> Origin | None:
    """The network that tensors of these names are of; None: none that is known."""
    known = set(names)
    if "features.15.branch0.0.weight" in known:
        return ORIGINS["torchvision-s3d"]
    if {"stem.0.weight", "layer1.0.conv1.0.weight", "layer4.1.conv2.0.weight"} <= known:
        return ORIGINS["torchvision-r3d_18"]
    prefix = next((prefix for prefix in COCLR_NETWORKS if prefix + COCLR_FIRST in known), None)
    return None if prefix is None else coclr(prefix, f"{prefix}block3.1.gating_b0.fc.weight" in known)


def coclr(prefix: str, gated: bool) -> Origin:
    """S3D or S3D-G of CoCLR (github.com/TengdaHan/CoCLR), whose names begin with ``prefix``."""
    kind = "s3dg" if gated else "s3d"
    own = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def rename(name: str) -> str | None:
        return _coclr_name(name.removeprefix(prefix)) if name.startswith(prefix) else None

    return Origin(f"coclr-{kind}", kind, *own, eps=1e-5, frames=32, size=128, stride=1, box=1.0, rename=rename)


def _coclr_name(name: str) -> str | None:
    """ "block3.1.branch1.1.conv2.weight" -> "layers.17.branches.1.6.weight"."""
    if found := re.fullmatch(r"block(1\.0|2\.[12])\.(\w+)\.(\w+)", name):
        place, part, tensor = found.groups()
        return f"layers.{ {'1.0': 0, '2.1': 7, '2.2': 10}[place] + PARTS[part] }.{tensor}"
    if found := re.fullmatch(r"block(\d\.\d)\.branch(\d)\.(\d)\.(\w+)\.(\w+)", name):
        block, branch, step, part, tensor = found.groups()
        layer = (int(step) if branch == "3" else 3 * int(step)) + PARTS[part]
        return f"layers.{COCLR_BLOCKS[block]}.branches.{branch}.{layer}.{tensor}"
    if found := re.fullmatch(r"block(\d\.\d)\.gating_b(\d)\.fc\.(\w+)", name):
        block, branch, tensor = found.groups()
        return f"layers.{COCLR_BLOCKS[block]}.branches.{branch}.{(3, 9, 9, 4)[int(branch)]}.linear.{tensor}"
    return None  # the same tensors a second time (Conv_1a, Mixed_3b), the projector


def _torchvision_s3d_name(name: str) -> str | None:
    """ "features.5.branch1.1.1.0.weight" -> "layers.17.branches.1.6.weight"."""
    if found := re.fullmatch(r"features\.(0|2|3)\.(?:(\d)\.)?(\d)\.(\w+)", name):
        block, step, part, tensor = found.groups()
        return f"layers.{ {'0': 0, '2': 7, '3': 10}[block] + 3 * int(step or 0) + int(part) }.{tensor}"
    if found := re.fullmatch(r"features\.(\d+)\.branch(\d)\.(?:(\d)\.)?(?:(\d)\.)?(\d)\.(\w+)", name):
        block, branch, step, half, part, tensor = found.groups()
        layer = int(step or 0) * (1 if branch == "3" else 3) + 3 * int(half or 0) + int(part)
        return f"layers.{TORCHVISION_BLOCKS[int(block)]}.branches.{branch}.{layer}.{tensor}"
    return None  # the classifier


def _torchvision(name: str, backbone: str, eps: float, size: int, rename: Callable[[str], str | None]) -> Origin:
    own = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
    # Kinetics at 15 of about 30 frames a second, the centre of a frame that is resized.
    return Origin(name, backbone, *own, eps, frames=16, size=size, stride=2, box=0.875, rename=rename)


ORIGINS = {  # those of torchvision; coclr makes CoCLR's
    "torchvision-s3d": _torchvision("torchvision-s3d", "s3d", 1e-3, 224, _torchvision_s3d_name),
    "torchvision-r3d_18": _torchvision(
        "torchvision-r3d_18", "torchvision-r3d_18", 1e-5, 112, lambda name: None if name.startswith("fc.") else name
    ),
}
FILES = {"torchvision-s3d": "s3d-d76dad2f.pth", "torchvision-r3d_18": "r3d_18-b3b3357e.pth"}  # torchvision's own
