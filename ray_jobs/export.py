"""Export a run's encoder for use elsewhere: `paramcrop export --run RUN --out FOLDER`. Needs no Ray.

Writes model.safetensors, config.json and README.md, a model card with the run's settings, data and results. The same
run gives the same bytes. `paramcrop.load(FOLDER)` loads it, and `paramcrop evaluate --weights` takes model.safetensors.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from paramcrop.cli import run
from paramcrop.errors import ConfigError
from paramcrop.export.hub import SCHEME, upload
from paramcrop.storage.find import run_named
from ray_jobs.options import EXIT_CODES, Parser

if TYPE_CHECKING:
    from paramcrop.export.encoder import Encoder

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("paramcrop export", description=__doc__, epilog=EXIT_CODES)
    add = parser.add_argument
    add("--run", required=True, metavar="RUN", help="folder, URI, name or id of a run")
    add("--out", required=True, metavar="FOLDER", help="a folder, or hf://OWNER/NAME: a repository of the Hub")
    add("--epoch", type=int, help="epoch of the checkpoint (default: the newest)")
    add("--license", default="unknown", metavar="ID", help="of the weights, as the Hub names it (default: unknown)")
    add("--private", action="store_true", help="make the Hub's repository a private one, if it is new")
    add("--onnx", action="store_true", help="write model.onnx as well, and compare it with torch")
    add("--dry-run", action="store_true", help="print what would be exported, then exit")
    arguments = parser.parse_args(argv)
    if not LICENCE.fullmatch(arguments.license):
        raise ConfigError(f"--license must be an identifier such as apache-2.0, but is {arguments.license!r}")
    if arguments.out.startswith(SCHEME) and not REPOSITORY.fullmatch(arguments.out.removeprefix(SCHEME)):
        raise ConfigError(f"--out must be a folder or {SCHEME}OWNER/NAME, but is {arguments.out!r}")
    if "://" in arguments.out and not arguments.out.startswith(SCHEME):
        raise ConfigError(f"--out must be a folder or {SCHEME}OWNER/NAME, but is {arguments.out!r}")
    if arguments.private and not arguments.out.startswith(SCHEME):
        raise ConfigError(f"--private needs --out {SCHEME}OWNER/NAME")
    return arguments


def main(argv: Sequence[str]) -> None:
    arguments, console = parse_arguments(argv), Console(soft_wrap=True, highlight=False, markup=False)
    folder = run_named(arguments.run)
    from paramcrop.export.encoder import check_folder
    from paramcrop.export.load import from_run

    encoder = from_run(folder, arguments.epoch, licence=arguments.license)
    to_hub = arguments.out.startswith(SCHEME)
    out = Path(arguments.out).expanduser().resolve()
    if not to_hub:
        check_folder(out)
    console.print(describe(encoder, folder))
    if arguments.dry_run:
        return
    with tempfile.TemporaryDirectory() if to_hub else nullcontext(str(out)) as place:
        for line in write(encoder, Path(place), arguments.onnx):
            console.print(line)
        if to_hub:
            console.print(f"  {upload(Path(place), arguments.out.removeprefix(SCHEME), arguments.private)}")
    console.print(f'load it: paramcrop.load("{arguments.out if to_hub else out}")')


def describe(encoder: Encoder, folder: Path) -> str:
    d, x = encoder.description, encoder.description.input
    count = sum(p.numel() for p in encoder.parameters())
    return (
        f"run: {folder}, epoch {d.pretraining.epoch}\n"
        f"encoder: {d.architecture.name}, {count:,} parameters, {d.features} features of clips of {x.frames} frames, "
        f"stride {x.stride}, {x.size} x {x.size}"
    )


def write(encoder: Encoder, place: Path, onnx: bool) -> list[str]:
    """Write the files -> a line for each."""
    from paramcrop.export.description import ONNX

    lines = [f"  {file} ({file.stat().st_size:,} bytes)" for file in encoder.save_pretrained(place)]
    if onnx:
        from paramcrop.export.onnx_file import write_onnx

        difference = write_onnx(encoder, place / ONNX)
        lines.append(f"  {place / ONNX}, differs from torch by {difference:.1g} of the largest feature")
    elif (place / ONNX).exists():
        lines.append(f"note: {place / ONNX} is of an earlier export; --onnx writes it anew")
    return lines


if __name__ == "__main__":
    run("export")
