"""Atomic writes: no reader or other writer ever sees a partial file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.fs
import pytest

from paramcrop.storage.files import atomic_write, atomic_write_on
from paramcrop.storage.runs import read_status, write_status
from paramcrop.sweeps.space import Space, Swept
from ray_jobs.sweep.plan import write_space

WRITERS, TIMES = 4, 100


def write_status_to(folder: Path) -> None:
    write_status(folder, "running")


def write_space_to(folder: Path) -> None:
    write_space(folder, SPACE)


SPACE = Space(question="Which policy?", params={"policy": Swept(values=("random", "paramcrop"))})


@pytest.mark.parametrize("write", [write_status_to, write_space_to])
def test_concurrent_writers_do_not_disturb_each_other(tmp_path: Path, write: Callable[[Path], None]) -> None:
    failed = list[OSError]()

    def work() -> None:
        try:
            for _ in range(TIMES):
                write(tmp_path)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert write is write_space_to or read_status(tmp_path)["state"] == "running"


def break_off(file: Path) -> None:
    with atomic_write(file) as part:
        part.write_text("half")
        raise ZeroDivisionError


def break_off_elsewhere(file: Path, begun: bool) -> None:
    with atomic_write_on(pyarrow.fs.LocalFileSystem(), str(file)) as part:
        if begun:
            Path(part).write_text("half")
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "write", [break_off, partial(break_off_elsewhere, begun=True), partial(break_off_elsewhere, begun=False)]
)
def test_a_failed_write_keeps_the_old_file(tmp_path: Path, write: Callable[[Path], None]) -> None:
    file = tmp_path / "a.json"
    file.write_text("before")
    with pytest.raises(ZeroDivisionError):
        write(file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and file.read_text() == "before"


def test_the_temporary_file_is_hidden_and_has_the_same_suffix(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.png") as part, atomic_write(tmp_path / "a.png") as other:
        assert part != other and part.parent == tmp_path
        assert part.name.startswith(".") and part.suffix == ".png"
        part.touch()
        other.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
