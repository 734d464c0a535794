"""What the README and the pages of docs/ show is run, not believed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from paramcrop.cli import COMMANDS
from paramcrop.data.synthetic import render
from paramcrop.data.video import encode
from paramcrop.evaluation.protocols import find_protocol
from paramcrop.sweeps.space import Space, space_at
from paramcrop.sweeps.trials import config_of, grid, make_trial
from ray_jobs.evaluate.options import parse_arguments as parse_evaluate
from ray_jobs.options import config_parser, parse_config
from ray_jobs.prepare.command import main
from ray_jobs.prepare.options import parse_arguments as parse_prepare
from ray_jobs.sweep.options import find_sweeps
from ray_jobs.sweep.options import parse_arguments as parse_sweep
from ray_jobs.sweep.plan import corner
from tests.blocks import LANGUAGES, PAGES, RUN, SHOWN, blocks, runs
from tests.wheel import OWN_RAY, ROOT, Installed

README = (ROOT / "README.md").read_text()


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_the_two_commands_come_early() -> None:
    lines = README.splitlines()
    commands = [i for i, line in enumerate(lines) if line.startswith("python3 -m venv .venv && ")]
    assert len(commands) == 2
    assert commands[0] < 25
    assert len(lines) <= 160


# The blocks: each is run, or says what it needs.


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_or_says_what_it_needs(page: Path) -> None:
    text = page.read_text()
    assert len(blocks(page)) * 2 == len(re.findall(r"^ *```", text, re.M)), "a fence that is not understood"
    for block in blocks(page):
        assert block.language in LANGUAGES, block.code
        assert block.mark in RUN or block.mark.startswith("needs: "), block.mark
        assert not block.mark or block.language not in SHOWN, "what is shown is not run"
    loose = [line for line in text.splitlines() if re.match(r" {4,}(paramcrop|python|pip|ray) ", line)]
    inside = "".join(block.code for block in blocks(page))
    assert [line for line in loose if line.strip() not in inside] == [], "commands belong into fences"


def assert_blocks_run(page: Path, mark: str, installed: Installed, folder: Path) -> None:
    """Run a page's blocks with ``mark`` as its reader does who has installed the package, in an empty folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH", "PARAMCROP_HOME"))}
    path = os.pathsep.join((str(installed.site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = kept | OWN_RAY | {"PYTHONPATH": str(installed.site), "HOME": str(installed.cwd), "PATH": path}
    for i, block in enumerate(runs(page, mark)):
        file = folder / (block.title or f"block-{i}.{block.language}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.code)
        if not block.title:
            command = [sys.executable, file.name] if block.language == "python" else ["bash", "-e", file.name]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block.code}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page, "")], ids=name_of)
def test_the_blocks_run(page: Path, wheel: Installed, tmp_path: Path) -> None:
    assert_blocks_run(page, "", wheel, tmp_path)


@pytest.mark.ray
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page, "starts Ray")], ids=name_of)
def test_the_blocks_that_start_ray_run(page: Path, wheel: Installed, tmp_path: Path) -> None:
    make_videos(tmp_path / "videos")
    assert_blocks_run(page, "starts Ray", wheel, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page, "takes minutes")], ids=name_of)
def test_the_blocks_that_take_minutes_run(page: Path, wheel: Installed, tmp_path: Path) -> None:
    assert_blocks_run(page, "takes minutes", wheel, tmp_path)


def make_videos(folder: Path) -> None:
    """Sixteen videos of two classes, a folder each."""
    for label, motion in (("run", "up"), ("walk", "circle")):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            encoded = encode(render(motion, 40, 64, 80, np.random.default_rng(i)), 12.0)
            (folder / label / f"{i:02d}.mp4").write_bytes(encoded.data)


def parse(name: str, arguments: list[str]) -> None:
    """What the command does first: it understands its arguments, or raises."""
    if name == "pretrain":
        parser = config_parser("pretrain.py", "", preset="demo")
        parser.add_argument("--cluster")
        parser.add_argument("--fresh", action="store_true")
        parse_config(parser.parse_args(arguments))
    elif name == "prepare":
        parse_prepare(arguments, "")
    elif name == "evaluate":
        for task in parse_evaluate(arguments, "").task or []:
            find_protocol(task.rpartition("/")[2])
    elif name == "sweep":
        parsed = parse_sweep(arguments, "")
        if not parsed.space.endswith(".yaml"):
            find_sweeps(parsed, {})
    else:
        assert name in COMMANDS, name


def test_the_commands_that_are_not_run_are_understood() -> None:
    checked = [block for page in PAGES for block in blocks(page) if block.mark.startswith("needs: ")]
    commands = [command for block in checked if block.language == "bash" for command in block.commands]
    assert len(commands) >= 12
    for name, arguments in commands:
        parse(name, [a for a in arguments if a not in ("…", "...")])


def test_prepare_commands_are_understood() -> None:
    commands = re.findall(r"^paramcrop prepare (.*)$", README, re.M)
    assert len(commands) >= 3
    for command in commands:
        parse_prepare(command.split(), "")


def test_own_videos_command_runs(real_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(real_videos / "small")
    command = next(line for line in README.splitlines() if "prepare --dataset folder" in line).split()
    main([*command[2:], "--dry-run"])
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_own_loop_example_runs_and_is_short() -> None:
    code = next(block.code for block in blocks(ROOT / "README.md") if block.language == "python")
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
    """What the page says, done in a folder without this package."""
    page = blocks(ROOT / "docs" / "start" / "own-parts.md")
    for block in page:
        if block.language == "python":
            (tmp_path / block.title).write_text(block.code)
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
    assert any(" ".join(NAMES) in block.code for block in page)


def test_the_example_spaces_are_valid_and_make_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(ROOT / "docs" / "start" / "own-parts.md"):
        if block.language == "python":  # a space names the class in it
            (tmp_path / block.title).write_text(block.code)
    monkeypatch.syspath_prepend(str(tmp_path))
    examples = [b for page in PAGES for b in blocks(page) if b.language == "yaml" and "question:" in b.code]
    assert len(examples) >= 3
    for block in examples:
        space = space_at(Space.model_validate(yaml.safe_load(block.code)))
        for values in grid(space) or [corner(space)]:
            config_of(space, make_trial(space, values), seed=0)
