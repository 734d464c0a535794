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
    """A lease that a process of another machine took, last touched ``age`` seconds ago."""
    file = folder / "lease" / "000004.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": "1", "space": "other"}))
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Lease(tmp_path) as held:
        assert newest_lease(held.file.parent) == held.file and is_held(tmp_path)
        with (
            pytest.raises(LeaseError, match=rf"work on {tmp_path}, but process {os.getpid()} on .* does$"),
            Lease(tmp_path),
        ):
            pass
        assert newest_lease(held.file.parent) == held.file  # the one that was refused took nothing away
    assert not (tmp_path / "lease").exists() and not is_held(tmp_path)
    with Lease(tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(LeaseError, match=f"process {process.pid} on"), Lease(tmp_path):
            pass
        process.kill()
        time.sleep(0.2)  # not yet waited for: it has ended all the same
        start = time.monotonic()
        with Lease(tmp_path) as held:
            assert held.file.name == "000002.json"
            assert [path.name for path in held.file.parent.iterdir()] == ["000002.json"]
        assert time.monotonic() - start < 1


def test_the_number_of_a_process_taken_again_is_another_process(tmp_path: Path) -> None:
    with Lease(tmp_path) as held:
        fields = json.loads(held.file.read_text())
    held.file.parent.mkdir()
    held.file.write_text(json.dumps(fields | {"born": "12"}))
    with Lease(tmp_path) as taken:
        assert taken.file.name == "000002.json"


def test_a_holder_elsewhere_counts_as_gone_after_a_minute(tmp_path: Path) -> None:
    elsewhere(tmp_path, lease.STALE + 5)
    with Lease(tmp_path) as held:
        assert held.file.name == "000005.json"


def test_a_holder_elsewhere_is_waited_for_and_refuses_at_its_next_heartbeat(tmp_path: Path) -> None:
    file = elsewhere(tmp_path, 20)
    said = list[str]()
    threading.Timer(1.0, os.utime, [file]).start()
    with pytest.raises(LeaseError, match="process 1 on elsewhere"), Lease(tmp_path, said.append):
        pass
    assert len(said) == 1 and "waiting up to 60 s" in said[0]


def test_a_holder_elsewhere_that_stays_silent_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(tmp_path, 20)
    monkeypatch.setattr(lease, "STALE", 21.0)
    start = time.monotonic()
    with Lease(tmp_path):
        assert 0.5 < time.monotonic() - start < 5


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    with Lease(tmp_path) as held:
        os.utime(held.file, (0, 0))
        time.sleep(0.5)
        assert held.file.stat().st_mtime > 0
    time.sleep(0.2)
    assert not held.file.exists()


def test_of_many_that_want_a_stale_one_one_gets_it(tmp_path: Path) -> None:
    elsewhere(tmp_path, lease.STALE + 5)
    got: list[Any] = []
    gate = threading.Barrier(8)

    def want() -> None:
        gate.wait()
        try:
            with Lease(tmp_path):
                got.append("held")
                deadline = time.monotonic() + 60  # the folder is held until the seven others have been told
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


def test_one_held_up_between_looking_and_taking_gives_way(tmp_path: Path) -> None:
    """It saw a stale lease; meanwhile that one was taken away, and another holds the folder under a lower number."""
    stale = elsewhere(tmp_path, lease.STALE + 5)
    late = Lease(tmp_path)
    stale.unlink()
    with Lease(tmp_path) as held:
        assert not late._take(stale)
        assert lease.newest_lease(held.folder) == held.file
