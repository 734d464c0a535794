"""Atomic writes: no reader or other writer ever sees a partial file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pyarrow.fs
import pytest

from paramcrop.errors import DataError
from paramcrop.storage.files import atomic_write, atomic_write_on, open_folder
from paramcrop.storage.runs import read_status, write_status
from paramcrop.sweeps.parts import Swept
from paramcrop.sweeps.space import Space
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


@pytest.mark.parametrize("name", ["a b", "a#b", "50%", "100%25", "%zz", "a?b", "ü #1 %", "plain"])
def test_a_file_uri_leads_to_the_folder_of_that_name(tmp_path: Path, name: str) -> None:
    decoded = "100%" if name == "100%25" else name
    assert open_folder(f"file://{tmp_path}/{name}") == (pyarrow.fs.LocalFileSystem(), f"{tmp_path}/{decoded}")
    assert open_folder(f"file://{tmp_path}/{quote(name)}")[1] == f"{tmp_path}/{name}"
    assert open_folder(f"{tmp_path}/{name}")[1] == f"{tmp_path}/{name}"


def test_a_file_uri_of_another_machine_is_refused() -> None:
    with pytest.raises(DataError, match="file://elsewhere/data: a folder must be a local path or a URI"):
        open_folder("file://elsewhere/data")


@pytest.mark.parametrize("name", ["a b", "a#b", "50%", "a%20b", "%zz"])
def test_a_uri_of_a_store_keeps_its_path(name: str) -> None:
    store, path = open_folder(f"s3://bucket/{name}?region=eu-north-1")
    assert (store.region, path) == ("eu-north-1", f"bucket/{name.replace('%20', ' ')}")
