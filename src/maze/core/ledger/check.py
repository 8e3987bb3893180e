"""Whether the files of a directory hold what the journal says.

Nothing is decoded here, and nothing that the files say is trusted: places and sizes are compared
with the files, and bytes with checksums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from maze.core.ledger.data_files import END_OF_STREAM, EventLayout, layouts_of
from maze.core.ledger.journal import (
    EVENT_FOLDER,
    JOURNAL_FILE,
    TRAJECTORY_FOLDER,
    Journal,
    Piece,
    checksum_of,
)

REWRITTEN = ".rewritten"
"""Ends the name of a file that is about to take the place of another."""
REWRITING_FILE = "rewriting.json"
"""Lists these files; there while they take their places, see ``recovery``."""


class DamagedError(Exception):
    """Data that does not fit its checksum, or is not there."""


@dataclass(frozen=True)
class Damage:
    """Something in a directory that is not as it was written."""

    file: str
    """Path within the directory."""
    what: str
    """What is wrong with it, and where."""
    episode_indices: tuple[int, ...] = ()
    """The episodes whose data it was."""
    is_unfinished: bool = False
    """Whether it is only what a killed process had begun to write, and never counted."""

    def __str__(self) -> str:
        if not self.episode_indices:
            return f"{self.file}: {self.what}"
        return f"{self.file}: {self.what} (data of {name_episodes(self.episode_indices)})"


def name_episodes(indices: Sequence[int], n_shown: int = 8) -> str:
    """Name episodes in a text: ``episode 3`` or ``episodes 3, 4, 7``."""
    if len(indices) == 1:
        return f"episode {indices[0]}"
    shown = ", ".join(map(str, indices[:n_shown]))
    more = f" and {len(indices) - n_shown:,} more" if len(indices) > n_shown else ""
    return f"episodes {shown}{more}"


def current_path(directory: Path, name: str) -> Path:
    """Return where a file is, also if the process that was replacing it was killed."""
    if (directory / REWRITING_FILE).exists():
        rewritten = directory / (name + REWRITTEN)
        if rewritten.exists():
            return rewritten
    return directory / name


class PieceFile:
    """A data file of which pieces are read. Use it as a context manager."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._open(current_path(directory, name))

    @classmethod
    def at(cls, path: Path, name: str) -> PieceFile:
        """Open the file at a path."""
        file = object.__new__(cls)
        file.name = name
        file._open(path)
        return file

    def _open(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
            self.size = path.stat().st_size
        except FileNotFoundError:
            raise DamagedError("the file is missing") from None
        except OSError as error:
            raise DamagedError(f"the file cannot be read: {error.strerror or error}") from error

    def __enter__(self) -> PieceFile:
        """Return itself."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        exception_traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, piece: Piece) -> bytes:
        """Return the bytes of a piece. Raises ``DamagedError`` if they are not what was written."""
        data = self.read_at(piece.offset, piece.length)
        if checksum_of(data) != piece.checksum:
            raise DamagedError(
                f"bytes {piece.offset:,} to {piece.offset + piece.length:,} do not fit their"
                " checksum"
            )
        return data

    def read_spans(self, piece: Piece, spans: Sequence[tuple[int, int]]) -> bytes:
        """Return the bytes of a piece that was taken apart; ``spans`` are offsets and lengths."""
        data = b"".join(self.read_at(offset, length) for offset, length in _joined(spans))
        if checksum_of(data) != piece.checksum:
            raise DamagedError("lines do not fit their checksum")
        return data

    def read_at(self, offset: int, length: int) -> bytes:
        """Return bytes, all of them."""
        if offset + length > self.size:
            raise DamagedError(
                f"it ends at byte {self.size:,}, and {offset + length:,} were written"
            )
        try:
            self._file.seek(offset)
            data = self._file.read(length)
        except (OSError, MemoryError) as error:
            raise DamagedError(f"it cannot be read: {error}") from error
        if len(data) < length:
            raise DamagedError(f"it ends before byte {offset + length:,}, which was written")
        return data


def _joined(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join spans that follow each other."""
    start = length = 0
    for next_start, next_length in spans:  # Plain integers or numpy's.
        if next_start == start + length:
            length += next_length
        else:
            if length:
                yield start, length
            start, length = next_start, next_length
    if length:
        yield start, length


def find_damage(directory: Path, journal: Journal) -> Iterator[Damage]:
    """Compare the journal and the data files with their checksums."""
    for entry in journal.damaged:
        yield Damage(
            JOURNAL_FILE,
            f"the line at byte {entry.offset:,} does not fit its checksum; the episodes that it"
            " listed are not known",
        )
    if journal.n_unfinished_bytes:
        yield Damage(
            JOURNAL_FILE,
            f"{journal.n_unfinished_bytes:,} bytes after the last whole line were not finished",
            is_unfinished=True,
        )
    if not journal.run:
        yield Damage(JOURNAL_FILE, "the first line, which says what was asked for, is missing")
    layouts = layouts_of(journal)
    names = {name for entry in journal.entries for name in entry.pieces} | set(journal.heads)
    for name in sorted(names):
        if name.startswith(TRAJECTORY_FOLDER):
            yield from _damage_of_stream(directory, name, journal)
        elif name in layouts:
            yield from _damage_of_log(directory, name, journal, *layouts[name])
    for folder, pattern in ((TRAJECTORY_FOLDER, "steps_*.arrow"), (EVENT_FOLDER, "*.tsv")):
        for path in sorted((directory / folder).glob(pattern)):
            name = f"{folder}/{path.name}"
            if name not in names:
                yield Damage(name, "the journal does not know this file", is_unfinished=True)
    n_parts = Counter(entry.part_of[:2] for entry in journal.entries if entry.part_of is not None)
    for entry in journal.entries:
        for index, parts in entry.parts.items():
            there = n_parts[index, parts.token]
            if there != parts.n_parts:
                what = f"{there} of {parts.n_parts} parts of a long episode are listed"
                yield Damage(JOURNAL_FILE, what, (index,))


def _damage_of_stream(directory: Path, name: str, journal: Journal) -> Iterator[Damage]:
    head = journal.heads.get(name)
    end = 0 if head is None else len(head)
    pieces = [(entry, entry.pieces[name]) for entry in journal.entries if name in entry.pieces]
    try:
        with PieceFile(directory, name) as file:
            if head is not None and _read_or_none(file, len(head)) != head:
                yield Damage(name, "the beginning, which describes its columns, was changed")
            for entry, piece in pieces:
                end = max(end, piece.offset + piece.length)
                try:
                    file.read(piece)
                except DamagedError as error:
                    yield Damage(name, str(error), tuple(entry.data_indices))
            yield from _rest(file, end, journal, END_OF_STREAM)
    except DamagedError as error:
        indices = {index for entry, _ in pieces for index in entry.data_indices}
        yield Damage(name, str(error), tuple(sorted(indices)))


def _damage_of_log(
    directory: Path,
    name: str,
    journal: Journal,
    layout: EventLayout,
    places: Sequence[tuple[int, int]],
) -> Iterator[Damage]:
    head = journal.heads[name]
    try:
        with PieceFile(directory, name) as file:
            if _read_or_none(file, len(head)) != head:
                yield Damage(name, "the first line, which names its columns, was changed")
            yield from settle_layout(file, journal, layout, places)
            yield from _rest(file, layout.size, journal, b"")
    except DamagedError as error:
        indices = {i for position, _ in places for i in journal.entries[position].data_indices}
        yield Damage(name, str(error), tuple(sorted(indices)))


def settle_layout(
    file: PieceFile, journal: Journal, layout: EventLayout, places: Sequence[tuple[int, int]]
) -> list[Damage]:
    """Find out whether a log stands as the journal says, or was put in order just before the end.

    In the latter case, the layout is changed accordingly.

    Returns:
        What does not fit its checksum.
    """
    damage = _damage_by_layout(file, journal, layout, places)
    if damage and journal.finished is None and not layout.is_sorted():
        in_order = layout.copy()
        in_order.sort()
        if not _damage_by_layout(file, journal, in_order, places):
            layout.sort()
            return []
    return damage


def _damage_by_layout(
    file: PieceFile, journal: Journal, layout: EventLayout, places: Sequence[tuple[int, int]]
) -> list[Damage]:
    damage: list[Damage] = []
    offsets, sizes = layout.offsets(), layout.sizes()
    for position, first_text in places:
        entry = journal.entries[position]
        piece = entry.pieces[file.name]
        texts = slice(first_text, first_text + len(piece.sizes))
        try:
            file.read_spans(piece, list(zip(offsets[texts], sizes[texts], strict=True)))
        except DamagedError as error:
            damage.append(Damage(file.name, str(error), tuple(entry.data_indices)))
    return damage


def _rest(file: PieceFile, end: int, journal: Journal, closing: bytes) -> Iterator[Damage]:
    """Look at what comes after the last piece."""
    rest = file.size - end
    if rest == len(closing) and file.read_at(end, rest) == closing:
        return
    if rest > 0:
        is_damage = journal.finished is not None
        how = "added" if is_damage else "not finished"
        what = f"{rest:,} bytes after the last episode were {how}"
        yield Damage(file.name, what, is_unfinished=not is_damage)
    elif rest == 0 and journal.finished is not None:
        yield Damage(file.name, "the mark at its end is missing")


def _read_or_none(file: PieceFile, length: int) -> bytes | None:
    try:
        return file.read_at(0, length)
    except DamagedError:
        return None
