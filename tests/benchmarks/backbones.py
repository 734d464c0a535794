"""Backbones, forward and backward, compared with torchvision's: clips/s and, because sizes differ, GMAC/s."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paramcrop.models.r2d3d import R2D3D
from paramcrop.models.s3d import S3D, s3d
from paramcrop.training.model_size import macs
from tests.benchmarks.timing import Line, Report, take_turns

SIZE = (16, 112, 112)


def step(network: Callable[[Tensor], Tensor], clips: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> None:
    with torch.autocast(clips.device.type, dtype, enabled=dtype != torch.float32):
        network(clips.contiguous(memory_format=layout)).float().square().mean().backward()


def torchvisions(name: str) -> nn.Module:
    from torchvision.models import video

    made: Any = getattr(video, name)()
    if name == "s3d":
        made.avgpool, made.classifier = nn.AdaptiveAvgPool3d(1), nn.Identity()
    else:
        made.fc = nn.Identity()
    network: nn.Module = made
    return network


def run(device: str) -> Report:
    batch = 2 if device == "cpu" else 64
    torch.manual_seed(0)
    clips = torch.rand(batch, 3, *SIZE, device=device)
    makers: dict[str, Callable[[], nn.Module]] = {
        "torchvision s3d": partial(torchvisions, "s3d"),
        "S3D": s3d,
        "S3D-G": S3D,
        "torchvision r3d_18": partial(torchvisions, "r3d_18"),
        "R-2D3D-18": partial(R2D3D, 18),
    }
    plain, last = torch.contiguous_format, torch.channels_last_3d
    kinds = {"": (torch.float32, plain), ", channels last": (torch.float32, last)}
    ours = ("S3D-G", "R-2D3D-18")
    if device == "cuda":
        kinds = {f", bfloat16{n}": (torch.bfloat16, layout) for n, (_, layout) in kinds.items()} | kinds
    ways: dict[str, Callable[[], object]] = {}
    for name, maker in makers.items():
        network = maker().to(device)
        for kind, (dtype, layout) in kinds.items():
            moved = maker().to(device).to(memory_format=layout) if layout is last else network
            ways[name + kind] = partial(step, moved, clips, dtype, layout)
        if device == "cuda" or name in ours:  # on CPUs, compiling takes minutes
            dtype = torch.bfloat16 if device == "cuda" else torch.float32
            compiled = torch.compile(maker().to(device), dynamic=False)
            ways[f"{name}{', bfloat16' if device == 'cuda' else ''}, compiled"] = partial(
                step, compiled, clips, dtype, plain
            )
        if device == "cpu" and name in ours:
            ways[f"{name}, bfloat16"] = partial(step, network, clips, torch.bfloat16, plain)
    sizes = {name: macs(maker(), SIZE) for name, maker in makers.items()}
    seconds = take_turns(ways, 3 if device == "cpu" else 10, device)
    lines = []
    for name, value in seconds.items():
        size = sizes[name.partition(",")[0]] / 1e9
        lines.append(Line(name, batch / value, {"GMAC a clip": size, "GMAC/s, forward": batch * size / value}))
    return Report("backbones, clips/s forward and backward", "clips/s", lines, ["16 x 112 x 112"])
