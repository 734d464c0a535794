"""The Hub, against a stub on this machine. The client reads its environment when it is imported: a process each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paramcrop.errors import ConfigError
from paramcrop.export.hub import download
from tests.export.hub_server import SHA, serve
from tests.wheel import ROOT

LOADED = """
import sys, torch, paramcrop
clips = torch.ones(1, 3, 4, 24, 24)
one = paramcrop.load(sys.argv[1])(clips)
assert all(torch.equal(one, encoder(clips)) for encoder in (
    paramcrop.load("hf://o/n"), paramcrop.load("hf://o/n@main"), paramcrop.Encoder.from_pretrained("o/n")))
"""


def python(home: Path, url: str, *arguments: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": str(int(offline))}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_goes_to_the_hub_and_comes_back(evaluated: Path, exported: Path, tmp_path: Path) -> None:
    script = str(ROOT / "ray_jobs" / "export.py")
    with serve() as hub:
        options = ("--run", str(evaluated), "--out", "hf://o/n", "--license", "cc-by-4.0", "--private")
        done = python(tmp_path, hub.url, script, *options)
        assert done.returncode == 0, done.stderr
        assert f"{hub.url}/o/n" in done.stdout and 'paramcrop.load("hf://o/n")' in done.stdout
        assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
        assert hub.files == {path.name: path.read_bytes() for path in exported.iterdir()}
        done = python(tmp_path, hub.url, "-c", LOADED, str(exported))
        assert done.returncode == 0, done.stderr
    done = python(tmp_path, hub.url, "-c", LOADED, str(exported), offline=True)  # from the client's cache
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.rglob("snapshots/*")] == [SHA]


def test_a_repository_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    code = "import paramcrop\ntry: paramcrop.load('hf://o/n')\nexcept paramcrop.errors.DataError as e: print(e)"
    with serve() as hub:
        done = python(tmp_path, hub.url, "-c", f"import paramcrop.errors\n{code}")
    assert done.stdout.startswith("hf://o/n must be a model that can be downloaded, but: "), done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_the_error_without_the_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"needs huggingface_hub: pip install 'paramcrop\[hub\]'"):
        download("o/n")
