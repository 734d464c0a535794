"""Local copies of a folder in a bucket, against an S3 server: sending and fetching keep them equal to the bucket."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from paramcrop.data.manifest import Manifest
from paramcrop.errors import DataError
from paramcrop.settings.presets import load_config
from paramcrop.storage.mirror import Mirror, check_writable, folders_in, mirror_at, retry
from paramcrop.storage.runs import begin, ending, is_finished, run_place, write_status


@pytest.fixture
def uri(bucket: str) -> str:
    return f"{bucket}/runs/demo-1"


def write(place: Mirror, name: str, text: str) -> Path:
    file = place.folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_one_copy_fetches_what_another_sends(uri: str) -> None:
    mine, yours = Mirror.of(uri, "me"), Mirror.of(uri, "you")
    assert mine.folder != yours.folder and str(mine) == uri
    for name in (
        "metrics.jsonl",
        "crops/step=1.npz",
        "checkpoints/epoch=0001/state.pt",
        "checkpoints/epoch=0001/meta.json",
    ):
        write(mine, name, name)
    mine.send("metrics.jsonl", "crops/", "checkpoints/epoch=0001/", "absent.txt", "absent/")
    yours.fetch()
    assert not (yours.folder / "checkpoints/epoch=0001/state.pt").exists()  # heavy
    assert (yours.folder / "checkpoints/epoch=0001/meta.json").read_text() == "checkpoints/epoch=0001/meta.json"
    yours.fetch("checkpoints/epoch=0001/")
    assert (yours.folder / "checkpoints/epoch=0001/state.pt").read_text() == "checkpoints/epoch=0001/state.pt"
    assert (yours.folder / "crops/step=1.npz").exists()
    assert mirror_at(yours.folder) == yours and mirror_at(yours.folder / "crops").uri == ""


def test_a_fetch_makes_the_copy_equal_to_the_bucket(uri: str) -> None:
    mine, yours = Mirror.of(uri, "me"), Mirror.of(uri, "you")
    write(mine, "a.txt", "old")
    mine.send("a.txt")
    yours.fetch()
    kept = (yours.folder / "a.txt").stat().st_mtime_ns
    yours.fetch()
    assert (yours.folder / "a.txt").stat().st_mtime_ns == kept  # nothing is fetched twice
    write(yours, "b.txt", "never sent")
    write(yours, "a.txt", "changed")
    time.sleep(1.1)  # the store's clock has a resolution of a second
    write(mine, "a.txt", "new")
    mine.send("a.txt")
    yours.fetch()
    assert (yours.folder / "a.txt").read_text() == "new" and not (yours.folder / "b.txt").exists()
    mine.remove("a.txt")
    yours.fetch("a.txt")
    assert not (yours.folder / "a.txt").exists()


def test_a_light_fetch_leaves_heavy_files_alone(uri: str) -> None:
    mine, yours = Mirror.of(uri, "me"), Mirror.of(uri, "you")
    heavy = write(mine, "checkpoints/epoch=0001/state.pt", "weights")
    write(mine, "checkpoints/epoch=0001/meta.json", "{}")
    mine.send("checkpoints/")
    yours.fetch("checkpoints/epoch=0001/")
    before = (yours.folder / "checkpoints/epoch=0001/state.pt").stat().st_mtime_ns
    for _ in range(2):
        yours.fetch("checkpoints/", light=True)
        yours.fetch()
    yours.fetch("checkpoints/epoch=0001/")
    assert (yours.folder / "checkpoints/epoch=0001/state.pt").stat().st_mtime_ns == before and heavy.exists()


def test_calls_are_retried_while_the_store_is_unreachable() -> None:
    tries = list[int]()

    def call() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("away")
        return "there"

    assert retry(call, (0, 0, 0)) == "there" and len(tries) == 3
    tries.clear()
    with pytest.raises(OSError, match="away"):
        retry(call, (0,))

    def missing() -> None:
        tries.append(1)
        raise FileNotFoundError

    tries.clear()
    with pytest.raises(FileNotFoundError):
        retry(missing, (0, 0))
    assert len(tries) == 1


def test_a_missing_or_read_only_bucket_is_reported_before_anything_starts(uri: str) -> None:
    check_writable(uri)
    with pytest.raises(DataError, match=r"^s3://no-such-bucket/x must exist and be writable: .*NO_SUCH_BUCKET"):
        check_writable("s3://no-such-bucket/x")
    with pytest.raises(DataError, match=r"^s3://no-such-bucket/runs must (be readable|exist and be writable): "):
        run_place(load_config("demo", None, ["run.storage=s3://no-such-bucket/runs"]), "data")


def test_a_run_keeps_its_folder_in_a_bucket_when_its_name_changes(uri: str) -> None:
    storage = uri.rpartition("/")[0]
    config = load_config("demo", None, [f"run.storage={storage}"])
    place = run_place(config, "data")
    write(place, "status.json", "{}")
    place.send("status.json")
    again = load_config("demo", None, [f"run.storage={storage}/", "run.name=other", "train.threads=2"])
    assert run_place(again, "data", "other").uri == place.uri
    assert folders_in(storage) == [place.uri.rpartition("/")[2]]
    assert run_place(config, "other data").uri != place.uri


def test_a_session_writes_its_status_into_the_bucket(uri: str, shards: tuple[str, Manifest]) -> None:
    config = load_config("demo")
    place, other = Mirror.of(uri, "me"), Mirror.of(uri, "you")
    begin(place, config, shards[1].content_id, shards[1].about, lambda text: None)
    other.fetch()
    assert '"running"' in (other.folder / "status.json").read_text() and (other.folder / "config.yaml").exists()
    with pytest.raises(RuntimeError), ending(place, 3):
        raise RuntimeError("it broke")
    other.fetch()
    assert "it broke" in (other.folder / "status.json").read_text()
    assert (other.folder / "history.jsonl").read_text().count("\n") == 2
    write_status(place.folder, "finished", checkpoint="epoch=0001")
    assert not is_finished(place.folder)  # the checkpoint is missing
