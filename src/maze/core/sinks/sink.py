"""The interface of everything that makes something lasting of finished episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from maze.core.episode import EpisodeBatch


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
