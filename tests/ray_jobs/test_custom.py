"""A backbone and a policy in the user's folder reach every process of a sweep and of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import read_status
from tests.ray_jobs.commands import Command, write_space

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.features = width
        self.layers = nn.Sequential(nn.Conv3d(3, width, 3, stride=2), nn.BatchNorm3d(width), nn.ReLU())
    def trunk(self, x):
        return self.layers(x)
    def forward(self, x):
        return self.trunk(x).mean((2, 3, 4))
"""
CROP = """
import torch
from torch import nn
from paramcrop import CropParams

class Ends(nn.Module):
    def forward(self, noise, progress):
        s, zero = torch.full_like(noise[:, 0, 0], 0.5), torch.zeros_like(noise[:, 0, 0])
        return CropParams(s, s, None, zero, zero, -s), CropParams(s, s, None, zero, zero, s)
    def telemetry(self, noise):
        return {}
"""


@pytest.mark.ray
def test_a_sweep_and_an_evaluation_find_the_users_classes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    (home / "mine" / "net.py").write_text(NET)
    (home / "my_crop.py").write_text(CROP)
    params = {"backbone.name": ["mine.net:Net"], "policy": ["my_crop:Ends"]}
    space = write_space(tmp_path / "own.yaml", params=params)
    sweep = Command(home, "sweep.py", "--space", space, "--quiet")
    assert sweep.wait(400) == 0, sweep.text
    (own,) = home.glob("runs/*")
    assert read_status(own)["state"] == "finished"
    assert [line["crop_distance"] for line in read_lines(own / "metrics.jsonl")] == pytest.approx([0.5] * 24)
    assert len(list((own / "evaluations").glob("*.json"))) == 1
    evaluate = ("evaluate.py", "--run", str(own), "--task", "synthetic/retrieval", "--as-pretrained")
    done = Command(home, *evaluate)
    assert done.wait(400) == 0, done.text
    assert len(list((own / "evaluations").glob("*.json"))) == 2
    (home / "mine" / "net.py").write_text(f"{NET}# edited")
    done = Command(home, *evaluate, "--fresh", "--dry-run")
    assert done.wait() == 2
    settings = json.loads((own / "provenance.json").read_text())["settings"]
    message = f"net.py has changed: backbone.source must be {settings['backbone.source']}, but is"
    assert message in done.text


def test_a_class_that_does_not_fit_ends_each_command_before_ray_starts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "net.py").write_text(NET.replace("self.features = width", "self.features = 9"))
    params = {"backbone.name": {"choice": ["r2d3d", "net:Net"]}, "cropper.lower": {"uniform": [0.0, 0.3]}}
    space = write_space(tmp_path / "own.yaml", params=params, search="random", samples=2)
    for command in (("pretrain.py", "backbone.name=net:Net"), ("sweep.py", "--space", space)):
        done = Command(home, *command, env={"PATH": "", "RAY_ADDRESS": "127.0.0.1:1"})
        assert done.wait(60) == 2
        assert done.text.splitlines()[-1].startswith("error: backbone.name=net:Net: forward must return (2, 9)")
