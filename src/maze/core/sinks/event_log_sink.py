"""Event logs on disk: a TSV file for each event type, in episode order.

While the run goes on, lines are appended as the episodes come. At its end the files are put into
episode order, so that they are the same for every runner.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from maze.core.episode import EpisodeBatch
from maze.core.sinks.sink import Sink

_COPIED_AT_ONCE = 2**20


@dataclass
class _Log:
    file: BinaryIO
    header: bytes
    indices: array[int] = field(default_factory=lambda: array("q"))
    """Episode index of each piece, in the order in which the pieces stand in the file."""
    sizes: array[int] = field(default_factory=lambda: array("q"))


class EventLogSink(Sink):
    """Writes ``<EventType>.tsv`` into a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._logs: dict[str, _Log] = {}

    def open(self) -> None:
        """Make the directory."""
        self._directory.mkdir(parents=True, exist_ok=True)

    def write(self, batch: EpisodeBatch) -> None:
        """Append the events of the batch."""
        for name, events in batch.events.items():
            log = self._logs.get(name)
            if log is None:
                header = "\t".join(["episode_id", "env_time", *events.columns]) + "\n"
                file = (self._directory / f"{name}.tsv").open("xb")
                log = self._logs[name] = _Log(file, header.encode())
                file.write(log.header)
            indices = [row.episode_index for row in batch.rows]
            if batch.part_of is not None:
                indices = [batch.part_of.episode_index]
            for index, text in zip(indices, events.texts, strict=True):
                if text:
                    log.indices.append(index)
                    log.sizes.append(len(text))
            log.file.write(b"".join(events.texts))
            log.file.flush()

    def close(self) -> None:
        """Put the files into episode order."""
        for name, log in self._logs.items():
            log.file.close()
            if any(b < a for a, b in zip(log.indices, log.indices[1:], strict=False)):
                _sort(self._directory / f"{name}.tsv", log)
        self._logs.clear()


def _sort(path: Path, log: _Log) -> None:
    """Rewrite a log in episode order; the old file stays until the new one is whole."""
    indices, sizes = np.array(log.indices), np.array(log.sizes)
    ends = np.cumsum(sizes) + len(log.header)
    order = np.argsort(indices, kind="stable")
    # Most episodes stand behind the one before them already: such stretches are copied at once.
    begins = np.flatnonzero(np.diff(order, prepend=-2) != 1)
    firsts, lasts = order[begins], order[np.append(begins[1:], len(order)) - 1]
    sorted_path = path.with_suffix(".tsv.sorting")
    with path.open("rb") as source, sorted_path.open("wb") as target:
        target.write(log.header)
        starts, stops = (ends - sizes)[firsts].tolist(), ends[lasts].tolist()
        for start, stop in zip(starts, stops, strict=True):
            source.seek(start)
            while start < stop:
                piece = source.read(min(stop - start, _COPIED_AT_ONCE))
                target.write(piece)
                start += len(piece)
    os.replace(sorted_path, path)
