"""A backbone or a policy of the user's own: its module is imported, an object is made, and tried on a small batch.

Every mistake is one line that names the class, before anything is trained.
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
from paramcrop.settings.presets import nearest

BATCH = 2  # clips that a new object is tried on


def custom_backbone(name: str, source: str | None, kwargs: Mapping[str, Any], size: tuple[int, int, int]) -> nn.Module:
    """Make ``name``'s class with ``kwargs``, and try another like it on clips (2, 3, *size).

    Args:
        name: ``module:Class``. source: the hash that its file must have; none: any.

    Raises:
        ConfigError: it cannot be imported or made, or is no ``Backbone``.
    """
    told = f"backbone.name={name}"
    made = _make(told, name, source, "backbone.source", kwargs)
    missing = [part for part in ("features", "trunk") if not hasattr(made, part)]
    if missing:
        raise ConfigError(f"{told} must have {' and '.join(missing)}, see paramcrop/models/interfaces.py")
    features: Any = made.features
    if not isinstance(features, int) or features < 1:
        raise ConfigError(f"{told}: features must be a whole number of values per clip, but is {features!r}")
    with torch.random.fork_rng(devices=[]):
        _try_backbone(told, _make(told, name, source, "backbone.source", kwargs), features, size)
    return made


def _try_backbone(told: str, backbone: Any, features: int, size: tuple[int, int, int]) -> None:
    """On clips that have shapes and no content, so that nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # imports torch's compiler, 0.7 s

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        clips = torch.empty(BATCH, 3, *size)
        whole = _shape(_call(told, "forward", backbone, clips))
        trunk = _shape(_call(told, "trunk", backbone.trunk, clips)) or ()
    if whole != (BATCH, features):
        raise ConfigError(_wrong(told, "forward", clips, f"({BATCH}, {features})", whole))
    if len(trunk) != 5 or trunk[:2] != (BATCH, features):
        raise ConfigError(_wrong(told, "trunk", clips, f"({BATCH}, {features}, T', H', W')", trunk))


def custom_policy(name: str, source: str | None, kwargs: Mapping[str, Any], noise_size: int) -> Policy:
    """Make ``name``'s class with ``kwargs``, and try another like it on noise (2, 2, noise_size).

    Raises:
        ConfigError: as ``custom_backbone``, of a ``Policy``.
    """
    told = f"policy={name}"
    made = _make(told, name, source, "policy_source", kwargs)
    if not callable(getattr(made, "telemetry", None)):
        raise ConfigError(f"{told} must have telemetry, see Policy in paramcrop/crops/policies.py")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _try_policy(told, _make(told, name, source, "policy_source", kwargs), torch.randn(BATCH, 2, noise_size))
    return cast(Policy, made)


def _try_policy(told: str, policy: Any, noise: Tensor) -> None:
    crops = _call(told, "forward", policy, noise, 0.0)
    if not (isinstance(crops, tuple | list) and len(crops) == 2 and all(isinstance(c, CropParams) for c in crops)):
        raise ConfigError(f"{told}: forward must return the CropParams of either view, but returns {_kind(crops)}")
    for params in crops:
        for field, value in params._asdict().items():
            if _shape(value) != (BATCH,) and not (field == "theta" and value is None):
                raise ConfigError(_wrong(told, "forward", noise, f"{field} ({BATCH},)", _shape(value)))
    scalars = _call(told, "telemetry", policy.telemetry, noise)
    if not isinstance(scalars, dict) or any(_shape(value) != () for value in scalars.values()):
        raise ConfigError(f"{told}: telemetry must return a mapping of names to scalar tensors, but does not")


def _make(told: str, name: str, source: str | None, setting: str, kwargs: Mapping[str, Any]) -> nn.Module:
    module, _, attribute = name.partition(":")
    try:
        names, file, loaded = _load(module)
    except Exception as error:
        raise ConfigError(f"{told}: the module must import, but raises {_describe(error)}") from None
    if source is not None and source != loaded:
        raise ConfigError(
            f"{told}: {file} must be the file of the run, {setting}={source}, but is {loaded}; "
            f"restore it, or train another run without {setting}"
        )
    maker: Callable[..., Any] | None = names.get(attribute)
    if maker is None:
        raise ConfigError(f"{told}: {file} must define {attribute}, but does not{nearest(attribute, names)}")
    given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    try:
        made = maker(**kwargs)
    except Exception as error:
        raise ConfigError(f"{told}: {attribute}({given}) must make it, but raises {_describe(error)}") from None
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{told} must make a torch.nn.Module, but makes {_kind(made)}")
    return made


@cache
def _load(module: str) -> tuple[dict[str, Any], Path, str]:
    """Import it, once -> its names, its file, and the file's hash at that time: what this process runs from then on."""
    loaded = import_module(module)
    file = Path(loaded.__file__ or "")
    return vars(loaded), file, hash_file(file)


def _call(told: str, part: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        shape = tuple(arguments[0].shape)
        raise ConfigError(f"{told}: {part} must take a tensor {shape}, but raises {_describe(error)}") from None


def _describe(error: Exception) -> str:
    """In one line, with the last place in the user's code."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}{place}"


def _is_users(file: str) -> bool:
    """Neither this file, nor a library's, nor Python's own machinery."""
    return file != __file__ and "site-packages" not in file and not file.startswith("<")


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _kind(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _wrong(told: str, part: str, given: Tensor, wanted: str, found: tuple[int, ...] | None) -> str:
    shown = "something else" if found is None else f"{found}"
    return f"{told}: {part} must return {wanted} for {tuple(given.shape)}, but returns {shown}"
