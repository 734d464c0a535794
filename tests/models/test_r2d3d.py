from __future__ import annotations

import pytest
import torch

from paramcrop.models.r2d3d import R2D3D


@pytest.mark.parametrize(("depth", "count"), [(10, 6_608_192), (18, 14_057_536), (34, 32_422_208), (50, 23_562_304)])
def test_trunk_parameters(depth: int, count: int) -> None:
    assert sum(p.numel() for p in R2D3D(depth).parameters()) == count


@pytest.mark.parametrize("depth", [10, 18])
def test_strides_are_t_4_and_h_32(depth: int) -> None:
    network = R2D3D(depth, width=8)
    assert network.trunk(torch.zeros(1, 3, 16, 112, 112)).shape == (1, 32, 4, 4, 4)
    assert network(torch.zeros(2, 3, 16, 64, 64)).shape == (2, network.features)


def test_first_two_stages_see_one_frame_at_a_time() -> None:
    network = R2D3D(10, width=8).eval()
    video = torch.rand(1, 3, 4, 32, 32)
    early = torch.nn.Sequential(network.stem, *list(network.stages)[:2])
    torch.testing.assert_close(early(video)[:, :, 1:2], early(video[:, :, 1:2]))


def test_final_relu_can_be_left_out() -> None:
    video = torch.rand(2, 3, 4, 32, 32)
    assert (R2D3D(10, 8).trunk(video) >= 0).all()
    assert (R2D3D(10, 8, final_relu=False).trunk(video) < 0).any()


def test_group_norm_does_not_depend_on_the_batch() -> None:
    network, video = R2D3D(10, 8, norm="group"), torch.rand(3, 3, 4, 32, 32)
    torch.testing.assert_close(network(video)[:1], network(video[:1]), atol=1e-5, rtol=1e-5)


def test_errors_name_the_wrong_argument() -> None:
    with pytest.raises(ValueError, match="depth must be one of"):
        R2D3D(11)
