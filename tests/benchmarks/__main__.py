"""`python -m tests.benchmarks [NAME ...] [--device cuda] [--out DIR]`: our speed, a peer's and a limit, in one run.

Without a name: all short benchmarks, under 15 minutes on 2 cores. Each prints a table and writes it to DIR as JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from paramcrop.storage.runs import home
from paramcrop.storage.versions import commit
from tests.benchmarks.timing import Report

SHORT = ("startup", "crop", "augment", "retrieval", "backbones", "encoding", "decode", "step", "idle", "scale")
LONG = ("epochs", "growth", "floor", "trials")
ON_GPU = ("gpu",)  # only with --device cuda; needs neither Ray nor a decoder
CHOICES = f"short: {', '.join(SHORT)}\nlong: {', '.join(LONG)}\non a GPU: {', '.join(ON_GPU)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=CHOICES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=home() / "benchmarks", help="folder of the JSON files")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in SHORT + LONG + ON_GPU:
            parser.error(f"NAME must be one of {', '.join(SHORT + LONG + ON_GPU)}, but is {name!r}")
        if name in ON_GPU and arguments.device != "cuda":
            parser.error(f"{name} needs --device cuda")
    console = Console(soft_wrap=True)
    for name in arguments.names or SHORT:
        start = time.monotonic()
        report = importlib.import_module(f"tests.benchmarks.{name}").run(arguments.device)
        console.print(as_table(report))
        for note in report.notes:
            console.print(f"  {note}", highlight=False, markup=False)
        file = keep(report, name, arguments.device, arguments.out)
        console.print(f"  {file} ({time.monotonic() - start:.0f} s)\n", highlight=False)


def as_table(report: Report) -> Table:
    more = list(dict.fromkeys(key for line in report.lines for key in line.more))
    table = Table("", report.unit, *more, title=report.title, title_justify="left")
    for line in report.lines:
        table.add_row(line.name, f"{line.value:.4g}", *(shown(line.more.get(key)) for key in more))
    return table


def shown(value: object) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def keep(report: Report, name: str, device: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    chip = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    facts = {"name": name, "device": chip, "threads": torch.get_num_threads(), "torch": torch.__version__}
    facts |= {"commit": commit(), "unit": report.unit, "notes": report.notes}
    lines = [{"name": line.name, "value": line.value} | line.more for line in report.lines]
    file = folder / f"{name}-{device}.json"
    file.write_text(json.dumps(facts | {"lines": lines}, indent=1))
    return file


if __name__ == "__main__":
    main()
