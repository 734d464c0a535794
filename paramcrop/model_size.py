"""How large a config's model is: parameters, multiply-accumulates, memory of a step. Nothing is computed for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from paramcrop.build import build_clip_spec, build_method, build_policy, network_dtype, view_size
from paramcrop.config import Config
from paramcrop.errors import ConfigError


class ModelSize(NamedTuple):
    """Parameters by part; the rest for one worker's share of a step.

    Attributes:
        backbone, head, croppers: trainable parameters.
        macs: multiply-accumulates of the backbone, convolutions and linear layers, for one view; FLOPs are twice that.
        memory: bytes a worker's GPU holds at the end of a forward pass, about: weights, gradients, momentum, the clips,
            and what the backward pass needs. Workspaces and fragmentation come on top.
        dtype: the network's on a GPU, "bfloat16" or "float32".
    """

    backbone: int
    head: int
    croppers: int
    macs: int
    memory: int
    dtype: str


def model_size(config: Config, classes: Sequence[str] = ()) -> ModelSize:
    """Build the model, and trace one worker's step with tensors that have shapes and no content.

    Raises:
        ConfigError: the settings do not make a model.
    """
    dtype = network_dtype(config, torch.device("cuda"))
    try:
        policy, method = build_policy(config), build_method(config, dtype, classes)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    kept = kept_bytes(method, config.batch_per_worker, view_size(config))
    learned = count(method) + count(policy)
    state = sum(t.nbytes for t in [*method.parameters(), *method.buffers()])  # the weights, MoCo's copy and queue too
    clips = config.batch_per_worker * clip_bytes(config)
    memory = state + 2 * 4 * learned + clips + kept
    backbone, head = (method.get_submodule(name) for name in ("backbone", "head"))
    arithmetic, name = macs(backbone, view_size(config)), str(dtype).removeprefix("torch.")
    return ModelSize(count(backbone), count(head), count(policy), arithmetic, memory, name)


def count(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def clip_bytes(config: Config) -> int:
    """uint8 pixels that travel per video."""
    spec = build_clip_spec(config)
    return spec.clips * spec.frames * spec.size**2 * 3


def macs(backbone: nn.Module, size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one view (3, *size)."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), FlopCounterMode(display=False) as flops:
        backbone(torch.empty(2, 3, *size))  # two: batch norm wants more than one value where the output is 1x1x1
    return int(flops.get_total_flops()) // 4


def crop_macs(config: Config) -> int:
    """Multiply-adds of cutting one view: its cropper's MLP, and four for each value that is interpolated."""
    frames, height, width = view_size(config)
    weights = sum(p.numel() for p in build_policy(config).parameters() if p.ndim > 1) // 2  # of one of the two
    return weights + 4 * 3 * frames * height * width


def kept_bytes(method: nn.Module, batch: int, size: tuple[int, int, int]) -> int:
    """What a forward pass of two views (batch, 3, *size) keeps for the backward pass, besides the weights."""
    own = {p.untyped_storage()._cdata for p in method.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that its number is not given to another
        return x

    with FakeTensorMode(allow_non_fake_inputs=True):
        views = [torch.empty(batch, 3, *size, requires_grad=True) for _ in range(2)]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            method(*views, torch.zeros(batch, dtype=torch.int64), 1.0)
    return sum(storage.nbytes() for storage in kept.values())
