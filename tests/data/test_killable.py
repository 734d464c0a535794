from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from paramcrop.data.killable import Killable, empty
from paramcrop.errors import DataError, VideoError


def act(what: str) -> int:
    """Do something that a decoder may do to its process -> the process id."""
    if what == "sleep":
        time.sleep(60)
    elif what == "stuck":
        ctypes.PyDLL(None).sleep(60)  # holds the interpreter's lock
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "exit":
        os._exit(3)
    elif what == "refuse":
        raise DataError("the file is damaged")
    elif what == "fail":
        raise ValueError("one line\nand more")
    return os.getpid()


def faults(megabytes: tuple[int, ...]) -> int:
    """Page faults of allocating arrays of these sizes, one after another."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in megabytes:
        np.ones(size * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def arrays(*sizes: int) -> list[np.ndarray]:
    return [np.arange(n, dtype=np.int64) * n for n in sizes]


def shared(*sizes: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Arrays made where the parent reads them, and ordinary ones."""
    made = [empty((2, n)) for n in sizes]
    for i, array in enumerate(made):
        array[:] = i + 1
    return made, arrays(*sizes)


PARENT = """
import sys, threading
from paramcrop.data.killable import Killable, empty
from tests.data.test_killable import act
call = Killable(act, 60)
print(call(""), flush=True)
threading.Thread(target=call, args=(sys.argv[1],)).start() if sys.argv[1] else sys.stdin.read()
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon(condition: Callable[[], bool], seconds: float = 3) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_one_child_serves_many_calls_and_ends_with_its_owner() -> None:
    with Killable(act, 30) as call:
        child = call("")
        assert child != os.getpid()
        assert call("") == child
    assert gone(child)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("sleep", "reading took longer than 1 s"),
        ("stuck", "reading took longer than 1 s"),
        ("crash", "the decoder process was killed by SIGSEGV"),
        ("exit", "the decoder process exited with code 3"),
    ],
)
def test_a_child_that_hangs_or_dies_is_reported_and_replaced(what: str, message: str) -> None:
    with Killable(act, 30) as call:
        first = call("")
        call.timeout = 1
        with pytest.raises(VideoError, match=f"^{message}$"):
            call(what)
        assert gone(first)
        call.timeout = 30
        assert call("") != first


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("refuse", DataError, "the file is damaged"),
        ("fail", VideoError, "cannot be read: ValueError: one line"),
    ],
)
def test_errors_are_returned_and_the_child_stays_alive(what: str, kind: type[Exception], message: str) -> None:
    with Killable(act, 30) as call:
        child = call("")
        with pytest.raises(kind, match=f"^{message}$") as caught:
            call(what)
        assert type(caught.value) is kind
        assert call("") == child


@pytest.mark.parametrize("what", ["", "sleep"])
def test_a_child_does_not_outlive_a_killed_parent(what: str) -> None:
    command = [sys.executable, "-c", PARENT, what]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.5)
        assert not gone(child)
        parent.send_signal(signal.SIGKILL)
        assert soon(lambda: gone(child))


def test_arrays_come_back_through_shared_memory() -> None:
    """Larger and smaller arrays than before, no array, an empty one; and again from the next child after a kill."""
    with Killable(arrays, 30) as call:
        for sizes in ((3, 5), (1000, 200_000), (7,), (), (0, 4), (0,)):
            for got, expected in zip(call(*sizes), arrays(*sizes), strict=True):
                np.testing.assert_array_equal(got, expected)
        call.close()
        np.testing.assert_array_equal(call(9)[0], arrays(9)[0])


def die_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "here"


def test_a_call_is_repeated_once_if_its_child_is_killed(tmp_path: Path) -> None:
    with Killable(die_once, 30) as call:
        assert call(str(tmp_path / "marker")) == "here"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc's malloc")
def test_a_call_reuses_the_memory_of_the_previous_one() -> None:
    sizes = (1, 2, 3)  # MB; from 4 MB on, numpy requests huge pages
    with Killable(faults, 30) as call:
        first = call(sizes)
        assert call(sizes) < 50 < 500 < first


def test_arrays_made_in_shared_memory_arrive_whole() -> None:
    with Killable(shared, 60) as call:
        for sizes in ((3, 5), (3, 5), (100_000, 1), (7,), (0, 2), (300_000, 400_000)):
            made, ordinary = call(*sizes)
            for i, (array, n) in enumerate(zip(made, sizes, strict=True)):
                assert array.shape == (2, n) and (array == i + 1).all()
            for array, n in zip(ordinary, sizes, strict=True):
                np.testing.assert_array_equal(array, np.arange(n) * n)


def filled(n: int) -> np.ndarray:
    array = empty((n,))
    array[:] = 7

    def refuse(*given: object) -> int:
        raise AssertionError("copied")

    os.pwrite = refuse
    return array


def test_what_is_made_in_shared_memory_is_not_copied() -> None:
    with Killable(filled, 60) as call:
        for n in (1000, 2000, 10):
            assert (call(n) == np.full(n, 7)).all()
    assert empty((3, 2)).shape == (3, 2)  # outside of a child as well


def test_the_start_of_a_child_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1.5)\ndef answer() -> int:\n    return 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Killable(import_module("slow_to_import").answer, 1.0) as call:
        assert call() == 7
