from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from paramcrop.errors import LeaseError
from paramcrop.storage import lease
from paramcrop.storage.lease import Lease, is_held, newest_lease

HOLD = "import sys, time; from pathlib import Path; from paramcrop.storage.lease import Lease\n"
HOLD += "with Lease(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def elsewhere(folder: Path, age: float) -> Path:
    """The lease of a process on another machine, last touched ``age`` seconds ago."""
    file = folder / "lease" / "000004.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": "1", "space": "other"}))
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Lease(tmp_path) as held:
        assert newest_lease(held.file.parent) == held.file and is_held(tmp_path) and lease.is_newest(str(held.file))
        with (
            pytest.raises(LeaseError, match=rf"work on {tmp_path}, and process {os.getpid()} on .* does; wait for it"),
            Lease(tmp_path),
        ):
            pass
        assert newest_lease(held.file.parent) == held.file  # the refused process removed nothing
    assert not (tmp_path / "lease").exists() and not is_held(tmp_path) and not lease.is_newest(str(held.file))
    with Lease(tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(LeaseError, match=f"process {process.pid} on"), Lease(tmp_path):
            pass
        process.kill()
        time.sleep(0.2)  # a zombie, because nobody has reaped it: it counts as ended
        start = time.monotonic()
        with Lease(tmp_path) as held:
            assert held.file.name == "000002.json"
            assert [path.name for path in held.file.parent.iterdir()] == ["000002.json"]
        assert time.monotonic() - start < 1


def test_a_reused_process_id_is_another_process(tmp_path: Path) -> None:
    with Lease(tmp_path) as held:
        fields = json.loads(held.file.read_text())
    held.file.parent.mkdir()
    held.file.write_text(json.dumps(fields | {"born": "12"}))
    with Lease(tmp_path) as taken:
        assert taken.file.name == "000002.json"


def test_a_remote_holder_counts_as_dead_after_a_minute(tmp_path: Path) -> None:
    elsewhere(tmp_path, lease.STALE + 5)
    with Lease(tmp_path) as held:
        assert held.file.name == "000005.json"


def test_a_remote_holders_next_heartbeat_refuses_the_lease(tmp_path: Path) -> None:
    file = elsewhere(tmp_path, 20)
    messages = list[str]()
    threading.Timer(1.0, os.utime, [file]).start()
    with pytest.raises(LeaseError, match="process 1 on elsewhere"), Lease(tmp_path, messages.append):
        pass
    assert len(messages) == 1 and "waiting up to 60 s" in messages[0]


def test_a_remote_holder_that_stays_silent_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(tmp_path, 20)
    monkeypatch.setattr(lease, "STALE", 21.0)
    start = time.monotonic()
    with Lease(tmp_path):
        assert 0.5 < time.monotonic() - start < 5


def test_the_holder_sends_heartbeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    with Lease(tmp_path) as held:
        os.utime(held.file, (0, 0))
        time.sleep(0.5)
        assert held.file.stat().st_mtime > 0
    time.sleep(0.2)
    assert not held.file.exists()


def test_exactly_one_of_many_takes_over_a_stale_lease(tmp_path: Path) -> None:
    elsewhere(tmp_path, lease.STALE + 5)
    got: list[Any] = []
    gate = threading.Barrier(8)

    def want() -> None:
        gate.wait()
        try:
            with Lease(tmp_path):
                got.append("held")
                deadline = time.monotonic() + 60  # hold the folder until the seven others have been refused
                while len(got) < 8 and time.monotonic() < deadline:
                    time.sleep(0.01)
        except LeaseError:
            got.append("refused")

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["held"] + ["refused"] * 7


def test_a_process_that_pauses_between_looking_and_taking_gives_way(tmp_path: Path) -> None:
    """It saw a stale lease; meanwhile that lease went away, and another process took the folder with a lower number."""
    stale = elsewhere(tmp_path, lease.STALE + 5)
    late = Lease(tmp_path)
    stale.unlink()
    with Lease(tmp_path) as held:
        assert not late._take(stale)
        assert lease.newest_lease(held.folder) == held.file
