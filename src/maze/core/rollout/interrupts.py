"""Ctrl-C, and other ways of asking a process to end, at the right moment.

Python raises ``KeyboardInterrupt`` between any two instructions. In the middle of writing a batch,
or of reading a message from a pipe, that would leave half of it behind. Such places hold
interrupts back until they are through.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The process was asked to end, or its terminal is gone. A run ends as with Ctrl-C."""


class Terminations:
    """Has SIGTERM and SIGHUP end a run as Ctrl-C does. Use it as a context manager.

    For programs whose process is theirs alone, as a command: a library leaves signals alone.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        """Numbers of the signals that came."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Terminations:
        """Set the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in _TERMINATIONS:
                if signal.getsignal(number) is signal.SIG_DFL:  # nohup has set another for SIGHUP.
                    self._before[number] = signal.signal(number, self)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        exception_traceback: TracebackType | None,
    ) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self, signal_number: int, frame: Any) -> None:
        """Handle a signal."""
        self.received.append(signal_number)
        raise Terminated

    def exit_code(self, code: int) -> int:
        """Return the exit code of an interrupted command: that of the signal, if there was one."""
        return 128 + self.received[0] if self.received else code


_TERMINATIONS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextlib.contextmanager
def held_interrupts() -> Iterator[list[int]]:
    """Note interrupts instead of raising them.

    Yields:
        A list that gets an entry for each interrupt.
    """
    noted: list[int] = []
    before: dict[int, Any] = {}

    def note(signal_number: int, _: Any) -> None:
        noted.append(signal_number)
        handler = before[signal_number]
        if isinstance(handler, Terminations):
            handler.received.append(signal_number)

    # Signals reach the main thread only, and a process that ignores them, as workers do, goes on
    # to do so.
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
            before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
        for number in _TERMINATIONS:
            if isinstance(signal.getsignal(number), Terminations):
                before[number] = signal.getsignal(number)
    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def late_interrupts() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at the end of the block, if it came in the meantime."""
    with held_interrupts() as noted:
        yield
    if noted:
        raise KeyboardInterrupt


def is_from_outside(error: BaseException) -> bool:
    """Return whether an exception that came out of an environment or policy is none of theirs.

    That is an interrupt by the user, and the closing of a generator. All else is a failure of what
    raised it, whatever it derives from: libraries signal cancellation, timeouts and panics so.
    """
    if isinstance(error, Terminated):
        return True
    if isinstance(error, KeyboardInterrupt):
        # A process that ignores Ctrl-C, as workers do, got it from somebody who raised it.
        return signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    return isinstance(error, GeneratorExit)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Start processes to which Ctrl-C means nothing, not even while they import modules.

    A terminal sends it to all processes below it. A process inherits which signals are blocked.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # It would be started in between, and unblocks the signal when it is.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
