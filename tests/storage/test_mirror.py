"""Local copies of a folder in a bucket, against an S3 server: sending and fetching keep them equal to the bucket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paramcrop.data.manifest import Manifest
from paramcrop.errors import DataError
from paramcrop.settings.presets import load_config
from paramcrop.storage import mirror
from paramcrop.storage.files import open_folder
from paramcrop.storage.mirror import Mirror, check_writable, folders_in, mirror_at, retry
from paramcrop.storage.runs import begin, ending, is_finished, run_place, still_held, write_status
from tests.bucket import NAME, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture
def uri(s3: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(mirror, "copies", lambda: tmp_path)
    return f"{NAME}/{tmp_path.name}/runs/demo-1"


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


def test_setting_aside_moves_every_file(uri: str) -> None:
    place = Mirror.of(uri, "me")
    assert place.set_aside() is None
    for number in (1, 2):
        write(place, "metrics.jsonl", f"{number}")
        place.send("metrics.jsonl")
        aside = place.set_aside()
        assert aside is not None and aside.endswith(f"demo-1~{number}") and not place.folder.exists()
        other = Mirror.of(f"{uri}~{number}", "me")
        other.fetch()
        assert (other.folder / "metrics.jsonl").read_text() == f"{number}"
    place.fetch()
    assert [p for p in place.folder.iterdir() if not p.name.startswith(".")] == []


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


def test_one_process_at_a_time_holds_a_folder_in_a_bucket(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from paramcrop.errors import LeaseError
    from paramcrop.storage import bucket_lease
    from paramcrop.storage.bucket_lease import BucketLease, newest

    monkeypatch.setattr(bucket_lease, "SETTLE", 0.2)
    monkeypatch.setattr(bucket_lease, "HEARTBEAT", 1.0)
    with BucketLease(uri) as lease:
        assert still_held(lease.path) and newest(uri).startswith("000001-")
        with pytest.raises(LeaseError, match=f"one process at a time may work on {uri}, and process"):
            BucketLease(uri).__enter__()
        assert still_held(lease.path)
    assert newest(uri) == "" and not still_held(lease.path)
    dead = write(Mirror.of(uri, "me"), "lease/000007-dead.json", json.dumps({"host": "elsewhere", "pid": 1}))
    Mirror.of(uri, "me").send("lease/000007-dead.json")
    assert dead.exists()
    monkeypatch.setattr(bucket_lease, "STALE", 2.0)
    messages = list[str]()
    with BucketLease(uri, messages.append) as lease:  # no heartbeat for two seconds
        assert newest(uri).startswith("000008-") and still_held(lease.path)
        assert len(messages) == 1 and "process 1 on elsewhere" in messages[0]


def test_a_lease_survives_a_store_that_is_briefly_unreachable(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from paramcrop.storage import bucket_lease
    from paramcrop.storage.bucket_lease import BucketLease

    monkeypatch.setattr(bucket_lease, "SETTLE", 0.2)
    monkeypatch.setattr(bucket_lease, "HEARTBEAT", 0.1)
    lost = list[str]()
    with BucketLease(uri) as lease:

        def away_twice(folder: str) -> tuple[object, str]:
            if len(lost) < 2:
                lost.append(folder)
                raise DataError(f"{folder}: could not resolve host")
            return open_folder(folder)

        monkeypatch.setattr(bucket_lease, "open_folder", away_twice)
        while len(lost) < 2:
            time.sleep(0.05)
        before = bucket_lease._touched(uri, lease.path.rpartition("/")[2])
        time.sleep(1.5)  # the store's clock has a resolution of a second
        after = bucket_lease._touched(uri, lease.path.rpartition("/")[2])
        assert lost == [lease.path] * 2 and before is not None and after is not None and after > before


def test_a_write_that_is_slow_or_second_starts_again(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from paramcrop.storage import bucket_lease
    from paramcrop.storage.bucket_lease import BucketLease

    slow, late = BucketLease(uri), BucketLease(uri)
    assert slow._write_in_time("") and not late._write_in_time("")
    slow._release()
    monkeypatch.setattr(bucket_lease, "SETTLE", 0.2)
    monkeypatch.setattr(slow, "_beat", lambda: time.sleep(0.3))
    assert not slow._write_in_time("")


def test_exactly_one_of_several_simultaneous_processes_gets_the_lease(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threading import Barrier, Thread

    from paramcrop.errors import LeaseError
    from paramcrop.storage.bucket_lease import BucketLease

    got, ready = list[str](), Barrier(4)

    def take() -> None:
        lease = BucketLease(uri)
        ready.wait()
        try:
            lease.__enter__()
            got.append("held")
        except LeaseError:
            got.append("refused")

    threads = [Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["held", "refused", "refused", "refused"]
