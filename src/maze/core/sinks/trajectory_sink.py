"""Trajectory data on disk: an Arrow IPC stream for each step key.

The batches come encoded, so that writing one is a single ``write``. Every whole batch of a stream
is readable whatever happens to the process afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from maze.core.env.structured_env import StepKey
from maze.core.episode import EpisodeBatch
from maze.core.sinks.sink import Sink

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def steps_file_name(step_key: StepKey) -> str:
    """Return the name of the file that holds the steps of one step key."""
    safe = "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):02x}" for c in str(step_key))
    return f"steps_{safe}.arrow"


class TrajectorySink(Sink):
    """Writes ``steps_<step key>.arrow`` into a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[StepKey, BinaryIO] = {}

    def open(self) -> None:
        """Make the directory."""
        self._directory.mkdir(parents=True, exist_ok=True)

    def write(self, batch: EpisodeBatch) -> None:
        """Append the batch to the streams."""
        for key, steps in batch.trajectories.items():
            file = self._files.get(key)
            if file is None:
                file = self._files[key] = (self._directory / steps_file_name(key)).open("xb")
                file.write(steps.schema)
            file.write(steps.batch)
            file.flush()

    def close(self) -> None:
        """End the streams."""
        for file in self._files.values():
            file.write(_END_OF_STREAM)
            file.close()
        self._files.clear()
