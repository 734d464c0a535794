"""What the README shows is run, not believed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from paramcrop.data.shards import read_manifest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_two_commands_come_early() -> None:
    lines = README.splitlines()
    commands = [i for i, line in enumerate(lines) if line.startswith("    python3 -m venv .venv && ")]
    assert len(commands) == 2
    assert commands[0] < 25


def test_own_loop_example_runs_and_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    code = next(example for example in EXAMPLES if "ParamCrop" in example)
    assert len(code.strip().splitlines()) <= 15
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["view_1"].shape == (4, 3, 16, 112, 112)
    assert names["loss"].isfinite()
    assert all(p.grad is not None for p in names["crops"].parameters())


def test_own_videos_example_runs(real_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(real_videos / "small")
    exec(next(example for example in EXAMPLES if "write_shards" in example), {})
    assert read_manifest("shards").videos == len(list((real_videos / "small").glob("*.avi")))
