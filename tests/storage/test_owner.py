"""Who works on a folder, on a file system and in a bucket: leases, and how a folder begins afresh."""

from __future__ import annotations

import json
import time
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from obstore.exceptions import BaseError

from paramcrop.errors import DataError, LeaseError
from paramcrop.storage import bucket_lease
from paramcrop.storage.bucket_lease import FILE, BucketLease, object_store
from paramcrop.storage.files import local_path, open_folder
from paramcrop.storage.lease import Lease
from paramcrop.storage.mirror import Mirror, folders_in
from paramcrop.storage.owner import hold, is_held, set_aside, still_held


@pytest.fixture
def uri(bucket: str) -> str:
    return f"{bucket}/a run %/demo-1"


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Mirror:
    if request.param == "bucket":
        return Mirror.of(request.getfixturevalue("uri"), "me")
    (tmp_path / "demo-1").mkdir()
    return Mirror(tmp_path / "demo-1")


def write(place: Mirror, name: str, text: str) -> None:
    file = place.folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    place.send(name)


def test_one_process_at_a_time(place: Mirror) -> None:
    with hold(place) as held:
        assert still_held(held.path) and is_held(place)
        with pytest.raises(LeaseError, match=r"one process at a time may work on .*demo-1, and process"):
            hold(place).__enter__()
        assert still_held(held.path)
    assert not still_held(held.path) and not is_held(place)
    with hold(place) as again:
        assert still_held(again.path)


def test_setting_aside_moves_all_but_the_lease_which_stays_held(place: Mirror) -> None:
    with hold(place) as held:
        assert set_aside(place) is None
        for number in (1, 2):
            write(place, "metrics.jsonl", f"{number}")
            write(place, "checkpoints/epoch=0001/meta.json", "{}")
            aside = set_aside(place)
            assert aside is not None and aside.endswith(f"demo-1~{number}")
            assert still_held(held.path)
            with pytest.raises(LeaseError):
                hold(place).__enter__()
            fs, root = open_folder(place.uri or str(place.folder))
            with fs.open_input_stream(f"{root}~{number}/metrics.jsonl") as source:
                assert source.read() == f"{number}".encode()
            assert fs.get_file_info(f"{root}~{number}/checkpoints/epoch=0001/meta.json").is_file
            assert not is_held(f"{place}~{number}")  # no lease went along
    place.fetch()
    assert [p.name for p in place.folder.glob("[a-z]*") if p.name != "lease"] == []


def test_a_process_that_has_ended_holds_nothing_in_a_bucket(uri: str) -> None:
    with BucketLease(uri) as held:
        fields = json.loads(bytes(held._store.get(FILE).bytes()))
    object_store(uri).put(FILE, json.dumps(fields | {"born": "12"}).encode())  # a process id that was used again
    start = time.monotonic()
    with BucketLease(uri):
        assert time.monotonic() - start < 2


def test_a_remote_holder_without_heartbeats_is_replaced_and_one_with_them_is_not(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lease, "STALE", 3.0)
    monkeypatch.setattr(bucket_lease, "HEARTBEAT", 1.0)
    store, messages = object_store(uri), list[str]()
    remote = {"host": "elsewhere", "pid": 1, "born": "1", "space": "other", "token": "theirs"}
    store.put(FILE, json.dumps(remote).encode())

    def beat() -> None:
        time.sleep(0.7)
        store.put(FILE, json.dumps(remote | {"beat": 2}).encode())

    beating = Thread(target=beat)
    beating.start()
    with pytest.raises(LeaseError, match="process 1 on elsewhere"):
        BucketLease(uri, messages.append).__enter__()
    beating.join()
    assert len(messages) == 1 and "process 1 on elsewhere may be working on" in messages[0]
    with BucketLease(uri) as held:  # no heartbeat for three seconds
        assert still_held(held.path)


def test_a_holder_that_was_taken_for_dead_stops_and_does_not_release_the_others_lease(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_lease, "HEARTBEAT", 0.2)
    late = BucketLease(uri)
    with late:
        other = {"host": "elsewhere", "pid": 1, "token": "theirs"}
        object_store(uri).put(FILE, json.dumps(other).encode())  # it had paused for more than a minute
        late._beating.join(10)
        assert not late._beating.is_alive() and not still_held(late.path)
    assert json.loads(bytes(object_store(uri).get(FILE).bytes())) == other


def test_a_lease_survives_a_store_that_is_briefly_unreachable(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_lease, "HEARTBEAT", 0.1)
    lost = list[int]()
    with BucketLease(uri) as held:
        store: Any = held._store

        class Away:
            def put(self, *arguments: Any, **named: Any) -> Any:
                lost.append(1)
                if len(lost) == 1:
                    raise BaseError("could not resolve host")
                if len(lost) == 2:  # the write arrives, but not the answer
                    store.put(*arguments, **named)
                    raise BaseError("connection reset")
                return store.put(*arguments, **named)

            def get(self, *arguments: Any) -> Any:
                return store.get(*arguments)

        monkeypatch.setattr(held, "_store", Away())
        end = time.monotonic() + 30
        while len(lost) < 6 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(lost) >= 6 and still_held(held.path) and held._beating.is_alive()


def test_a_store_that_ignores_conditions_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overwrites:
        def __init__(self, store: Any) -> None:
            self.store = store

        def put(self, path: str, data: bytes, mode: Any = None) -> Any:
            return self.store.put(path, data)

        def get(self, path: str) -> Any:
            return self.store.get(path)

    real = object_store(uri)
    monkeypatch.setattr(bucket_lease, "object_store", lambda uri: Overwrites(real))
    with pytest.raises(DataError, match="must be in a store with conditional writes"):
        BucketLease(uri).__enter__()


@pytest.mark.parametrize("dead", [False, True])
def test_exactly_one_of_several_simultaneous_processes_gets_the_lease(
    uri: str, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    """Also over a lease whose holder is dead, which all of them see at once."""
    monkeypatch.setattr(bucket_lease, "is_local", lambda fields: False)
    monkeypatch.setattr(bucket_lease, "HEARTBEAT", 0.7)
    if dead:
        object_store(uri).put(FILE, json.dumps({"host": "elsewhere", "pid": 1, "token": "theirs"}).encode())
        time.sleep(4.1)
        monkeypatch.setattr(bucket_lease, "STALE", 3.0)
    got, ready = list[str](), Barrier(8)

    def take() -> None:
        mine = BucketLease(uri)
        ready.wait()
        try:
            mine.__enter__()
            got.append(mine.path)
        except LeaseError:
            got.append("refused")

    threads = [Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got.count("refused") == 7, got
    (winner,) = [path for path in got if path != "refused"]
    assert still_held(winner)


def test_a_bucket_that_cannot_be_written_to_is_one_line(s3: None) -> None:
    with pytest.raises(DataError, match=r"^s3://no-such-bucket-here/x must be writable: ") as caught:
        BucketLease("s3://no-such-bucket-here/x").__enter__()
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="hdfs://host/x must be a local folder or in S3, GCS or Azure"):
        BucketLease("hdfs://host/x").__enter__()


def test_a_file_uri_is_held_as_a_folder(tmp_path: Path) -> None:
    assert local_path(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    with hold(f"file://{tmp_path}") as held:
        assert isinstance(held, Lease) and is_held(tmp_path.as_posix())
    assert folders_in(f"file://{tmp_path}") == []


def test_keys_come_from_the_environment_or_the_users_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".aws").mkdir()
    text = "[default]\naws_access_key_id=a\naws_secret_access_key=b\n[lab]\naws_access_key_id=c\naws_session_token=d\n"
    (tmp_path / ".aws" / "credentials").write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(bucket_lease, "find_spec", lambda name: None)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert bucket_lease._keys() == {"access_key_id": "a", "secret_access_key": "b"}
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert bucket_lease._keys() == {"access_key_id": "c", "session_token": "d"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "e")
    assert bucket_lease._keys() == {}
