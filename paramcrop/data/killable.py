"""Call a function that may hang or crash in a child process, which can be killed."""

from __future__ import annotations

import math
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
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import numpy as np

from paramcrop.errors import ParamCropError, VideoError

# By default, malloc returns large arrays to the kernel at once, and the kernel zeroes their pages again for the next
# video or step. These variables must be in the environment of a new process: ``mallopt`` does not reach threads that
# already exist.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
P = ParamSpec("P")
R = TypeVar("R")


class Words(NamedTuple):
    """What errors call a call, and the process that it runs in."""

    call: str
    process: str


READING = Words("reading", "the decoder process")
TOOK, EXITED, KILLED = (
    f"{READING.call} took longer than",
    f"{READING.process} exited",
    f"{READING.process} was killed by SIGKILL",
)
NOT_NOW = "cannot be read now"
ALIGNED = 64  # bytes; arrays in shared memory start at a multiple
START = 60.0  # seconds that a child may take to start
WATCH = 0.5  # seconds between two checks of a child whether its parent is alive


class Killable(Generic[P, R]):
    """Calls ``function``, a module-level function, in a child process that serves many calls.

    The child is a new interpreter and not a fork, so the caller may have threads and any ``__main__``. It ends with its
    parent, even in the middle of a call. Arrays in a result lie in shared memory and are valid until the next call.
    What the function made with ``empty`` is not copied to get there.

    Args:
        timeout: seconds that a call may take. The start of the child, which imports the function, does not count.
        words: for the errors.
    """

    def __init__(self, function: Callable[P, R], timeout: float, words: Words = READING) -> None:
        self._function, self.timeout, self._words = function, timeout, words
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._memory = -1
        self._mapped: mmap.mmap | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Raises:
        VideoError: the call took too long, its process died twice, or it raised any other error.
        ParamCropError: the function raised this error.
        """
        request = pickle.dumps((self._function, args, kwargs))
        try:
            result, error = self._ask(request)
        except (EOFError, ConnectionError):
            self._end()
            try:  # once more: the kernel may have killed the child because of another process's memory
                result, error = self._ask(request)
            except (EOFError, ConnectionError):
                raise VideoError(f"{self._words.process} {self._end()}") from None
        if error is not None:
            raise error
        value: R = result
        return value

    def _ask(self, request: bytes) -> Any:
        try:
            connection = self._connection or self._start()
            connection.send_bytes(request)
            if not connection.poll(self.timeout):
                raise VideoError(f"{self._words.call} took longer than {self.timeout:g} s")
            return self._read(connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise
        except BaseException:  # a late answer must not be taken for the answer to the next call
            self.close()
            raise

    def close(self) -> None:
        """Kill the child if there is one; the next call starts a new one."""
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

    def _start(self) -> Connection:
        """Start the child, and wait until it has imported the function."""
        ours, theirs = socket.socketpair()
        self._memory = _memory_file()
        descriptors = theirs.fileno(), self._memory
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "paramcrop.data.killable", *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders only repeat there what the error says
                env=KEEP_MEMORY | os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self._connection = Connection(ours.detach())
        self._connection.send_bytes(pickle.dumps(self._function))
        if not self._connection.poll(START):
            raise VideoError(f"{self._words.call} took longer than {START:g} s, because its process did not start")
        self._connection.recv_bytes()
        return self._connection

    def _read(self, answer: bytes) -> Any:
        """Unpickle an answer of ``_answer``, whose arrays lie in the shared memory."""
        spans, pickled = pickle.loads(answer)
        end = max((start + size for start, size in spans), default=0)
        if not end:  # mmap rejects a length of 0
            return pickle.loads(pickled, buffers=[b"" for _ in spans])
        if self._mapped is None or len(self._mapped) < end:
            self._mapped = mmap.mmap(self._memory, end)
        memory = memoryview(self._mapped)
        return pickle.loads(pickled, buffers=[memory[start : start + size] for start, size in spans])

    def _end(self) -> str:
        """Wait for the end of the child -> what happened to it, as a phrase."""
        code = self._process.wait() if self._process is not None else 0
        self.close()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def may_pass(reason: str) -> bool:
    """Whether a failure to read a video, by its text, was one of time, memory or storage: trying again may help."""
    return reason.startswith((TOOK, EXITED, KILLED, NOT_NOW))


class Shared:
    """The memory that a child shares with its parent: ``empty`` makes arrays in it, from the start on in each call."""

    def __init__(self, memory: int) -> None:
        self.memory, self.used = memory, 0
        self._mapped: np.ndarray | None = None

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        size, start = math.prod(shape), self.used
        if self._mapped is None or self._mapped.size < start + size:
            os.ftruncate(self.memory, start + size)
            self._mapped = np.frombuffer(mmap.mmap(self.memory, start + size), np.uint8)
        self.used = -(-(start + size) // ALIGNED) * ALIGNED
        return self._mapped[start : start + size].reshape(shape)

    def place(self, view: memoryview) -> int:
        """Where an array lies in the shared memory; it is copied there unless ``empty`` made it there."""
        start = self._offset(view)
        if start is None:
            start = self.used
            self.used += view.nbytes
            offset = start
            while view.nbytes:
                written = os.pwrite(self.memory, view, offset)
                offset, view = offset + written, view[written:]
        return start

    def _offset(self, view: memoryview) -> int | None:
        if self._mapped is None or not view.nbytes:
            return None
        address = np.frombuffer(view, np.uint8).ctypes.data - self._mapped.ctypes.data
        return address if 0 <= address < self._mapped.size else None


_shared: Shared | None = None  # of this process, if it is a child


def empty(shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 array for the result of a call: in a child, where the parent reads it."""
    return np.empty(shape, np.uint8) if _shared is None else _shared.empty(shape)


def serve(descriptor: int, memory: int) -> None:
    """The child: answer calls until the parent closes the connection or ends."""
    global _shared
    _shared = Shared(memory)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    connection = Connection(descriptor)
    with suppress(EOFError, ConnectionError):
        function = connection.recv_bytes()
        with suppress(Exception):  # what cannot be imported, the first call reports
            pickle.loads(function)
        connection.send_bytes(b"")
        while True:
            connection.send_bytes(_answer(connection.recv_bytes(), _shared))


def _answer(request: bytes, shared: Shared) -> bytes:
    """Pickled (start and size of the arrays in the shared memory, pickled (result, error)); result or error is None.

    Protocol 5 pickles arrays out of band: their bytes go to the shared memory instead of through the socket.
    """
    shared.used = 0
    result, error = None, None
    try:
        function, args, kwargs = pickle.loads(request)
        result = function(*args, **kwargs)
    except ParamCropError as ours:
        error = ours
    except Exception as other:
        passing = isinstance(other, OSError | MemoryError | ImportError)
        start = NOT_NOW if passing else "cannot be read"
        text = f"{start}: {type(other).__name__}: {str(other).strip().partition(os.linesep)[0][:200]}"
        error = VideoError(text)
    arrays: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps((result, error), protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    return pickle.dumps(([(shared.place(view), view.nbytes) for view in views], pickled))


def _memory_file() -> int:
    """An unnamed file, in memory if the system supports it. (/dev/shm is no option, it is small in containers.)"""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("paramcrop")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _watch(parent: int) -> None:
    # A separate thread, because a decoder that hangs never returns to the loop that would see the closed connection.
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)


if __name__ == "__main__":
    from paramcrop.data.killable import serve as serving  # in the module that ``empty`` is imported from, not __main__

    serving(int(sys.argv[1]), int(sys.argv[2]))
