"""The house rules: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "paramcrop").rglob("*.py"))
JOBS = sorted((ROOT / "ray_jobs").rglob("*.py"))
# A room imports from itself and from those before it.
ROOMS = (
    "errors",
    "dist",
    "models",
    "crops",
    "settings",
    "storage",
    "data",
    "training",
    "evaluation",
    "sweeps",
    "paper",
    "report",
    "export",
    "cli",
)


def imports(path: Path) -> set[str]:
    """Modules a file imports, at any depth, except under TYPE_CHECKING alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "paramcrop":
            found |= {f"paramcrop.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def within(modules: set[str], package: str) -> set[str]:
    return {m for m in modules if m == package or m.startswith(f"{package}.")}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(module: str) -> str:
    """``paramcrop.crops.geometry`` -> ``crops``."""
    return module.split(".")[1]


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_a_room_imports_only_from_those_before_it(path: Path) -> None:
    if path.parent.name == "paramcrop" and path.stem == "__init__":  # the public names, loaded when used
        return
    room = path.relative_to(ROOT / "paramcrop").with_suffix("").parts[0]
    known = {m for m in within(imports(path), "paramcrop") if "." in m and not m.startswith("paramcrop.__")}
    assert {room_of(m) for m in known} <= set(ROOMS[: ROOMS.index(room) + 1])


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_imports_neither_ray_nor_the_jobs(path: Path) -> None:
    assert not within(imports(path), "ray") | within(imports(path), "ray_jobs")


def test_every_room_is_small_enough_to_look_round_in() -> None:
    for folder in {path.parent for path in [*LIBRARY, *JOBS]}:
        modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(modules) <= (4 if folder.name == "paramcrop" else 12), folder


def test_config_stops_at_the_builders() -> None:
    allowed = {"__init__", "storage/runs"} | {
        f"settings/{n}" for n in ("config", "sections", "identity", "unread", "presets")
    }
    allowed |= {f"training/{name}" for name in ("build", "two_views", "pretrain", "model_size")}
    allowed |= {f"evaluation/{name}" for name in ("checks", "job", "tasks", "weights")}  # which run it is of
    allowed |= {"sweeps/trials"}  # a trial is a config
    allowed |= {
        "paper/published",
        "paper/cost",
        "report/paper_table",
        "report/run_page",
    }  # whether a run is the paper's; what it would cost
    config = {f"paramcrop.settings.{name}" for name in ("config", "sections", "running")}
    knowing = {p for p in LIBRARY if config & imports(p)}
    names = {p.relative_to(ROOT / "paramcrop").with_suffix("").as_posix() for p in knowing}
    assert "training/build" in names and names <= allowed


def test_only_these_files_know_a_decoder() -> None:
    knowing = {name_of(p) for p in LIBRARY if within(imports(p), "decord") | within(imports(p), "av")}
    files = "video", "decoders/planes", "decoders/rgb", "prepare/picture", "prepare/source"
    assert knowing == {f"paramcrop/data/{name}.py" for name in files}


def test_only_the_engine_knows_ray() -> None:
    knowing = {name_of(p) for p in JOBS if within(imports(p), "ray")}
    assert {Path(name).parent.as_posix() for name in knowing} == {"ray_jobs/engine", "ray_jobs/engine/trials"}


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*[m for m in ('torch', 'ray', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


def test_reading_settings_and_records_imports_no_torch() -> None:
    modules = "paramcrop, paramcrop.cli, paramcrop.settings.presets, paramcrop.storage.runs, paramcrop.data.order"
    assert loaded_after(f"import {modules}") == set()


def test_help_mistakes_and_dry_run_import_no_more_than_they_need() -> None:
    """A dry run counts the model's parameters, so it needs torch."""
    for arguments, needed in ((["--help"], set()), (["--dry-run", "nonsense=1"], set()), (["--dry-run"], {"torch"})):
        code = (
            f"import sys; sys.argv = ['pretrain.py', *{arguments!r}]\nfrom paramcrop.cli import run\n"
            "try: run('pretrain')\nexcept SystemExit: pass"
        )
        assert loaded_after(code) == needed, arguments


def test_a_decode_task_imports_no_torch_until_it_must_scale() -> None:
    assert loaded_after("import paramcrop.data.clips, paramcrop.data.samples") == set()


def test_no_inheritance_between_our_own_classes() -> None:
    classes, bases = set[str](), list[tuple[str, str]]()
    for path in [*LIBRARY, *JOBS]:
        if path.name == "errors.py":  # a family of errors is one on purpose
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes.add(node.name)
                bases += [(node.name, ast.unparse(base)) for base in node.bases]
    assert [(name, base) for name, base in bases if base in classes] == []
