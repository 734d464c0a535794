"""Backbones and policies outside the package are created and tried, and every error names them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from paramcrop.errors import ConfigError
from paramcrop.evaluation.weights import load_backbone, random_backbone
from paramcrop.settings.config import Config
from paramcrop.settings.sections import BACKBONES, POLICIES
from paramcrop.storage.checkpoint import save_checkpoint
from paramcrop.training import build
from paramcrop.training.build import build_backbone, build_policy
from paramcrop.training.two_views import build_model
from tests.memory import tiny_config

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, out=None):
        super().__init__()
        self.features, self.out, self.calls = width, out or width, 0
        self.layers = nn.Sequential(nn.Conv3d(3, self.out, 3, stride=2), nn.BatchNorm3d(self.out), nn.Dropout(0.5))
    def trunk(self, x):
        self.calls += 1
        return self.layers(x)
    def forward(self, x):
        return self.trunk(x).mean((2, 3, 4))

class Flat(Net):
    def trunk(self, x):
        return super().trunk(x).flatten(2)
    def forward(self, x):
        return self.trunk(x).mean(2)

class Bare(nn.Module):
    pass

class Lame(Net):
    def forward(self, x):
        raise KeyError("no such thing\\nat all")

class Wordy(Net):
    def __init__(self):
        super().__init__()
        self.features = "four"

def number():
    return 4
"""
CROPS = """
import torch
from torch import nn
from paramcrop import CropParams

class Crop(nn.Module):
    def __init__(self, share=0.5, rows=None, logged=None):
        super().__init__()
        self.share, self.rows, self.logged = share, rows, logged or {}
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, noise, progress):
        s = self.scale * torch.full((self.rows or len(noise),), self.share)
        return CropParams(s, s, None, s * 0, s * 0, s * 0), CropParams(s, s, s * 0, s * 0, s * 0, s * 0)
    def telemetry(self, noise):
        return {"share": self.scale.detach()} | self.logged

class Single(Crop):
    def forward(self, noise, progress):
        return super().forward(noise, progress)[0]

class Silent(nn.Module):
    pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user on Python's path; its modules are removed after the test."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "crops.py").write_text(CROPS)
    (tmp_path / "broken.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two texts within a second would share it
    yield tmp_path
    for name in ("nets", "crops", "broken"):
        sys.modules.pop(name, None)
    from paramcrop.training.custom import _load

    _load.cache_clear()


def own(*overrides: str) -> Config:
    return tiny_config("backbone.name=nets:Net", "policy=crops:Crop", *overrides)


def test_classes_are_created_with_their_keyword_arguments() -> None:
    config = own("backbone.kwargs.width=6", "policy_kwargs.share=0.25")
    backbone: Any = build_backbone(config)
    policy: Any = build_policy(config)
    assert (backbone.features, policy.share) == (6, 0.25)
    assert backbone.calls == 0 and backbone.layers[1].num_batches_tracked == 0  # another was tried


def test_a_trial_does_not_change_the_random_state() -> None:
    config = own()
    made = [random_backbone(config, 0).state_dict() for _ in range(2)]
    torch.manual_seed(0)
    nets = sys.modules["nets"]
    plain, after = nets.Net().state_dict(), torch.rand(1)
    torch.manual_seed(0)
    build_backbone(config)
    assert torch.equal(torch.rand(1), after)
    for state in made:
        assert all(torch.equal(state[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.name=broken:Net"], "^backbone.name=broken:Net: cannot import the module: ModuleNotFoundError"),
        (
            ["backbone.name=nets:Ned"],
            "^backbone.name=nets:Ned: .*nets.py does not define Ned; the nearest is",
        ),
        (
            ["backbone.kwargs.wide=8"],
            r"^backbone.name=nets:Net: Net\(wide=8\) failed: TypeError: .*wide",
        ),
        (
            ["backbone.name=nets:number"],
            "^backbone.name=nets:number must create a torch.nn.Module, but creates the type int",
        ),
        (["backbone.name=nets:Bare"], "^backbone.name=nets:Bare must have features and trunk, see paramcrop/models/"),
        (["backbone.name=nets:Wordy"], "features must be a positive integer, but is 'four'"),
        (
            ["backbone.name=nets:Lame"],
            r"forward failed for a tensor \(2, 3, .*: KeyError: .* \(nets.py, line 2",
        ),
        (["backbone.kwargs.out=5"], r"forward must return \(2, 4\) for \(2, 3, 4, 24, 24\), but returns \(2, 5\)"),
        (["backbone.name=nets:Flat"], r"trunk must return \(2, 4, T', H', W'\) for .*, but returns \(2, 4, 121\)"),
        (["policy=crops:Krop"], "^policy=crops:Krop: .*crops.py does not define Krop; the nearest is Crop"),
        (["policy=crops:Silent"], "^policy=crops:Silent must have telemetry"),
        (["policy=crops:Single"], "forward must return two CropParams, one per view, but returns the type CropParams"),
        (["policy_kwargs.rows=1"], r"forward must return s_p \(2,\) for \(2, 2, 32\), but returns \(1,\)"),
        (["policy_kwargs.logged={a: 1}"], "telemetry must return a dict of names and scalar tensors"),
    ],
)
def test_an_error_is_one_line_that_names_the_class(overrides: list[str], message: str) -> None:
    config = own(*overrides)
    with pytest.raises(ConfigError, match=message) as caught:
        build_policy(config), build_backbone(config)
    assert "\n" not in str(caught.value)


def test_an_edited_file_is_rejected(folder: Path) -> None:
    config = own()
    (folder / "nets.py").write_text(f"{NETS}# edited")
    with pytest.raises(ConfigError, match=r"nets.py has changed: backbone.source must be \w{12}, but is \w{12}"):
        build_backbone(config)


def test_an_evaluation_loads_the_users_backbone(folder: Path) -> None:
    config = own("backbone.kwargs.width=6")
    model = build_model(config, torch.device("cpu"))
    save_checkpoint(folder / "epoch=0001", {"model": model.state_dict()}, {"epoch": 1, "step": 1})
    loaded = load_backbone(config, folder / "epoch=0001").state_dict()
    expected = model.get_submodule("method.backbone").state_dict()
    assert len(loaded) == len(expected) > 0
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_every_built_in_name_builds() -> None:
    assert set(build.BACKBONES) == set(BACKBONES)
    for name in POLICIES:
        assert build_policy(tiny_config(f"policy={name}")) is not None
