"""Calling a function that may hang or crash: in a child process that is killed when it does."""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import accumulate
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

from paramcrop.errors import ParamCropError, VideoError

# By itself it gives large arrays back at once, and the kernel zeroes each page again for the next video or step. By the
# environment of a new process: to a thread that is there already, ``mallopt`` comes too late.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
P = ParamSpec("P")
R = TypeVar("R")
WATCH = 0.5  # seconds between a child's looks at whether its parent is still there


class Killable(Generic[P, R]):
    """``function`` (a module's own, of a module that can be imported) in a child process, kept from call to call.

    The child is a new interpreter, so the caller may have threads and any ``__main__``. It ends when its parent does,
    even in the middle of a call. Arrays in a result lie in memory shared with it: they hold until the next call.

    Args:
        timeout: seconds a call may take.
    """

    def __init__(self, function: Callable[P, R], timeout: float) -> None:
        self._function, self.timeout = function, timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._memory = -1
        self._mapped: mmap.mmap | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Raises:
        VideoError: the call took too long, its process died (twice), or it raised an error that is not ours.
        ParamCropError: whatever of this family the function raised.
        """
        request = pickle.dumps((self._function, args, kwargs))
        try:
            result, error = self._ask(request)
        except (EOFError, ConnectionError):
            self._end()
            try:  # once more: it may have been killed for someone else's memory
                result, error = self._ask(request)
            except (EOFError, ConnectionError):
                raise VideoError(f"the process that read it {self._end()}") from None
        if error is not None:
            raise error
        value: R = result
        return value

    def _ask(self, request: bytes) -> Any:
        connection = self._connect()
        try:
            connection.send_bytes(request)
            if not connection.poll(self.timeout):
                raise VideoError(f"must be read within {self.timeout:g} s, but was not")
            return self._read(connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise
        except BaseException:  # an answer that comes late must not be taken for the next call's
            self.close()
            raise

    def close(self) -> None:
        """Kill the child, if there is one; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
            os.close(self._memory)
        self._process = self._connection = self._mapped = None

    def __enter__(self) -> Killable[P, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> Connection:
        if self._connection is None:
            ours, theirs = socket.socketpair()
            self._memory = _memory_file()
            descriptors = theirs.fileno(), self._memory
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "paramcrop.data.killable", *map(str, descriptors)],
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # decoders write there what the error says again
                    env=KEEP_MEMORY | os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                )
            self._connection = Connection(ours.detach())
        return self._connection

    def _read(self, answer: bytes) -> Any:
        """The child's answer: the sizes of its arrays, which lie end to end in the shared memory, and the rest."""
        sizes, pickled = pickle.loads(answer)
        if not sum(sizes):  # nothing that could be mapped
            return pickle.loads(pickled, buffers=[b"" for _ in sizes])
        if self._mapped is None or len(self._mapped) < sum(sizes):
            self._mapped = mmap.mmap(self._memory, sum(sizes))
        memory = memoryview(self._mapped)
        ends = list(accumulate(sizes))
        return pickle.loads(pickled, buffers=[memory[end - n : end] for n, end in zip(sizes, ends, strict=True)])

    def _end(self) -> str:
        """How the child ended, in words."""
        code = self._process.wait() if self._process is not None else 0
        self.close()
        return f"died of signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def serve(descriptor: int, memory: int) -> None:
    """The child's side: calls until the parent closes the connection or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    connection = Connection(descriptor)
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, ConnectionError):
            return
        connection.send_bytes(_answer(request, memory))


def _answer(request: bytes, memory: int) -> bytes:
    """Pickled (sizes of the arrays in the shared memory, pickled (result, error)); result or error is None."""
    result, error = None, None
    try:
        function, args, kwargs = pickle.loads(request)
        result = function(*args, **kwargs)
    except ParamCropError as ours:
        error = ours
    except Exception as other:
        text = f"must be readable, but {type(other).__name__}: {str(other).strip().partition(os.linesep)[0][:200]}"
        error = VideoError(text)
    arrays: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps((result, error), protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    offset = 0
    for view in views:
        while view.nbytes:
            written = os.pwrite(memory, view, offset)
            offset, view = offset + written, view[written:]
    return pickle.dumps(([view.nbytes for view in views], pickled))


def _memory_file() -> int:
    """A file without a name: in memory where the system can (not below /dev/shm, which is small in containers)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("paramcrop")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
