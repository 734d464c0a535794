"""Backbones and policies of the user: import the module, create an object and try it on a small batch.

Every error is one line that names the class, before anything is trained.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from paramcrop.crops.geometry import CropParams
from paramcrop.crops.policies import Policy
from paramcrop.errors import ConfigError
from paramcrop.settings.custom import hash_file
from paramcrop.settings.explain import nearest

BATCH = 2  # number of clips in a trial


def custom_backbone(name: str, source: str | None, kwargs: Mapping[str, Any], size: tuple[int, int, int]) -> nn.Module:
    """Create a backbone of the user, after a trial of another instance on clips (2, 3, *size).

    The trial uses its own instance, so that it cannot change the one that is trained.

    Args:
        name: ``module:Class``.
        source: the hash that the class's file must have; None: any.
        kwargs: keyword arguments of the class.

    Raises:
        ConfigError: the class cannot be imported or instantiated, or is not a ``Backbone``.
    """
    label = f"backbone.name={name}"
    module = _create(label, name, source, "backbone.source", kwargs)
    missing = [part for part in ("features", "trunk") if not hasattr(module, part)]
    if missing:
        raise ConfigError(f"{label} must have {' and '.join(missing)}, see paramcrop/models/interfaces.py")
    features: Any = module.features
    if not isinstance(features, int) or features < 1:
        raise ConfigError(f"{label}: features must be a positive integer, but is {features!r}")
    with torch.random.fork_rng(devices=[]):
        _try_backbone(label, _create(label, name, source, "backbone.source", kwargs), features, size)
    return module


def _try_backbone(label: str, backbone: Any, features: int, size: tuple[int, int, int]) -> None:
    """Call the backbone on fake tensors, which have a shape but no content, so that nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes 0.7 s, because it imports torch's compiler

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        clips = torch.empty(BATCH, 3, *size)
        output = _shape(_call(label, "forward", backbone, clips))
        trunk = _shape(_call(label, "trunk", backbone.trunk, clips)) or ()
    if output != (BATCH, features):
        raise ConfigError(_wrong_shape(label, "forward", clips, f"({BATCH}, {features})", output))
    if len(trunk) != 5 or trunk[:2] != (BATCH, features):
        raise ConfigError(_wrong_shape(label, "trunk", clips, f"({BATCH}, {features}, T', H', W')", trunk))


def custom_policy(name: str, source: str | None, kwargs: Mapping[str, Any], noise_size: int) -> Policy:
    """Create a policy of the user, after a trial of another instance on noise (2, 2, noise_size).

    Raises:
        ConfigError: the class cannot be imported or instantiated, or is not a ``Policy``.
    """
    label = f"policy={name}"
    module = _create(label, name, source, "policy_source", kwargs)
    if not callable(getattr(module, "telemetry", None)):
        raise ConfigError(f"{label} must have telemetry, see Policy in paramcrop/crops/policies.py")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _try_policy(label, _create(label, name, source, "policy_source", kwargs), torch.randn(BATCH, 2, noise_size))
    return cast(Policy, module)


def _try_policy(label: str, policy: Any, noise: Tensor) -> None:
    crops = _call(label, "forward", policy, noise, 0.0)
    if not (isinstance(crops, tuple | list) and len(crops) == 2 and all(isinstance(c, CropParams) for c in crops)):
        raise ConfigError(f"{label}: forward must return two CropParams, one per view, but returns {_kind(crops)}")
    for params in crops:
        for field, value in params._asdict().items():
            if _shape(value) != (BATCH,) and not (field == "theta" and value is None):
                raise ConfigError(_wrong_shape(label, "forward", noise, f"{field} ({BATCH},)", _shape(value)))
    scalars = _call(label, "telemetry", policy.telemetry, noise)
    if not isinstance(scalars, dict) or any(_shape(value) != () for value in scalars.values()):
        raise ConfigError(f"{label}: telemetry must return a dict of names and scalar tensors")


def _create(label: str, name: str, source: str | None, setting: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Instantiate the class ``name``; ``setting`` is the name of the setting that holds ``source``."""
    module, _, attribute = name.partition(":")
    try:
        names, file, loaded = _load(module)
    except Exception as error:
        raise ConfigError(f"{label}: cannot import the module: {_describe(error)}") from None
    if source is not None and source != loaded:
        raise ConfigError(
            f"{label}: {file} has changed: {setting} must be {source}, but is {loaded}; "
            f"restore the file, or start another run without {setting}"
        )
    maker: Callable[..., Any] | None = names.get(attribute)
    if maker is None:
        raise ConfigError(f"{label}: {file} does not define {attribute}{nearest(attribute, names)}")
    arguments = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    try:
        created = maker(**kwargs)
    except Exception as error:
        raise ConfigError(f"{label}: {attribute}({arguments}) failed: {_describe(error)}") from None
    if not isinstance(created, nn.Module):
        raise ConfigError(f"{label} must create a torch.nn.Module, but creates {_kind(created)}")
    return created


@cache
def _load(module: str) -> tuple[dict[str, Any], Path, str]:
    """Import a module once -> its names, its file, and the hash of the file at that time, which this process runs."""
    loaded = import_module(module)
    file = Path(loaded.__file__ or "")
    return vars(loaded), file, hash_file(file)


def _call(label: str, part: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        shape = tuple(arguments[0].shape)
        raise ConfigError(f"{label}: {part} failed for a tensor {shape}: {_describe(error)}") from None


def _describe(error: Exception) -> str:
    """An error in one line, with the last line of the user's code in its traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}{place}"


def _is_users(file: str) -> bool:
    """Whether a file is the user's, and not this file, a library or Python itself."""
    return file != __file__ and "site-packages" not in file and not file.startswith("<")


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _kind(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"the type {type(value).__name__}"


def _wrong_shape(label: str, part: str, argument: Tensor, expected: str, found: tuple[int, ...] | None) -> str:
    shown = "no tensor" if found is None else f"{found}"
    return f"{label}: {part} must return {expected} for {tuple(argument.shape)}, but returns {shown}"
