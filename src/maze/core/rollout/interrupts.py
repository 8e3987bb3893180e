"""Ctrl-C at the right moment.

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
from typing import Any


@contextlib.contextmanager
def held_interrupts() -> Iterator[list[int]]:
    """Note interrupts instead of raising them.

    Yields:
        A list that gets an entry for each interrupt.
    """
    noted: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    # Signals reach the main thread only, and a process that ignores them, as workers do, goes on
    # to do so.
    if not is_main or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield noted
        return

    def note(signal_number: int, _: Any) -> None:
        noted.append(signal_number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


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
