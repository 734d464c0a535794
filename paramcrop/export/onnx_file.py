"""An encoder as an ONNX file, checked against torch. Its packages are the extra ``onnx``."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from paramcrop.errors import CheckpointError, ConfigError
from paramcrop.export.encoder import Encoder
from paramcrop.storage.files import atomic_write

OPSET = 18
TOLERANCE = 1e-4  # of the largest feature: float32 rounds relative to it, and features have any scale
BATCHES = (1, 3)  # that are tried; the graph is traced with another


def write_onnx(encoder: Encoder, file: Path) -> float:
    """Write "clips" (B, 3, T, H, W) -> "features" (B, D), for any B and the clips of the encoder's input.

    Returns:
        The largest difference of a feature under onnxruntime from torch's, as a share of the largest feature.

    Raises:
        ConfigError: a package is missing. CheckpointError: the share is above ``TOLERANCE``.
    """
    content = onnx_bytes(encoder)
    difference = largest_difference(encoder, content)
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"ONNX must give torch's features to {TOLERANCE:g} of the largest feature, but differs by {difference:.2g}"
        )
    with atomic_write(file) as part:
        part.write_bytes(content)
    return difference


def onnx_bytes(encoder: Encoder) -> bytes:
    """The content of the file; equal encoders give equal bytes. Raises: ConfigError, see ``write_onnx``."""
    for name in ("onnx", "onnxscript"):  # torch.onnx.export imports them
        if find_spec(name) is None:
            raise _missing(name)
    batch = {0: torch.export.Dim("batch")}
    names: dict[str, Any] = {"input_names": ["clips"], "output_names": ["features"], "dynamic_shapes": (batch,)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            encoder, (example(encoder, 2),), dynamo=True, opset_version=OPSET, verbose=False, **names
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces, with paths of this machine
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def largest_difference(encoder: Encoder, content: bytes) -> float:
    """Between the features by onnxruntime and by torch, on the CPU, as a share of the largest feature.

    Raises:
        ConfigError: see ``write_onnx``.
    """
    try:
        import onnxruntime
    except ImportError:
        raise _missing("onnxruntime") from None
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    differences = []
    for batch in BATCHES:
        clips = example(encoder, batch)
        (features,) = session.run(None, {"clips": clips.numpy()})
        with torch.no_grad():
            differences.append(relative_difference(torch.from_numpy(features), encoder(clips)))
    return max(differences)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference of two tensors as a share of the largest absolute value expected."""
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((found - expected).abs().max() / largest)


def example(encoder: Encoder, batch: int) -> torch.Tensor:
    """Clips of the encoder's input, of noise: float32 (batch, 3, T, H, W)."""
    shown = encoder.description.input
    shape = batch, 3, shown.frames, shown.size, shown.size
    return torch.randn(shape, generator=torch.Generator().manual_seed(batch))


def _missing(name: str) -> ConfigError:
    return ConfigError(f"ONNX needs {name}: pip install 'paramcrop[onnx]'")
