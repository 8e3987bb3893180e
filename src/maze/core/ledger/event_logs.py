"""The events of single episodes, found in the logs without reading the rest of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from maze.core.errors import OutputError
from maze.core.ledger.check import DamagedError, PieceFile
from maze.core.ledger.data_files import EventLayout, layouts_of
from maze.core.ledger.journal import EVENT_FOLDER, Journal, Piece

_N_KEYS = 2
"""Columns before the attributes: ``episode_id`` and ``env_time``."""


class LoggedEvent(NamedTuple):
    """A line of an event log."""

    event_type: str
    env_time: int
    attributes: dict[str, str]
    """As they were written; text is as it was before tabs and newlines were escaped."""


class EventLogs:
    """The event logs of a directory.

    Args:
        directory: of the run.
        journal: of the run; ``None``: every file is looked through.
    """

    def __init__(self, directory: Path, journal: Journal | None) -> None:
        self._directory = directory
        self._journal = journal
        self._layouts = {} if journal is None else layouts_of(journal)

    def of_episode(self, episode_index: int, episode_id: str) -> list[LoggedEvent]:
        """Return the events of an episode by time; those of one time by the name of their type.

        Raises:
            OutputError: If a log is damaged where they stand.
        """
        found: list[LoggedEvent] = []
        for name, (columns, lines) in self.lines_of_episode(episode_index, episode_id).items():
            try:
                found.extend(_parsed(name, columns, lines))
            except ValueError as error:
                raise _damaged(episode_index, name, error) from error
        return sorted(found, key=lambda event: event.env_time)

    def lines_of_episode(
        self, episode_index: int, episode_id: str
    ) -> dict[str, tuple[tuple[str, ...], list[str]]]:
        """Return the lines of an episode: by event type, names of attributes and lines.

        Raises:
            OutputError: If a log is damaged where they stand.
        """
        found: dict[str, tuple[tuple[str, ...], list[str]]] = {}
        for path in sorted((self._directory / EVENT_FOLDER).glob("*.tsv")):
            try:
                head, *lines = self._lines(f"{EVENT_FOLDER}/{path.name}", episode_index, episode_id)
            except (DamagedError, ValueError) as error:
                raise _damaged(episode_index, path.stem, error) from error
            found[path.stem] = tuple(head.split("\t")[_N_KEYS:]), lines
        return found

    def _lines(self, name: str, episode_index: int, episode_id: str) -> list[str]:
        """Return the first line of a log and those of an episode."""
        with PieceFile(self._directory, name) as file:
            if self._journal is None or name not in self._layouts:
                text = file.read_at(0, file.size).decode()
                head, *lines = text.split("\n")
                # Not at the end of lines in Unicode's sense, which texts may hold.
                return [head, *(line for line in lines if line.startswith(f"{episode_id}\t"))]
            head = self._journal.heads[name].decode().rstrip("\n")
            layout, places = self._layouts[name]
            try:
                data = self._data(file, layout, places, episode_index)
            except DamagedError:
                if self._journal.finished is not None or layout.is_sorted():
                    raise
                # The process was killed between putting the log in order and saying so.
                layout = layout.copy()
                layout.sort()
                data = self._data(file, layout, places, episode_index)
            return [head, *data.decode().split("\n")[:-1]]

    def _data(
        self,
        file: PieceFile,
        layout: EventLayout,
        places: Sequence[tuple[int, int]],
        episode_index: int,
    ) -> bytes:
        """Return the texts of an episode, each checked with those that were written with it."""
        journal = self._journal
        assert journal is not None
        offsets, sizes = layout.offsets(), layout.sizes()
        latest: list[bytes] = []
        began: list[bytes] = []
        for position, first_text in places:
            entry = journal.entries[position]
            if episode_index not in entry.data_indices:
                continue
            piece: Piece = entry.pieces[file.name]
            texts = slice(first_text, first_text + len(piece.sizes))
            data = file.read_spans(piece, list(zip(offsets[texts], sizes[texts], strict=True)))
            row = list(entry.data_indices).index(episode_index)
            start = sum(piece.sizes[:row])
            text = data[start : start + piece.sizes[row]]
            if entry.part_of is not None:
                # Of an episode that was begun anew, earlier parts do not count.
                began = [text] if entry.part_of.number == 0 else [*began, text]
            else:
                latest = [*(began if episode_index in entry.parts else []), text]
        return b"".join(latest)


def _damaged(episode_index: int, event_type: str, error: Exception) -> OutputError:
    return OutputError(
        f"the events of episode {episode_index} in {EVENT_FOLDER}/{event_type}.tsv are damaged:"
        f" {error}"
    )


def _parsed(event_type: str, names: Sequence[str], lines: Sequence[str]) -> Iterator[LoggedEvent]:
    for line in lines:
        _, time, *values = line.split("\t")
        attributes = {n: unescaped(v) for n, v in zip(names, values, strict=True)}
        yield LoggedEvent(event_type, int(time), attributes)


def unescaped(text: str) -> str:
    """Return a text of a log as it was before its tabs and newlines were escaped."""
    if "\\" not in text:
        return text
    parts = text.split("\\\\")
    replaced = (
        part.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r") for part in parts
    )
    return "\\".join(replaced)
