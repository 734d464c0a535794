"""docs/tutorial.ipynb is run as a reader runs it, on fewer and smaller videos: from a folder to a page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import paramcrop
from paramcrop.data.synthetic import CLASSES, render
from paramcrop.data.video import encode
from tests.memory import TINY
from tests.wheel import OWN_RAY, ROOT, Installed

NOTEBOOK = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
SMALL = 'VIDEOS, STEPS, BATCH = "videos", 2, 8'


def cells(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == kind]


def test_it_is_a_notebook_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.from_dict(NOTEBOOK))
    assert not [cell for cell in NOTEBOOK["cells"] if cell.get("outputs") or cell.get("execution_count")]
    pages = re.findall(r"\]\(([\w/]+\.md)\)", "\n".join(cells("markdown")))
    assert pages and all((ROOT / "docs" / page).exists() for page in pages)


def shell(code: str, names: dict[str, Any], folder: Path, environment: dict[str, str]) -> str:
    """What a line that starts with ! does in Jupyter: names in braces are replaced, then the shell runs it."""
    line = re.sub(r"\{(\w+)\}", lambda found: str(names[found[1]]), code.removeprefix("!"))
    if line.startswith("paramcrop pretrain "):
        line += " " + " ".join(TINY)
        line = line.replace("train.global_batch=8 optim", "optim")
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.ray
def test_every_cell_runs(
    wheel: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(8):
        file = tmp_path / "videos" / CLASSES[i % 2] / f"{i}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(render(CLASSES[i % 2], 20, 32, 40, np.random.default_rng(i)), 12.0).data)
    monkeypatch.chdir(tmp_path)
    shown = SimpleNamespace(IFrame=lambda page, width, height: Path(page).read_text())
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    path = os.pathsep.join((str(wheel.site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    environment = kept | OWN_RAY | {"PYTHONPATH": str(wheel.site), "PATH": path, "HOME": str(tmp_path)}
    names: dict[str, Any] = {}
    for cell in NOTEBOOK["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if "parameters" in cell["metadata"].get("tags", ()):
            assert set(re.findall(r"^(\w+) =", code, re.M)) == {"VIDEOS", "STEPS", "BATCH"}
            code = SMALL
        if code.startswith("!"):
            shell(code, names, tmp_path, environment)
        else:
            exec(code, names)
    features = paramcrop.Features.read("features.parquet")
    assert len(features.path) == 4 * 8 and "32 clips of 8 videos" in Path("features.html").read_text()
    # The query is the mean of its video's clips; with two steps of training, clips of other videos are near as well.
    hits = [line.split("  ") for line in capsys.readouterr().out.splitlines()[-5:]]
    cosines = [float(hit[0]) for hit in hits]
    assert cosines == sorted(cosines, reverse=True) and cosines[0] > 0.99
    assert all(hit[1] in features.path for hit in hits)
