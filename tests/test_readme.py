"""What the README shows is run, not believed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from paramcrop.evaluation.protocols import Protocol
from paramcrop.paper.cost import cost_of
from paramcrop.paper.spaces import paper_space, preset_of
from paramcrop.paper.tables import read_paper
from paramcrop.settings.presets import all_options
from paramcrop.sweeps.space import Space, space_at
from paramcrop.sweeps.trials import config_of, grid, make_trial
from ray_jobs.prepare.command import main
from ray_jobs.prepare.options import parse_arguments
from ray_jobs.sweep.plan import corner

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_two_commands_come_early() -> None:
    lines = README.splitlines()
    commands = [i for i, line in enumerate(lines) if line.startswith("    python3 -m venv .venv && ")]
    assert len(commands) == 2
    assert commands[0] < 25


def test_the_cost_of_every_table_is_what_the_arithmetic_gives() -> None:
    paper = read_paper()
    assert paper is not None
    scale = {n: space_at(paper_space(paper, n), preset_of(paper, n, paper.preset)) for n in paper.entries}
    asked = {f"`{name}`": [space] for name, space in scale.items()} | {"all, shared runs once": [*scale.values()]}
    asked["all, one seed"] = [space.model_copy(update={"seeds": (0,)}) for space in scale.values()]
    for name, spaces in asked.items():
        c = cost_of(spaces)
        hours = (
            f"{c.pretraining:.0f} | {c.evaluation:.0f} | {c.decoding:.0f} | {(c.pretraining + c.evaluation) / 192:.1f}"
        )
        assert f"| {name} | {c.runs} | {hours} |" in README


def test_every_setting_that_the_paper_leaves_open_is_listed() -> None:
    i = README.index("Settings that the paper gives no value of")
    listed = re.findall("`([a-z_.]+)`", README[i : README.index("\n\n", i)])
    fields = [*all_options(), *Protocol.model_fields.items()]
    assert listed == [name for name, field in fields if "not in the paper" in (field.description or "")]


def test_own_loop_example_runs_and_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    code = next(example for example in EXAMPLES if "ParamCrop" in example)
    assert len(code.strip().splitlines()) <= 15
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["view_1"].shape == (4, 3, 16, 112, 112)
    assert names["loss"].isfinite()
    assert all(p.grad is not None for p in names["crops"].parameters())


NAMES = ("backbone.name=my_net:Tiny", "backbone.kwargs.width=8", "policy=my_crops:Ends")
TRAIN = f"""
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from paramcrop.training.two_views import build_model
from tests.memory import MetricsInMemory, made_clips, memory_batches, tiny_config
import torch

config = tiny_config(*{NAMES}, "train.epochs=1", "run.log_every=1")
start = dict(build_model(config, torch.device("cpu")).named_parameters())
clips = made_clips(24, config.data.clip_frames, config.data.clip_size)
recorder = MetricsInMemory()
model = pretrain(config, memory_batches(clips, build_clip_spec(config), 0, 8), 3, recorder)
moved = [not torch.equal(p, start[name]) for name, p in model.named_parameters()]
assert moved and all(moved) and type(model.policy).__name__ == "Ends"
assert [round(line["crop_distance"], 5) for line in recorder.lines] == [0.5] * 3
"""


def test_a_backbone_and_a_policy_are_a_file_each_in_the_users_folder(tmp_path: Path) -> None:
    """What the README says, done in a folder without this package."""
    files = [example for example in EXAMPLES if example.startswith("# my_")]
    for code in files:
        (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_crops.py", "my_net.py"]
    run: dict[str, Any] = {
        "capture_output": True,
        "text": True,
        "cwd": tmp_path,
        "env": os.environ | {"PYTHONPATH": str(ROOT), "PARAMCROP_HOME": str(tmp_path / "home")},
    }
    done = subprocess.run([sys.executable, "-c", TRAIN], check=False, **run)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, str(ROOT / "ray_jobs" / "pretrain.py"), "--dry-run", *NAMES]
    done = subprocess.run(command, check=False, **run)
    assert done.returncode == 0, done.stderr
    assert "backbone 672 (width 8), " in done.stdout
    assert " ".join(NAMES) in README


def test_prepare_commands_are_understood() -> None:
    commands = re.findall(r"^    python ray_jobs/prepare\.py (.*)$", README, re.M)
    assert len(commands) >= 3
    for command in commands:
        parse_arguments(command.split(), "")


def test_own_videos_command_runs(real_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(real_videos / "small")
    command = next(line for line in README.splitlines() if "prepare.py --dataset folder" in line).split()
    main([*command[2:], "--dry-run"])
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_the_example_spaces_are_valid_and_make_configs() -> None:
    sweeps = README.partition("## Sweeps")[2].partition("\n## ")[0]
    blocks = re.findall(r"```yaml\n(.*?)```", sweeps, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        space = space_at(Space.model_validate(yaml.safe_load(block)))
        for values in grid(space) or [corner(space)]:
            config_of(space, make_trial(space, values), seed=0)
