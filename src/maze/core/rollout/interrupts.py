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
from typing import Any


@contextlib.contextmanager
def held_interrupts() -> Iterator[list[int]]:
    """Note interrupts instead of raising them.

    Yields:
        A list that gets an entry for each interrupt.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted  # Signals reach the main thread only.
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
