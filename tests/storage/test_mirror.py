"""Copies of a folder in a bucket, on a server that speaks S3: what is sent arrives, what is fetched is the bucket's."""

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
from paramcrop.storage.mirror import Mirror, check_writable, folders_in, mirror_at, patiently
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


def test_what_one_copy_sends_another_fetches(uri: str) -> None:
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


def test_a_fetch_makes_a_copy_what_the_bucket_has(uri: str) -> None:
    mine, yours = Mirror.of(uri, "me"), Mirror.of(uri, "you")
    write(mine, "a.txt", "old")
    mine.send("a.txt")
    yours.fetch()
    kept = (yours.folder / "a.txt").stat().st_mtime_ns
    yours.fetch()
    assert (yours.folder / "a.txt").stat().st_mtime_ns == kept  # nothing is fetched twice
    write(yours, "b.txt", "never sent")
    write(yours, "a.txt", "changed")
    time.sleep(1.1)  # the store's clock has seconds
    write(mine, "a.txt", "new")
    mine.send("a.txt")
    yours.fetch()
    assert (yours.folder / "a.txt").read_text() == "new" and not (yours.folder / "b.txt").exists()
    mine.remove("a.txt")
    yours.fetch("a.txt")
    assert not (yours.folder / "a.txt").exists()


def test_a_store_that_is_away_for_a_moment_is_waited_for() -> None:
    tries = list[int]()

    def call() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("away")
        return "there"

    assert patiently(call, (0, 0, 0)) == "there" and len(tries) == 3
    tries.clear()
    with pytest.raises(OSError, match="away"):
        patiently(call, (0,))

    def missing() -> None:
        tries.append(1)
        raise FileNotFoundError

    tries.clear()
    with pytest.raises(FileNotFoundError):
        patiently(missing, (0, 0))
    assert len(tries) == 1


def test_a_bucket_that_is_not_there_or_not_writable_is_named_before_anything_starts(uri: str) -> None:
    check_writable(uri)
    with pytest.raises(DataError, match=r"^s3://no-such-bucket/x must be there and writable, but: .*NO_SUCH_BUCKET"):
        check_writable("s3://no-such-bucket/x")
    with pytest.raises(DataError, match=r"^s3://no-such-bucket/runs must be (readable|there and writable), but"):
        run_place(load_config("demo", None, ["run.storage=s3://no-such-bucket/runs"]), "data")


def test_a_run_has_one_place_in_a_bucket_whatever_its_name(uri: str) -> None:
    storage = uri.rpartition("/")[0]
    config = load_config("demo", None, [f"run.storage={storage}"])
    place = run_place(config, "data")
    write(place, "status.json", "{}")
    place.send("status.json")
    again = load_config("demo", None, [f"run.storage={storage}/", "run.name=other", "train.workers=2"])
    assert run_place(again, "data", "other").uri == place.uri
    assert folders_in(storage) == [place.uri.rpartition("/")[2]]
    assert run_place(config, "other data").uri != place.uri


def test_what_was_there_is_set_aside(uri: str) -> None:
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
    assert not is_finished(place.folder)  # its checkpoint is not there


def test_one_process_at_a_time_holds_what_lies_in_a_bucket(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from paramcrop.errors import LeaseError
    from paramcrop.storage import bucket_lease
    from paramcrop.storage.bucket_lease import BucketLease, newest

    monkeypatch.setattr(bucket_lease, "SETTLE", 0.2)
    monkeypatch.setattr(bucket_lease, "HEARTBEAT", 1.0)
    with BucketLease(uri) as lease:
        assert still_held(lease.place) and newest(uri).startswith("000001-")
        with pytest.raises(LeaseError, match=f"one process at a time may work on {uri}, but process"):
            BucketLease(uri).__enter__()
        assert still_held(lease.place)
    assert newest(uri) == "" and not still_held(lease.place)
    dead = write(Mirror.of(uri, "me"), "lease/000007-dead.json", json.dumps({"host": "elsewhere", "pid": 1}))
    Mirror.of(uri, "me").send("lease/000007-dead.json")
    assert dead.exists()
    monkeypatch.setattr(bucket_lease, "STALE", 2.0)
    told = list[str]()
    with BucketLease(uri, told.append) as lease:  # no heartbeat for two seconds
        assert newest(uri).startswith("000008-") and still_held(lease.place)
        assert len(told) == 1 and "process 1 on elsewhere" in told[0]


def test_a_lease_outlives_a_store_that_cannot_be_found_for_a_moment(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
        before = bucket_lease._touched(uri, lease.place.rpartition("/")[2])
        time.sleep(1.5)  # the store's clock has seconds
        after = bucket_lease._touched(uri, lease.place.rpartition("/")[2])
        assert lost == [lease.place] * 2 and before is not None and after is not None and after > before


def test_who_wrote_too_late_or_after_another_begins_again(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from paramcrop.storage import bucket_lease
    from paramcrop.storage.bucket_lease import BucketLease

    slow, late = BucketLease(uri), BucketLease(uri)
    assert slow._put_in_time("") and not late._put_in_time("")
    slow._let_go()
    monkeypatch.setattr(bucket_lease, "SETTLE", 0.2)
    monkeypatch.setattr(slow, "_beat", lambda: time.sleep(0.3))
    assert not slow._put_in_time("")


def test_of_two_that_come_at_the_same_moment_one_gets_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
