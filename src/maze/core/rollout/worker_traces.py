"""What a worker printed, and where in the code it was: for the report of a failure.

Both have to be there after a process was killed, so they do not wait for it to hand them over.
Standard output and error go through a pipe, which the parent shows and of which it keeps the end.
Stacks go to a file without a name: ``faulthandler`` writes there from within a signal, which works
in a process that hangs in C code, on a lock, or that has just crashed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection

_KEPT_BYTES = 4096
_READ_BYTES = 65536
# Of a worker that prints without end, so much is taken before others get their turn.
_READS_IN_A_ROW = 16
# A line that is longer is shown in pieces.
_MAX_LINE_BYTES = 8192
_MAX_STACK_BYTES = 65536
_STACK_SECONDS = 1.0


class WorkerOutput:
    """The parent's end of a worker's standard output and error."""

    def __init__(self, pipe: Connection) -> None:
        """Take the reading end of a pipe."""
        self.pipe = pipe
        self.is_closed = False
        """Whether nothing can come any more."""
        self._kept = b""
        self._line = b""
        os.set_blocking(pipe.fileno(), False)

    def forward(self) -> None:
        """Show what the worker has printed since the last time, without waiting for more."""
        for _ in range(_READS_IN_A_ROW):
            if self.is_closed:
                return
            try:
                data = os.read(self.pipe.fileno(), _READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.is_closed = not data
            self._kept = (self._kept + data)[-_KEPT_BYTES:]
            self._show(data)

    def tail(self) -> str:
        """Return the last of what the worker has printed."""
        return self._kept.decode("utf-8", "backslashreplace")

    def close(self) -> None:
        """Show what is left, and close the pipe."""
        self.forward()
        _print(self._line)
        self._line = b""
        self.is_closed = True
        self.pipe.close()

    def _show(self, data: bytes) -> None:
        """Show whole lines, since those of several workers meet, and a progress bar."""
        self._line += data
        end = self._line.rfind(b"\n") + 1
        if not end and len(self._line) >= _MAX_LINE_BYTES:
            end = len(self._line)
        text, self._line = self._line[:end], self._line[end:]
        _print(text)


def _print(text: bytes) -> None:
    # Looked up each time: a progress bar puts itself in its place. A run does not end because
    # nobody can read what a worker printed.
    if text and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text.decode("utf-8", "backslashreplace"))


def send_output_to(pipe: Connection) -> None:
    """Have this process, and those it starts, print to the pipe."""
    for descriptor in (1, 2):
        os.dup2(pipe.fileno(), descriptor)
    pipe.close()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # To a pipe it would be written in blocks, and what is in one is lost with the process.
            stream.reconfigure(line_buffering=True)


class StackFile:
    """The parent's end of where a worker writes its stacks. The file vanishes with them."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def writer(self) -> Connection:
        """Return the file in a form that can be passed to another process."""
        return Connection(os.dup(self._file.fileno()), readable=False)

    def ask(self, process_id: int) -> None:
        """Ask a worker where it is, and wait for the answer for a bounded time."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGUSR1)
        deadline = time.monotonic() + _STACK_SECONDS
        size = -1
        while time.monotonic() < deadline:
            before, size = size, os.fstat(self._file.fileno()).st_size
            if size > 0 and size == before:
                return
            time.sleep(0.02)

    def text(self) -> str:
        """Return the stacks of the threads, but for that which only waits for the question."""
        data = os.pread(self._file.fileno(), _MAX_STACK_BYTES, 0)
        threads = data.decode("utf-8", "backslashreplace").strip().split("\n\n")
        named = f" in {_wait_for_signals.__name__}\n"
        return "\n\n".join(text for text in threads if named not in text + "\n")

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def tell_stacks(file: Connection, *, when_asked: bool) -> None:
    """Write the stacks of all threads of this process if it crashes, or when its parent asks.

    Args:
        file: from ``StackFile.writer``; it has to stay open.
        when_asked: whether the parent is going to ask.
    """
    faulthandler.enable(file.fileno(), all_threads=True)
    if when_asked:
        faulthandler.register(signal.SIGUSR1, file.fileno(), all_threads=True)
        # The kernel gives the signal to any thread that has not blocked it, and the main thread
        # may be in the hands of code that has.
        threading.Thread(target=_wait_for_signals, daemon=True, name="maze-stacks").start()


def _wait_for_signals() -> None:
    threading.Event().wait()
