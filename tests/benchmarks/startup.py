"""The time until a command responds: help, dry run, import."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.benchmarks.timing import Line, Report, take_turns

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def run(device: str) -> Report:
    jobs = {name: str(ROOT / "ray_jobs" / f"{name}.py") for name in ("pretrain", "evaluate", "sweep", "prepare")}
    ways = {f"{name}.py --help": partial(call, script, "--help") for name, script in jobs.items()}
    ways |= {"pretrain.py --dry-run": partial(call, jobs["pretrain"], "--dry-run")}
    ways |= {"sweep.py --dry-run": partial(call, jobs["sweep"], "--dry-run")}
    ways |= {"python -c pass": partial(call, "-c", "pass"), "import torch": partial(call, "-c", "import torch")}
    ways |= {"from paramcrop import ParamCrop": partial(call, "-c", "from paramcrop import ParamCrop")}
    seconds = take_turns(ways, 3)
    limits = dict.fromkeys((n for n in ways if "--help" in n), 0.5) | dict.fromkeys(
        (n for n in ways if "--dry" in n), 3.0
    )
    limits["from paramcrop import ParamCrop"] = seconds["import torch"] + 0.3
    lines = [
        Line(name, value, {"limit": limits[name], "of it": value / limits[name]} if name in limits else {})
        for name, value in seconds.items()
    ]
    return Report("start-up, seconds", "s", lines, ["the last limit is torch's own import + 0.3 s"])
