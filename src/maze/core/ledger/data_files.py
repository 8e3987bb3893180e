"""The data files of a run: trajectories and event logs, to which batches are appended.

Every file begins with its head (an Arrow schema, a line of column names). The journal keeps a copy
of it, so that a damaged head costs nothing. What is appended for a batch is a piece; the journal
says where it is. While a run goes on, pieces stand in the order in which they came. At its end the
event logs are put into episode order, so that they are the same for every runner.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.episode import EpisodeBatch
from maze.core.errors import ContractError
from maze.core.ledger.journal import (
    EVENT_FOLDER,
    TRAJECTORY_FOLDER,
    Journal,
    Piece,
    checksum_of,
    write_all,
)

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Ends an Arrow IPC stream."""

_COPIED_AT_ONCE = 2**20
_SORTING = ".sorting"

BeginFile = Callable[[str, bytes], None]
"""Gets the name and the head of a new file, for the journal."""


def steps_file_name(step_key: StepKey) -> str:
    """Return the path of the file that holds the steps of one step key."""
    safe = "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):02x}" for c in str(step_key))
    return f"{TRAJECTORY_FOLDER}/steps_{safe}.arrow"


def event_file_name(event_type: str) -> str:
    """Return the path of the file that holds the events of one type."""
    return f"{EVENT_FOLDER}/{event_type}.tsv"


class EventLayout:
    """Where the text of each episode stands in an event log."""

    def __init__(self, head_size: int) -> None:
        self._head_size = head_size
        self._indices = array("q")  # By arrival: episode, number of bytes.
        self._sizes = array("q")
        self._n_sorted = 0
        """So many of them, the first, stand in episode order; the rest in that of arrival."""

    def add(self, episode_indices: Sequence[int], sizes: Sequence[int]) -> None:
        """Note texts that are appended."""
        self._indices.extend(episode_indices)
        self._sizes.extend(sizes)

    def copy(self) -> EventLayout:
        """Return another one, equal to this."""
        other = EventLayout(self._head_size)
        other.add(self._indices, self._sizes)
        other._n_sorted = self._n_sorted
        return other

    @property
    def n_texts(self) -> int:
        """Number of texts, empty ones included."""
        return len(self._sizes)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._head_size + int(np.sum(self.sizes()))

    def is_sorted(self) -> bool:
        """Return whether the order of the file is that of the episodes."""
        ordered = self.indices()[self._order()]
        return bool(np.all(ordered[1:] >= ordered[:-1]))

    def sort(self) -> None:
        """Note that the file was put into episode order."""
        self._n_sorted = len(self._indices)

    def offsets(self) -> NDArray[np.int64]:
        """Return by arrival where each text begins."""
        order, sizes = self._order(), self.sizes()
        ends = np.cumsum(sizes[order]) + self._head_size
        offsets = np.empty(len(sizes), dtype=np.int64)
        offsets[order] = ends - sizes[order]
        return offsets

    def stretches(self) -> list[tuple[int, int]]:
        """Return from where to where to copy, one after the other, for episode order."""
        sizes, offsets = self.sizes(), self.offsets()
        order = np.argsort(self.indices(), kind="stable")
        starts = offsets[order]
        ends = starts + sizes[order]
        # Most episodes stand behind the one before them already: such stretches are copied at once.
        if not len(order):
            return []
        begins = np.flatnonzero(np.append(True, starts[1:] != ends[:-1]))
        lasts = np.append(begins[1:], len(order)) - 1
        return list(zip(starts[begins].tolist(), ends[lasts].tolist(), strict=True))

    def sizes(self) -> NDArray[np.int64]:
        """Return by arrival how many bytes each text has."""
        return np.array(self._sizes, dtype=np.int64)

    def indices(self) -> NDArray[np.int64]:
        """Return by arrival whose text it is."""
        return np.array(self._indices, dtype=np.int64)

    def _order(self) -> NDArray[np.int64]:
        """Return the arrival numbers in the order of the file."""
        indices = self.indices()
        in_order = np.argsort(indices[: self._n_sorted], kind="stable")
        return np.append(in_order, np.arange(self._n_sorted, len(indices)))


def layouts_of(journal: Journal) -> dict[str, tuple[EventLayout, list[tuple[int, int]]]]:
    """Return for each event log its layout, and where the texts of each line of the journal are.

    The latter as pairs: position among the entries, arrival number of the first text.
    """
    layouts: dict[str, tuple[EventLayout, list[tuple[int, int]]]] = {
        name: (EventLayout(len(head)), [])
        for name, head in journal.heads.items()
        if name.startswith(EVENT_FOLDER)
    }
    for position, entry in enumerate(journal.entries):
        if entry.kind == "sorted":
            for layout, _ in layouts.values():
                layout.sort()
        for name, piece in entry.pieces.items():
            if name in layouts:
                layout, places = layouts[name]
                places.append((position, layout.n_texts))
                layout.add(entry.data_indices, piece.sizes)
    return layouts


class _DataFile:
    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = path.open("xb" if size is None else "r+b", buffering=0)
        self.size = size or 0
        if size is not None:
            self.file.truncate(size)
            self.file.seek(size)

    def append(self, data: bytes) -> Piece:
        """Write at the end. What fails half way is cut off again."""
        try:
            write_all(self.file, data)
        except BaseException:
            with contextlib.suppress(OSError):
                self.file.truncate(self.size)
                self.file.seek(self.size)
            raise
        piece = Piece(self.size, len(data), checksum_of(data))
        self.size += len(data)
        return piece


class DataFiles:
    """Writes the data of batches.

    Args:
        directory: of the run.
        begin_file: see ``BeginFile``.
        heads: of the files that are there already.
        sizes: how much of each of them counts.
        layouts: of the event logs among them.
    """

    def __init__(
        self,
        directory: Path,
        begin_file: BeginFile,
        heads: Mapping[str, bytes] | None = None,
        sizes: Mapping[str, int] | None = None,
        layouts: Mapping[str, EventLayout] | None = None,
    ) -> None:
        self._directory = directory
        self._begin_file = begin_file
        self._heads = dict(heads or {})
        self._layouts = dict(layouts or {})
        self._unchecked = set(self._heads)
        """Files from before, of which it is not known yet whether the new data belongs there."""
        self._files = {
            name: _DataFile(directory / name, size) for name, size in (sizes or {}).items()
        }

    def write(self, batch: EpisodeBatch) -> dict[str, Piece]:
        """Append the data of a batch, and return where it is."""
        pieces: dict[str, Piece] = {}
        for key, steps in batch.trajectories.items():
            name = steps_file_name(key)
            pieces[name] = self._open(name, steps.schema).append(steps.batch)
        part = batch.part_of
        for event_type, events in batch.events.items():
            name = event_file_name(event_type)
            header = "\t".join(["episode_id", "env_time", *events.columns]) + "\n"
            file = self._open(name, header.encode())
            layout = self._layouts.get(name)
            if layout is None:
                layout = self._layouts[name] = EventLayout(len(self._heads[name]))
            sizes = tuple(map(len, events.texts))
            piece = file.append(b"".join(events.texts))
            pieces[name] = piece._replace(sizes=sizes)
            indices = [row.episode_index for row in batch.rows] if part is None else [part[0]]
            layout.add(indices, sizes)
        return pieces

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        for file in list(self._files.values()):
            os.fsync(file.file.fileno())

    def end_streams(self) -> None:
        """Write the mark that ends an Arrow stream."""
        for name, file in self._files.items():
            if name.startswith(TRAJECTORY_FOLDER):
                file.append(END_OF_STREAM)

    def sort_event_logs(self) -> bool:
        """Put the event logs into episode order, and return whether that changed any."""
        unsorted = [name for name, layout in self._layouts.items() if not layout.is_sorted()]
        for name in unsorted:
            self._files[name].file.close()
            _sort(self._directory / name, self._heads[name], self._layouts[name].stretches())
            self._files[name] = _DataFile(self._directory / name, self._layouts[name].size)
        for layout in self._layouts.values():
            layout.sort()
        return bool(unsorted)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.file.close()

    def _open(self, name: str, head: bytes) -> _DataFile:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = _DataFile(self._directory / name)
            file.append(head)
            self._heads[name] = head
            self._begin_file(name, head)
        elif name in self._unchecked:
            _check_same_columns(file.path, self._heads[name], head)
            self._unchecked.remove(name)
        return file


def _check_same_columns(path: Path, before: bytes, now: bytes) -> None:
    """Refuse data of another environment than that of the data before it."""
    columns: list[Any]
    new_columns: list[Any]
    if path.suffix == ".arrow":
        columns, new_columns = (
            [(field.name, str(field.type), field.metadata) for field in _schema(head)]
            for head in (before, now)
        )
    else:
        columns, new_columns = ([head.decode("utf-8", "replace")] for head in (before, now))
    if columns != new_columns:
        changed = [column for column in new_columns if column not in columns] or new_columns
        raise ContractError(
            f"{path} was recorded with other columns, of an environment with other spaces or"
            f" events: {changed[0]} was not among them. Has the environment changed since?"
        )


def _schema(head: bytes) -> Any:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(head))


def _sort(path: Path, head: bytes, stretches: Sequence[tuple[int, int]]) -> None:
    """Rewrite a log; the old file stays until the new one is whole."""
    sorted_path = path.with_name(path.name + _SORTING)
    with path.open("rb") as source, sorted_path.open("wb") as target:
        target.write(head)
        for start, stop in stretches:
            source.seek(start)
            while start < stop:
                piece = source.read(min(stop - start, _COPIED_AT_ONCE))
                if not piece:
                    raise OSError(f"{path} is shorter than what was written to it")
                target.write(piece)
                start += len(piece)
        target.flush()
        os.fsync(target.fileno())
    os.replace(sorted_path, path)
