"""Ctrl-C during work that can end in order."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from paramcrop.errors import Abandoned, StorageError
from ray_jobs.pretrain import interrupt
from ray_jobs.pretrain.interrupt import interruptible


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_work_that_ends_by_itself_is_no_interruption() -> None:
    done = list[int]()
    interruptible(lambda: done.append(1), lambda: True)
    assert done == [1]

    def fail() -> None:
        raise ValueError("its own error")

    with pytest.raises(ValueError, match="its own error"):
        interruptible(fail, lambda: True)


def test_ctrl_c_asks_the_work_to_end_and_waits_for_it() -> None:
    asked, ended = threading.Event(), list[str]()

    def work() -> None:
        press_ctrl_c()
        asked.wait(20)
        time.sleep(0.3)
        ended.append("in order")

    def ask() -> bool:
        asked.set()
        return True

    with pytest.raises(KeyboardInterrupt):
        interruptible(work, ask)
    assert ended == ["in order"]


@pytest.mark.parametrize(
    ("error", "seen"), [(StorageError("disk full"), StorageError), (RuntimeError("the node died"), Abandoned)]
)
def test_work_that_fails_to_end_says_why_if_that_is_not_that_ray_has_ended(
    error: Exception, seen: type[BaseException]
) -> None:
    asked = threading.Event()

    def work() -> None:
        press_ctrl_c()
        asked.wait(20)
        raise error

    def ask() -> bool:
        asked.set()
        return True

    with pytest.raises(seen):
        interruptible(work, ask)


@pytest.mark.parametrize("how", ["again", "too late", "safe", "not worth it"])
def test_it_does_not_wait_for_ever(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(interrupt, "SETTLE", 0.1)

    def work() -> None:
        press_ctrl_c()
        over.wait(60)

    def ask() -> bool:
        if how == "again":
            threading.Timer(0.3, press_ctrl_c).start()
        return how != "not worth it"

    begun = time.monotonic()
    with pytest.raises(Abandoned):
        interruptible(work, ask, lambda: how == "safe", grace=0.5 if how == "too late" else 50)
    over.set()
    assert time.monotonic() - begun < 30
