"""The house rules: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "paramcrop").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules a file imports, at any depth, except under TYPE_CHECKING alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def within(modules: set[str], package: str) -> set[str]:
    return {m for m in modules if m == package or m.startswith(f"{package}.")}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_imports_neither_ray_nor_the_jobs(path: Path) -> None:
    assert not within(imports(path), "ray") | within(imports(path), "ray_jobs")


def test_only_builders_the_loop_and_what_reads_settings_see_the_config() -> None:
    allowed = {"build.py", "two_views.py", "pretrain.py", "presets.py", "runs.py", "config.py", "model_size.py"}
    allowed |= {"job.py", "tasks.py", "weights.py", "paper.py"}  # which run it is of
    allowed |= {"stint.py", "trials.py", "wanted.py"}  # what is written down of a run; a sweep's trials
    allowed |= {"filled.py", "cost.py"}  # whether a run is the paper's; what it would cost
    assert {p.name for p in LIBRARY if "paramcrop.config" in imports(p)} <= allowed


def test_only_video_py_knows_a_decoder() -> None:
    knowing = {p.name for p in LIBRARY if within(imports(p), "decord") | within(imports(p), "av")}
    assert knowing == {"video.py"}


def test_only_the_engine_and_the_drivers_connection_know_ray() -> None:
    knowing = {p for p in (ROOT / "ray_jobs").rglob("*.py") if within(imports(p), "ray")}
    engine = {
        "connect",
        "evaluators",
        "grow",
        "ingest",
        "launcher",
        "loop",
        "train",
        "transcode",
        "trial",
        "tuning",
        "work",
    }
    assert {p.relative_to(ROOT).as_posix() for p in knowing} == {f"ray_jobs/engine/{name}.py" for name in engine}


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*[m for m in ('torch', 'ray', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


def test_reading_settings_and_records_imports_no_torch() -> None:
    assert loaded_after("import paramcrop, paramcrop.presets, paramcrop.runs, paramcrop.data.order") == set()


def test_help_mistakes_and_dry_run_import_no_more_than_they_need() -> None:
    """A dry run counts the model's parameters, so it needs torch."""
    for arguments, needed in ((["--help"], set()), (["--dry-run", "nonsense=1"], set()), (["--dry-run"], {"torch"})):
        code = (
            f"import sys; sys.argv = ['pretrain.py', *{arguments!r}]\nfrom ray_jobs.cli import run_command\n"
            "from ray_jobs.pretrain import main\ntry: run_command(main)\nexcept SystemExit: pass"
        )
        assert loaded_after(code) == needed, arguments


def test_a_decode_task_imports_no_torch_until_it_must_scale() -> None:
    assert loaded_after("import paramcrop.data.clips, paramcrop.data.reader") == set()


def test_no_inheritance_between_our_own_classes() -> None:
    classes, bases = set[str](), list[tuple[str, str]]()
    for path in [*LIBRARY, *(ROOT / "ray_jobs").rglob("*.py")]:
        if path.name == "errors.py":  # a family of errors is one on purpose
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes.add(node.name)
                bases += [(node.name, ast.unparse(base)) for base in node.bases]
    assert [(name, base) for name, base in bases if base in classes] == []
