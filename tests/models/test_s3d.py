from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paramcrop.models.r2d3d import R2D3D
from paramcrop.models.s3d import S3D, Gating


@pytest.mark.parametrize(("gating", "count"), [(True, 9_098_000), (False, 7_910_048)])
def test_trunk_parameters(gating: bool, count: int) -> None:
    network = S3D(gating=gating)
    assert sum(p.numel() for p in network.parameters()) == count
    assert network.features == 1024


def test_only_the_ends_of_branches_are_gated() -> None:
    network = S3D(width=8)
    gates = [name for name, module in network.named_modules() if isinstance(module, Gating)]
    assert len(gates) == 9 * 4
    assert all(name.split(".")[2] == "branches" for name in gates)
    for module in network.modules():
        if isinstance(module, nn.Sequential) and any(isinstance(m, Gating) for m in module):
            assert isinstance(module[-1], Gating)


def test_gating_scales_channels_by_their_means_over_the_clip() -> None:
    gate, x = Gating(3), torch.randn(2, 3, 4, 5, 6)
    scale = torch.sigmoid(x.mean((2, 3, 4)) @ gate.linear.weight.T + gate.linear.bias)
    torch.testing.assert_close(gate(x), x * scale.view(2, 3, 1, 1, 1))


def test_s3d_equals_torchvisions() -> None:
    """Without gating, the layers have the same order, so torchvision's weights fit and the outputs are equal."""
    reference = torchvision.models.video.s3d().eval()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    network = S3D(gating=False).eval()
    theirs = reference.features.state_dict()
    ours = network.state_dict()
    assert [v.shape for v in theirs.values()] == [v.shape for v in ours.values()]
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    video = torch.randn(1, 3, 16, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(network.trunk(video), reference.features(video))


def macs(network: nn.Module, frames: int, side: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, frames, side, side))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize(
    ("network", "expected"),
    [(S3D(), 4.475), (R2D3D(10), 3.40), (R2D3D(18), 6.86), (R2D3D(34), 15.41), (R2D3D(50), 13.76)],
    ids=["s3dg", "10", "18", "34", "50"],
)
def test_multiply_accumulates_at_16_frames_of_112(network: nn.Module, expected: float) -> None:
    assert macs(network, 16, 112) / 1e9 == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("gating", [True, False])
def test_small_inputs_and_widths(gating: bool) -> None:
    network = S3D(width=4, gating=gating, norm="group")
    assert network(torch.rand(2, 3, 4, 24, 24)).shape == (2, network.features)
    assert network.trunk(torch.zeros(1, 3, 16, 112, 112)).shape == (1, network.features, 2, 3, 3)


def test_errors_name_the_wrong_argument() -> None:
    with pytest.raises(ValueError, match="norm must be one of"):
        S3D(norm="layer")
