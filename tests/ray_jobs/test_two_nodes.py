"""Sweeps on a cluster as its launch files make it: a head without CPUs, and workers with homes of their own."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest

from paramcrop.report.page import read_table
from paramcrop.storage.files import open_folder
from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.record import TrialRecord, read_records
from ray_jobs.report import find_sweep
from tests.bucket import NAME, s3_server
from tests.labelled import make_labelled
from tests.ray_jobs.commands import Command, write_space
from tests.ray_jobs.two_nodes import Machines, can_hide, machines

pytestmark = pytest.mark.ray

GRID = {"cropper.lower": [0.1, 0.3]}
TRAIN = "data.split=train"  # some videos of the other split do not decode


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    with s3_server() as keys, machines(1, keys) as found:
        yield found


@pytest.fixture(scope="module")
def shards(cluster: Machines) -> str:
    """A labelled dataset in the folder that all see, and in the bucket."""
    folder = make_labelled(cluster.shared / "shards")
    fs, root = open_folder(f"{NAME}/shards")
    pyarrow.fs.copy_files(folder, root, destination_filesystem=fs)
    return folder


def sweep(cluster: Machines, space: str, storage: str, data: str) -> Command:
    """A sweep of the dataset at ``data``, with its runs at ``storage``."""
    settings = (f"data.shards={data}", TRAIN, "train.global_batch=8", f"run.storage={storage}")
    arguments = ("--space", space, *settings, "--data", f"small={data}")
    return Command(cluster.home, "sweep.py", *arguments, env=cluster.env)


def done(command: Command, code: int = 0) -> str:
    assert command.wait(400) == code, command.text[-3000:]
    return command.text


def records(place: str) -> list[TrialRecord]:
    """The records of a sweep, read on a machine that has taken no part."""
    return read_records(find_sweep(place, Path("nowhere")))


def test_a_folder_that_a_worker_does_not_see_is_refused_in_one_line(cluster: Machines, shards: str) -> None:
    if not can_hide():
        pytest.skip("this machine allows no file tree of one's own")
    space = write_space(cluster.folder / "mine.yaml", params={"cropper.lower": [0.1]})
    text = done(sweep(cluster, space, str(cluster.home / "hidden"), shards), code=3)
    line = next(line for line in text.splitlines() if line.startswith("error: "))
    assert "all 2 nodes must see the folders of runs, sweeps and videos, but" in line
    assert f"does not see {cluster.home}/hidden/sweeps/mine" in line and "Traceback" not in text


@pytest.mark.slow
def test_a_sweep_in_a_bucket_is_seen_by_its_driver_and_leaves_nothing_at_home(cluster: Machines, shards: str) -> None:
    space = write_space(cluster.folder / "bucket.yaml", params={"cropper.lower": [0.1]})
    storage = f"{NAME}/runs"
    text = done(sweep(cluster, space, storage, f"{NAME}/shards"))
    assert "lower=0.1: done, objective" in text and f"{storage}/sweeps/bucket/index.html" in text
    (record,) = records(f"{storage}/sweeps/bucket")
    assert record.state == "done" and record.objective is not None
    table = read_table(find_sweep(f"{storage}/sweeps/bucket", Path("nowhere")))
    assert [len(row.cells) > 0 for row in table.rows] == [True]
    place = Mirror.of(f"{storage}/sweeps/bucket", "test")
    place.fetch()
    assert {"index.html", "table.md", "study.journal", "space.yaml"} <= {path.name for path in place.folder.iterdir()}
    assert not (place.folder / "tune").exists()
    for home in (cluster.home, cluster.folder / "worker0"):
        assert all("mirror" in str(path) for path in home.glob("**/trials/*.json"))
        assert not (home / "sweeps").exists() and not (home / "runs").exists()
    assert "nothing to do; finished trials: 1" in done(sweep(cluster, space, storage, f"{NAME}/shards"))


def objectives(found: list[TrialRecord]) -> dict[str, Any]:
    return {record.label: (record.state, record.objectives) for record in found}


@pytest.fixture(scope="module")
def alone(shards: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the grid says on one machine."""
    home = tmp_path_factory.mktemp("alone")
    space = write_space(home / "grid.yaml", params=GRID)
    done(Command(home, "sweep.py", "--space", space, f"data.shards={shards}", TRAIN, "--data", f"small={shards}"))
    expected = objectives(read_records(home / "sweeps" / "grid"))
    assert [state for state, _ in expected.values()] == ["done", "done"]
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["folder", "bucket"])
def test_a_grid_survives_a_killed_worker_and_a_killed_driver_and_equals_that_of_one_machine(
    cluster: Machines, shards: str, alone: dict[str, Any], storage: str
) -> None:
    space = write_space(cluster.folder / f"grid-{storage}.yaml", params=GRID)
    runs = f"{NAME}/grid" if storage == "bucket" else str(cluster.shared / "runs")
    data = f"{NAME}/shards" if storage == "bucket" else shards
    place = f"{runs}/sweeps/grid-{storage}"

    def states() -> list[str]:
        try:
            return [record.state for record in records(place)]
        except Exception:  # there is no sweep yet
            return []

    command = sweep(cluster, space, runs, data)
    command.until(lambda: "running" in states(), 200)
    node = cluster.nodes[-1]
    cluster.add()
    cluster.kill(node)
    command.until(lambda: "done" in states(), 300)
    command.kill_all()
    assert "lower=0.3: done" in done(sweep(cluster, space, runs, data))
    assert objectives(records(place)) == alone
    assert "nothing to do; finished trials: 2" in done(sweep(cluster, space, runs, data))


@pytest.mark.slow
def test_a_search_with_asha_in_a_bucket_is_interrupted_and_goes_on(cluster: Machines, shards: str) -> None:
    params = {"cropper.lower": {"uniform": [0.0, 0.4]}, "cropper.layers": {"int": [1, 2]}}
    fields = {"search": "tpe", "samples": 3, "scheduler": "asha", "proxy": {"every": 1, "grace": 1, "reduction": 2}}
    objective = [{"metric": "validation R@1"}]
    space = write_space(cluster.folder / "search.yaml", epochs=4, params=params, objective=objective, **fields)
    runs = f"{NAME}/search"
    command = sweep(cluster, space, runs, f"{NAME}/shards")
    command.until(lambda: "/4, step" in command.text, 200)
    command.process.send_signal(signal.SIGINT)
    text = done(command, code=130)
    assert text.splitlines()[-1].startswith("interrupted; finished work is kept") and "Traceback" not in text
    assert [record.state for record in records(f"{runs}/sweeps/search")][-1] == "interrupted"
    begun = time.monotonic()
    done(sweep(cluster, space, runs, f"{NAME}/shards"))
    found = records(f"{runs}/sweeps/search")
    assert len(found) == 3 and {record.state for record in found} <= {"done", "pruned"}
    print(f"\nthe rest of the search: {time.monotonic() - begun:.0f} s")
    assert "nothing to do; finished trials: 3" in done(sweep(cluster, space, runs, f"{NAME}/shards"))


@pytest.mark.slow
def test_two_objectives_have_a_front_on_the_page(cluster: Machines, shards: str) -> None:
    params = {"cropper.lower": {"uniform": [0.0, 0.4]}, "cropper.layers": {"int": [1, 2]}}
    objective = [{"metric": "validation R@1", "mode": "max"}, {"metric": "cpu_hours", "mode": "min"}]
    space = write_space(cluster.folder / "two.yaml", params=params, search="nsga2", samples=3, objective=objective)
    runs = str(cluster.shared / "two")
    done(sweep(cluster, space, runs, shards))
    found = records(f"{runs}/sweeps/two")
    assert [len(record.objectives) for record in found] == [2, 2, 2]
    assert all(value is not None and value > 0 for record in found for value in record.objectives[1:])
    page = (Path(runs) / "sweeps" / "two" / "index.html").read_text()
    assert "no trial is better in both" in page
