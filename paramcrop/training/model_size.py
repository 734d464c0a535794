"""How large a config's model is: parameters, multiply-accumulates, memory of a step. Nothing is computed for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from paramcrop.crops.policies import Policy
from paramcrop.errors import ConfigError
from paramcrop.models.interfaces import Method
from paramcrop.settings.config import Config
from paramcrop.training.build import build_clip_spec, build_method, build_policy, network_dtype, view_size
from paramcrop.training.optim import Trained


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
    policy, method = build_parts(config, classes)
    step = trace(method, config.batch_per_worker, view_size(config))
    trained = count(method) + count(policy)
    state = sum(t.nbytes for t in [*method.parameters(), *method.buffers()])  # the weights, MoCo's copy and queue too
    clips = config.batch_per_worker * clip_bytes(config)
    memory = state + 2 * 4 * trained + clips + step.kept
    name = str(dtype).removeprefix("torch.")
    return ModelSize(count(method.backbone), count(method.head), count(policy), step.macs, memory, name)


def learned(config: Config, classes: Sequence[str] = ()) -> int:
    """All that a run trains, parameters; nothing is traced for it.

    Raises:
        ConfigError: the settings do not make a model.
    """
    return sum(count(part) for part in build_parts(config, classes))


def build_parts(config: Config, classes: Sequence[str]) -> tuple[Policy, Method]:
    try:
        return build_policy(config), build_method(config, network_dtype(config, torch.device("cuda")), classes)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def count(module: Trained) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def clip_bytes(config: Config) -> int:
    """uint8 pixels that travel per video."""
    spec = build_clip_spec(config)
    return spec.clips * spec.frames * spec.size**2 * 3


def macs(backbone: nn.Module, size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one view (3, *size)."""
    counted = Arithmetic()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), counted:
        backbone(torch.empty(2, 3, *size))  # two: batch norm wants more than one value where the output is 1x1x1
    return counted.macs // 2


def crop_macs(config: Config) -> int:
    """Multiply-adds of cutting one view: its cropper's MLP, and four for each value that is interpolated."""
    frames, height, width = view_size(config)
    weights = sum(p.numel() for p in build_policy(config).parameters() if p.ndim > 1) // 2  # of one of the two
    return weights + 4 * 3 * frames * height * width


class Arithmetic(TorchDispatchMode):
    """Counts multiply-accumulates as torch's FlopCounterMode does, whose record of modules costs more than counting
    and does not bear gradients within a forward pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.macs: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if flops := flop_registry.get(func._overloadpacket):
            self.macs += int(flops(*args, **(kwargs or {}), out_val=out)) // 2
        return out


class Step(NamedTuple):
    """Of one forward pass of a method.

    Attributes:
        kept: bytes that it keeps for the backward pass, besides the weights.
        macs: multiply-accumulates of the backbone for one view.
    """

    kept: int
    macs: int


def trace(method: Method, batch: int, size: tuple[int, int, int]) -> Step:
    """A forward pass of two views (batch, 3, *size), once for both figures: a trace is most of a dry run's own time."""
    own = {p.untyped_storage()._cdata for p in method.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}
    seen = list[tuple[int, int]]()  # of each pass of the backbone, views and multiply-accumulates

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that its number is not given to another
        return x

    def before(_: nn.Module, x: tuple[Tensor]) -> None:
        seen.append((len(x[0]), -counted.macs))

    def after(*_: Any) -> None:
        seen.append((0, counted.macs))

    counted, backbone = Arithmetic(), method.backbone
    hooks = backbone.register_forward_pre_hook(before), backbone.register_forward_hook(after)
    with hooks[0], hooks[1], FakeTensorMode(allow_non_fake_inputs=True), counted:
        view_1, view_2 = (torch.empty(batch, 3, *size, requires_grad=True) for _ in range(2))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            method(view_1, view_2, torch.zeros(batch, dtype=torch.int64), 1.0)
    views_seen, arithmetic = map(sum, zip(*seen, strict=True))
    return Step(sum(storage.nbytes() for storage in kept.values()), arithmetic // views_seen)
