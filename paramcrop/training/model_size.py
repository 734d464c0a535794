"""Size of a config's model: parameters, multiply-accumulates and memory of a step, found without computing anything."""

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
from paramcrop.training.optim import HasParameters


class ModelSize(NamedTuple):
    """Size of a model and of one worker's share of a step.

    Attributes:
        backbone, head, croppers: trainable parameters.
        macs: multiply-accumulates of the backbone for one view, in convolutions and linear layers; FLOPs are twice as
            many.
        memory: estimate of the bytes in a worker's GPU after a forward pass: weights, gradients, momentum, clips and
            the tensors saved for the backward pass. Workspaces and fragmentation are not included.
        dtype: type of the network on a GPU, "bfloat16" or "float32".
    """

    backbone: int
    head: int
    croppers: int
    macs: int
    memory: int
    dtype: str


def model_size(config: Config, classes: Sequence[str] = ()) -> ModelSize:
    """Build the model and trace one worker's step with fake tensors, which have a shape but no content.

    Raises:
        ConfigError: the settings do not describe a valid model.
    """
    dtype = network_dtype(config, torch.device("cuda"))
    policy, method = build_parts(config, classes)
    step = trace(method, config.batch_per_worker, view_size(config))
    trained = count(method) + count(policy)
    state = sum(t.nbytes for t in [*method.parameters(), *method.buffers()])  # with MoCo's momentum encoder and queue
    clips = config.batch_per_worker * clip_bytes(config)
    memory = state + 2 * 4 * trained + clips + step.saved  # 2 * 4: gradient and momentum in float32
    name = str(dtype).removeprefix("torch.")
    return ModelSize(count(method.backbone), count(method.head), count(policy), step.macs, memory, name)


def trainable_parameters(config: Config, classes: Sequence[str] = ()) -> int:
    """Number of parameters that a run trains, without a trace.

    Raises:
        ConfigError: the settings do not describe a valid model.
    """
    return sum(count(part) for part in build_parts(config, classes))


def build_parts(config: Config, classes: Sequence[str]) -> tuple[Policy, Method]:
    try:
        return build_policy(config), build_method(config, network_dtype(config, torch.device("cuda")), classes)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def count(module: HasParameters) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def clip_bytes(config: Config) -> int:
    """Bytes of the clips of one sample."""
    spec = build_clip_spec(config)
    return spec.clips * spec.frames * spec.size**2 * 3


def macs(backbone: nn.Module, size: tuple[int, int, int]) -> int:
    """Multiply-accumulates for one view (3, *size)."""
    counter = MacCounter()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), counter:
        backbone(torch.empty(2, 3, *size))  # two views: batch norm needs more than one value if the output is 1x1x1
    return counter.macs // 2


def crop_macs(config: Config) -> int:
    """Multiply-accumulates of cropping one view: the cropper's MLP, and four per interpolated value."""
    frames, height, width = view_size(config)
    weights = sum(p.numel() for p in build_policy(config).parameters() if p.ndim > 1) // 2  # of one of two croppers
    return weights + 4 * 3 * frames * height * width


class MacCounter(TorchDispatchMode):
    """Counts multiply-accumulates like torch's FlopCounterMode.

    FlopCounterMode also tracks modules. That takes longer than the counting itself and fails if a forward pass computes
    gradients, as Mean Teacher's does.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self.macs: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if flops := flop_registry.get(func._overloadpacket):
            self.macs += int(flops(*args, **(kwargs or {}), out_val=out)) // 2
        return out


class ForwardCost(NamedTuple):
    """Cost of one forward pass of a method.

    Attributes:
        saved: bytes saved for the backward pass, without the weights.
        macs: multiply-accumulates of the backbone for one view.
    """

    saved: int
    macs: int


def trace(method: Method, batch: int, size: tuple[int, int, int]) -> ForwardCost:
    """Trace a forward pass of two views (batch, 3, *size).

    One trace gives both numbers, because tracing is the slowest part of a dry run.
    """
    weights = {p.untyped_storage()._cdata for p in method.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}
    passes = list[tuple[int, int]]()  # summed, they give the views and the multiply-accumulates of the backbone

    def save(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage  # the reference keeps its address from being used again
        return x

    def before(_: nn.Module, x: tuple[Tensor]) -> None:
        passes.append((len(x[0]), -counter.macs))

    def after(*_: Any) -> None:
        passes.append((0, counter.macs))

    counter, backbone = MacCounter(), method.backbone
    hooks = backbone.register_forward_pre_hook(before), backbone.register_forward_hook(after)
    with hooks[0], hooks[1], FakeTensorMode(allow_non_fake_inputs=True), counter:
        view_1, view_2 = (torch.empty(batch, 3, *size, requires_grad=True) for _ in range(2))
        with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
            method(view_1, view_2, torch.zeros(batch, dtype=torch.int64), 1.0)
    view_count, mac_count = map(sum, zip(*passes, strict=True))
    return ForwardCost(sum(storage.nbytes() for storage in saved.values()), mac_count // view_count)
