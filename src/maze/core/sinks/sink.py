"""The interface of everything that makes something lasting of finished episodes."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from maze.core.episode import EpisodeBatch
from maze.core.errors import OutputError


class Sink(ABC):
    """Receives the batches of one run, in the main process, in the order of their arrival."""

    @abstractmethod
    def open(self) -> None:
        """Prepare; called once, before the first batch."""

    @abstractmethod
    def write(self, batch: EpisodeBatch) -> None:
        """Take a batch of finished episodes."""

    @abstractmethod
    def close(self) -> None:
        """Finish; called once, also when the run broke off."""


class Sinks(Sink):
    """Several sinks as one. What happens to one of them does not keep the others from finishing.

    Args:
        sinks: a batch is given to them in this order, so that the last one can vouch for what the
            others have written. They are opened in the opposite order.
        directory: named in errors.
    """

    def __init__(self, sinks: Sequence[Sink], directory: Path | None) -> None:
        self._sinks = sinks
        self._directory = directory

    def open(self) -> None:
        """Open all."""
        for sink in reversed(self._sinks):
            with self._explained():
                sink.open()

    def write(self, batch: EpisodeBatch) -> None:
        """Give the batch to all. Raises ``OutputError`` if it cannot be written."""
        for sink in self._sinks:
            with self._explained():
                sink.write(batch)

    def close(self) -> None:
        """Close all, and then raise the first error, if there was one."""
        with contextlib.ExitStack() as stack:
            for sink in reversed(self._sinks):
                stack.callback(self._close, sink)

    def _close(self, sink: Sink) -> None:
        with self._explained():
            sink.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot write into {self._directory}: {error.strerror or error}. What the journal"
                " lists is kept"
            ) from error
