"""Another program's tensors under our names: the network computes what it computed there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from paramcrop.models.foreign import ORIGINS, R3D, Renormalised, recognise, set_eps
from paramcrop.models.s3d import S3D, Inception


def noisy(network: nn.Module) -> nn.Module:
    """The network with norm statistics of noise, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def coclr_names(network: S3D, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an S3D as CoCLR names them, written down from its backbone/s3dg.py."""

    def unit(ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
        module = network.get_submodule(ours)
        yield from ((f"{prefix}{theirs}.{name}", value) for name, value in module.state_dict().items())

    def separable(first: int, ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
        for i, name in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2")):
            yield from unit(f"{ours}{first + i}", f"{theirs}.{name}")

    yield from separable(0, "layers.", "block1.0")
    yield from unit("layers.7", "block2.1.conv")
    yield from unit("layers.8", "block2.1.bn")
    yield from separable(10, "layers.", "block2.2")
    places = iter([(3, 1), (3, 2), (4, 1), (4, 2), (4, 3), (4, 4), (4, 5), (5, 1), (5, 2)])
    for i, layer in enumerate(network.layers):
        if isinstance(layer, Inception):
            number, place = next(places)
            at, block = f"layers.{i}.branches", f"block{number}.{place}"
            for branch in (0, 1, 2):
                yield from unit(f"{at}.{branch}.0", f"{block}.branch{branch}.0.conv")
                yield from unit(f"{at}.{branch}.1", f"{block}.branch{branch}.0.bn")
            for branch in (1, 2):
                yield from separable(3, f"{at}.{branch}.", f"{block}.branch{branch}.1")
            yield from unit(f"{at}.3.1", f"{block}.branch3.1.conv")
            yield from unit(f"{at}.3.2", f"{block}.branch3.1.bn")
            if layer.gating:
                for branch, last in enumerate((3, 9, 9, 4)):
                    yield from unit(f"{at}.{branch}.{last}.linear", f"{block}.gating_b{branch}.fc")


def coclr_state(network: S3D, prefix: str = "encoder_q.0.") -> dict[str, Tensor]:
    """A CoCLR checkpoint's network: both encoders, everything twice, projector and queue."""
    own = dict(coclr_names(network, prefix))
    twice = {f"{prefix}Conv_1a.conv1.weight": own[f"{prefix}block1.0.conv1.weight"]}
    twice |= {f"{prefix}Mixed_3b.branch0.0.conv.weight": own[f"{prefix}block3.1.branch0.0.conv.weight"]}
    others = {f"encoder_k.0.{name.removeprefix(prefix)}": torch.zeros_like(value) for name, value in own.items()}
    return own | twice | others | {"encoder_q.2.weight": torch.ones(128, 1024, 1, 1, 1), "queue": torch.ones(128, 4)}


@pytest.mark.parametrize("name", ["torchvision-s3d", "torchvision-r3d_18"])
def test_torchvisions_networks_give_torchvisions_features(name: str) -> None:
    theirs: Any = noisy(getattr(torchvision.models.video, name.partition("-")[2])())
    origin = recognise(theirs.state_dict())
    assert origin is ORIGINS[name]
    ours = S3D(gating=False) if origin.backbone == "s3d" else R3D()
    ours.load_state_dict(origin.renamed(theirs.state_dict()))
    ours.eval()
    video = torch.randn(1, 3, 16, 112, 112)
    if name == "torchvision-r3d_18":
        theirs.fc = nn.Identity()
    with torch.no_grad():
        expected = theirs(video) if name == "torchvision-r3d_18" else theirs.features(video).mean((2, 3, 4))
        torch.testing.assert_close(ours(video), expected)
        torch.testing.assert_close(ours.trunk(video).mean((2, 3, 4)), expected)


@pytest.mark.parametrize("gating", [True, False])
@pytest.mark.parametrize("prefix", ["encoder_q.0.", "backbone.", ""])
def test_coclrs_names_become_ours_each_once(gating: bool, prefix: str) -> None:
    network = S3D(width=8, gating=gating)
    origin = recognise(coclr_state(network, prefix))
    assert origin is not None and origin.name == ("coclr-s3dg" if gating else "coclr-s3d")
    renamed, expected = origin.renamed(coclr_state(network, prefix)), network.state_dict()
    assert sorted(renamed) == sorted(expected)
    assert all(torch.equal(renamed[name], value) for name, value in expected.items())


def test_other_names_are_of_no_known_network() -> None:
    assert recognise(S3D(width=8).state_dict()) is None
    assert recognise(["patch_embed.proj.weight", "blocks.0.norm1.weight"]) is None


def test_pixels_are_normalised_as_the_network_was_trained() -> None:
    own, pixels = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), torch.rand(2, 3, 4, 8, 8)
    seen = list[Tensor]()

    class Sees(nn.Module):
        features = 3

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.mean((2, 3, 4))

    network = Renormalised(Sees(), (0.45, 0.225), own)
    assert network((pixels - 0.45) / 0.225).shape == (2, network.features)
    mean, std = (torch.tensor(value)[:, None, None, None] for value in own)
    torch.testing.assert_close(seen[0], (pixels - mean) / std)
    assert not network.state_dict()


def test_all_norms_get_the_eps() -> None:
    network = S3D(width=8)
    set_eps(network, None)
    assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-3}
    set_eps(network, 1e-5)
    assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm3d)} == {1e-5}
