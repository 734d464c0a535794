from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

import paramcrop
from paramcrop.errors import CheckpointError
from paramcrop.export import onnx_file
from paramcrop.export.onnx_file import example, relative_difference, write_onnx
from tests.wheel import ROOT


def test_onnx_gives_torchs_features_for_any_batch(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, file = paramcrop.load(exported), tmp_path / "model.onnx"
    assert write_onnx(encoder, file) <= 1e-4
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        clips = example(encoder, batch)
        (features,) = session.run(["features"], {"clips": clips.numpy()})
        assert torch.allclose(torch.from_numpy(features), encoder(clips), rtol=0, atol=1e-4)
        assert features.std() > 1e-3
    assert str(ROOT).encode() not in file.read_bytes()
    monkeypatch.setattr(onnx_file, "TOLERANCE", -1.0)
    monkeypatch.setattr(onnx_file, "onnx_bytes", lambda encoder: file.read_bytes())
    with pytest.raises(CheckpointError, match="ONNX must give torch's features to -1 of the largest feature, "):
        write_onnx(encoder, tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_the_difference_is_relative_to_the_largest_feature() -> None:
    """S3D-G with norm statistics of noise has features of thousands, which float32 rounds by 5e-4."""
    features = torch.tensor([[4000.0, -3.0], [1.0, 0.0]])
    assert relative_difference(features + 4.9e-4, features) < 2e-7
    assert relative_difference(1e-3 * features + 1e-3, 1e-3 * features) > 1e-4
    assert relative_difference(torch.zeros(2, 3), torch.zeros(2, 3)) == 0
    assert not relative_difference(features * float("nan"), features) <= 1
