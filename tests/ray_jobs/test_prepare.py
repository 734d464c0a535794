"""The command line of prepare: its one-line errors, then runs on Ray that are interrupted and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.data.prepare.attempt import begin, finish
from paramcrop.data.prepare.datasets import find_dataset
from paramcrop.data.prepare.plan import make_plan
from paramcrop.data.prepare.transcode import make_shard
from paramcrop.data.shards import check_shards, read_videos
from paramcrop.data.synthetic import render
from paramcrop.data.video import encode
from paramcrop.storage.lease import Lease

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "ray_jobs" / "prepare.py")]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
    "RAY_ADDRESS": "local",  # even if a cluster is running here
    "RAY_USAGE_STATS_ENABLED": "0",
    "COLUMNS": "200",
}
VIDEOS, PER_SHARD = 80, 2


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd, timeout=200, check=False)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eighty videos of two kinds, each taking about a tenth of a second, and one file that is not a video."""
    root = tmp_path_factory.mktemp("videos")
    kinds = [encode(render(name, 40, 64, 80, np.random.default_rng(0)), 10.0).data for name in ("up", "grow")]
    for i in range(VIDEOS):
        (root / f"{i:02d}.mp4").write_bytes(kinds[i % 2])
    (root / "99.avi").write_text("no video")
    return str(root)


@pytest.fixture(scope="module")
def whole(videos: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    """The same dataset, prepared without Ray and without interruption."""
    out = str(tmp_path_factory.mktemp("whole"))
    plan = make_plan(find_dataset("folder", videos, None), "folder", 256, 20, PER_SHARD, 0)
    begin(out, fresh=False)
    parts = {piece.number: make_shard(piece, videos, out, 60) for piece in plan.pieces}
    return out, finish(out, plan, parts)


def options(videos: str, out: str) -> list[str]:
    return f"--dataset folder --videos {videos} --out {out} --short-side 256 --shard-videos {PER_SHARD}".split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--out o", "--dataset is missing; choose one of"),
        ("--dataset ufc101 --out o", "but is 'ufc101'; the nearest is ucf101"),
        ("--dataset folder --out o", "--dataset folder needs --videos"),
        ("--dataset folder --videos v", "the following arguments are required: --out"),
        ("--dataset folder --videos absent --out o", "absent does not exist"),
        ("--dataset folder --videos empty --out o", "contains no video files"),
        ("--dataset folder --videos nosuch://x --out o", "nosuch://x: a folder must be a local path or a URI"),
        ("--dataset folder --videos v --annotations absent.csv --out o", "absent.csv does not exist"),
        (
            "--dataset folder --videos v --annotations none.csv --out o",
            "has none of the 1 listed videos, such as absent.avi",
        ),
        ("--dataset kinetics --videos v --out o", "--dataset kinetics needs --annotations"),
        ("--dataset folder --videos v --out /proc/absent", "cannot write to --out=/proc/absent"),
        ("--dataset folder --videos v --out o --count 3", "--count needs --dataset synthetic"),
        ("--dataset synthetic --videos v --out o", "--videos needs real videos"),
        ("--dataset folder --videos v --out o --short-side 127", "--short-side must be an even number"),
        ("--dataset folder --videos v --out o --crf 60", "--crf must be between 0 and 51, but is 60"),
        ("--dataset folder --videos v --out o --timeout 0", "--timeout must be above 0"),
        ("--dataset folder --videos v --out o --shard-videos x", "argument --shard-videos: invalid int value"),
        ("--dataset folder --videos v --out o --nonsense", "unrecognized arguments: --nonsense"),
        ("--check --out empty", "empty has no manifest.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "x.avi").write_text("no video")
    (tmp_path / "none.csv").write_text("file,class\nabsent.avi,a\n")
    done = run(*arguments.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_dry_run_prints_the_plan_and_writes_nothing(videos: str, tmp_path: Path) -> None:
    done = run(*options(videos, str(tmp_path / "out")), "--dry-run")
    assert done.returncode == 0, done.stderr
    for text in ("81 videos", "41 shards", "splits: train 81", "estimate from "):
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert in_process(*options(videos, str(tmp_path / "out")), "--dry-run")[-1] == "[]"


def in_process(*arguments: str) -> list[str]:
    """The lines that the command prints, and last which of torch and ray it imported."""
    script = f"from ray_jobs.prepare.command import main\nimport sys\nmain({arguments!r})\n"
    script += "print([m for m in ('torch', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.splitlines()


def test_a_finished_folder_is_left_alone_and_ray_is_not_started(videos: str, whole: tuple[str, Manifest]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in Path(whole[0]).iterdir()}
    start = time.monotonic()
    output, modules = in_process(*options(videos, whole[0]))
    assert time.monotonic() - start < 5
    assert "is already finished (80 videos" in output and modules == "[]"
    assert {path.name: path.stat().st_mtime_ns for path in Path(whole[0]).iterdir()} == before
    other = run(*options(videos, whole[0]), "--seed", "1")
    assert other.returncode == 2 and "holds another dataset; use --fresh" in other.stderr


def test_check_prints_ok_or_the_problems(whole: tuple[str, Manifest], tmp_path: Path) -> None:
    done = run("--check", "--out", whole[0])
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "ok")
    for path in Path(whole[0]).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "shard-00002.parquet").unlink()
    (tmp_path / "parts").mkdir()
    done = run("--check", "--out", str(tmp_path))
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["shard-00002.parquet", "parts"]
    assert "but 2 problems were found" in done.stderr


def test_synthetic_needs_neither_videos_nor_ray(tmp_path: Path) -> None:
    arguments = ["--dataset", "synthetic", "--out", str(tmp_path), "--count", "6", "--short-side", "16"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert read_manifest(str(tmp_path)).videos == 6 and check_shards(str(tmp_path)) == []
    assert "is already finished" in run(*arguments).stdout
    assert "holds another" in run(*arguments[:-3], "7", "--short-side", "16").stderr


@contextmanager
def started(videos: str, out: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *options(videos, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def parts(out: str) -> set[str]:
    return {path.stem for path in Path(out, "parts").glob("*.json")}


def descendants(pid: int) -> dict[int, str]:
    """Every descendant process of ``pid`` -> its command line."""
    parent, command = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
    below = {pid}
    while more := {child for child, own in parent.items() if own in below} - below:
        below |= more
    return {child: command[child] for child in below - {pid}}


def assert_same(out: str, whole: tuple[str, Manifest]) -> None:
    """Check that the folder equals one prepared without interruption: the same files, each row once."""
    manifest = read_manifest(out)
    assert (manifest.content_id, manifest.shards, manifest.plan) == (
        whole[1].content_id,
        whole[1].shards,
        whole[1].plan,
    )
    assert [row["id"] for row in manifest.rejected] == ["99.avi"]
    assert sorted(video.id for video in read_videos(out)) == [f"{i:02d}.mp4" for i in range(VIDEOS)]
    done = run("--check", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.ray
def test_after_an_interrupt_and_a_kill_it_resumes_to_the_same_result(
    videos: str, whole: tuple[str, Manifest], tmp_path: Path
) -> None:
    out = str(tmp_path)
    with started(videos, out) as process:
        wait_for(lambda: len(parts(out)) >= 2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines() == ["interrupted; finished work is kept, and the same command continues from there"]
    first = len(parts(out))
    with started(videos, out) as process:
        wait_for(lambda: len(parts(out)) >= first + 3)
        ours = [pid for pid, name in descendants(process.pid).items() if "_make_shard" in name or "killable" in name]
        assert ours  # the tasks and their decoding child processes
        process.kill()
        process.wait()
    wait_for(lambda: not any(alive(pid) for pid in ours), 30)
    kept = {name: Path(out, f"{name}.parquet") for name in parts(out)}
    written = {name: path.stat().st_mtime_ns for name, path in kept.items() if path.exists()}
    assert first + 3 <= len(kept) < whole[1].videos // PER_SHARD and not Path(out, "manifest.json").exists()
    done = run(*options(videos, f"file://{out}"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(kept)} shards" in done.stdout and "are done by an earlier attempt" in done.stdout
    assert {name: kept[name].stat().st_mtime_ns for name in written} == written
    assert_same(out, whole)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.ray
def test_a_killed_worker_is_replaced(videos: str, whole: tuple[str, Manifest], tmp_path: Path) -> None:
    out = str(tmp_path)
    with started(videos, out) as process:
        wait_for(lambda: len(parts(out)) >= 2)
        killed = [pid for pid, command in descendants(process.pid).items() if command.startswith("ray::_make_shard")]
        os.kill(killed[0], signal.SIGKILL)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    assert_same(out, whole)


@pytest.mark.ray
def test_no_usable_video_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "x.avi").write_text("no video")
    done = run("--dataset", "folder", "--videos", str(tmp_path / "v"), "--out", str(tmp_path / "o"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "could be used (1 rejected); x.avi: PyAV cannot decode the video" in done.stderr


def test_two_commands_cannot_prepare_one_folder(tmp_path: Path) -> None:
    with Lease(tmp_path / "out"):
        done = run("--dataset", "synthetic", "--count", "8", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert f"one process at a time may work on {tmp_path / 'out'}, and process {os.getpid()} on" in done.stderr
    assert done.stderr.count("\n") == 1
