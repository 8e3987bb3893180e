"""The journal of a run: the file that makes an episode count.

The data of a batch of episodes is appended to the data files first, and then a line to
``journal.jsonl`` that holds the rows of the episodes and says where the data is and what its
checksum is. So an episode is recorded exactly if a whole line of the journal says so. What a
killed process, a full disk or a power cut left half done is not in the journal, or does not fit its
checksum.

Each line is a JSON object that begins with the checksum of the rest of the line:

    {"checksum": "0f1e2d3c4b5a6978", "kind": "episodes", "episode_index": [0, 1], ...}

Kinds of lines: ``run`` (the first: what was asked for), ``file`` (a data file was begun),
``episodes``, ``part`` (of a long episode that goes on), ``sorted`` (the event logs were put into
episode order), ``warning``, ``resumed``, and ``finished``.
"""

from __future__ import annotations

import base64
import json
import math
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from maze.core.episode import EpisodeBatch, EpisodeRow, PartID, Parts
from maze.core.episode_table import read_failure
from maze.core.errors import OutputError

JOURNAL_FILE = "journal.jsonl"
TRAJECTORY_FOLDER = "trajectory_data"
EVENT_FOLDER = "event_logs"
EPISODES_FILE = "episodes.parquet"
STATISTICS_FILE = "statistics.json"
FORMAT_VERSION = 1
"""Raised when a journal could be misread by older versions of Maze."""

_BEFORE, _AFTER = b'{"checksum": "', b'", '
_N_DIGITS = 16
_START = len(_BEFORE) + _N_DIGITS + len(_AFTER)
_LONGEST_LINE = 2**26
"""Bytes. A line holds the rows of some thousand episodes at most."""


def checksum_of(data: bytes | memoryview) -> str:
    """Return the checksum by which damaged data is recognised: xxh3, 64 bits, hexadecimal."""
    return xxhash.xxh3_64_hexdigest(data)


class Piece(NamedTuple):
    """Where the data of a batch is in a file."""

    offset: int
    length: int
    """Bytes."""
    checksum: str
    sizes: Sequence[int] = ()
    """For event logs: the bytes of each episode of the batch. The log is put into episode order
    at the end of a run, and the pieces are found again by these."""


@dataclass(frozen=True)
class Entry:
    """A line of a journal, as far as it is needed to find data."""

    offset: int
    length: int
    """Bytes, with the newline."""
    kind: str
    """``damaged`` if the line does not fit its checksum or cannot be understood."""
    episode_indices: NDArray[np.int64]
    """Of an ``episodes`` line, in the order of the data."""
    pieces: Mapping[str, Piece] = field(default_factory=dict)
    """By path of the file within the directory."""
    part_of: PartID | None = None
    parts: Mapping[int, Parts] = field(default_factory=dict)

    @property
    def data_indices(self) -> Sequence[int]:
        """The episodes that its data is about."""
        if self.part_of is not None:
            return [self.part_of.episode_index]
        indices: list[int] = self.episode_indices.tolist()
        return indices


_NO_INDICES = np.zeros(0, dtype=np.int64)


class Journal:
    """A journal that is read.

    Args:
        path: of the file. A last line that was not finished is left out, and damaged lines are
            noted; both can be told from ``n_unfinished_bytes`` and ``entries``.

    Raises:
        OutputError: If the file cannot be read, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.heads: dict[str, bytes] = {}
        """What each data file begins with, before the first piece."""
        self.run: dict[str, Any] = {}
        """The first line: ``config``, ``versions``, ``n_episodes``."""
        self.resumed: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        """What the user was told about how the episodes were played."""
        self.finished: dict[str, Any] | None = None
        """The last line of a run that came to its end, interrupted or not."""
        self.n_unfinished_bytes = 0
        """After the last whole line."""
        self.size = 0
        """Bytes up to the end of the last whole line."""
        try:
            with path.open("rb") as file:
                self._read(file)
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
        version = self.run.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise OutputError(
                f"{path} has format version {version}, and this version of Maze reads"
                f" {FORMAT_VERSION}: install another one"
            )

    @property
    def damaged(self) -> list[Entry]:
        """The lines that do not fit their checksum."""
        return [entry for entry in self.entries if entry.kind == "damaged"]

    @property
    def batches(self) -> Batches:
        """The rows of the episodes, by batch."""
        lines = [(line.offset, line.length) for line in self.entries if line.kind == "episodes"]
        return Batches(self.path, lines)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the episodes were played with, last."""
        for line in [*reversed(self.resumed), self.run]:
            if isinstance(line.get("config"), dict):
                return dict(line["config"])
        return {}

    @property
    def versions(self) -> dict[str, str]:
        """The versions of libraries with which the run was begun."""
        versions = self.run.get("versions")
        return {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}

    @property
    def n_requested(self) -> int | None:
        """How many episodes were asked for, last."""
        lines = [self.run, *self.resumed]
        numbers = [line["n_episodes"] for line in lines if isinstance(line.get("n_episodes"), int)]
        return numbers[-1] if numbers else None

    def episode_indices(self) -> NDArray[np.int64]:
        """Return the indices of all episodes, ascending, each once."""
        return np.unique(
            np.concatenate([_NO_INDICES, *(entry.episode_indices for entry in self.entries)])
        )

    def _read(self, file: BinaryIO) -> None:
        offset = 0
        while line := file.readline(_LONGEST_LINE):
            if not line.endswith(b"\n"):
                rest = len(line)
                while more := file.read(2**20):
                    rest += len(more)
                self.n_unfinished_bytes = rest
                break
            entry, fields = self._entry(offset, line)
            self.entries.append(entry)
            if entry.kind == "run" and not self.run:
                self.run = fields
            elif entry.kind == "resumed":
                self.resumed.append(fields)
            elif entry.kind in ("episodes", "warning"):
                self.warnings.extend(fields.get("warnings", ()))
            elif entry.kind == "file":
                self.heads.setdefault(fields["file"], base64.b64decode(fields["head"]))
            # What was played after it has to be finished anew.
            self.finished = fields if entry.kind == "finished" else None
            offset += len(line)
        self.size = offset

    def _entry(self, offset: int, line: bytes) -> tuple[Entry, dict[str, Any]]:
        try:
            fields = parse_line(line)
            return _entry(offset, len(line), fields), fields
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return Entry(offset, len(line), "damaged", _NO_INDICES), {}


def _entry(offset: int, length: int, fields: Mapping[str, Any]) -> Entry:
    """Understand a line. Its checksum is right, but anybody can write such a line."""
    kind = str(fields["kind"])
    indices, part_of, parts = _NO_INDICES, None, {}
    if kind == "file":
        _check_name(fields["file"])
        base64.b64decode(fields["head"], validate=True)
    elif kind == "episodes":
        indices = np.array(_expanded(fields, "episode_index"), dtype=np.int64)
        parts = {int(i): Parts(*map(int, p)) for i, p in fields.get("parts", {}).items()}
        _check_texts(fields.get("warnings", []))
        if indices.ndim != 1 or not len(indices) or indices.min() < 0:
            raise ValueError("episode indices")
    elif kind == "warning":
        _check_texts(fields["warnings"])
    elif kind == "part":
        part_of = PartID(*map(int, fields["part_of"]))
    pieces: dict[str, Piece] = {}
    for name, (start, n_bytes, checksum, *sizes) in fields.get("files", {}).items():
        _check_name(name)
        of_each = array("q", sizes[0]) if sizes else ()
        piece = Piece(int(start), int(n_bytes), str(checksum), of_each)
        n_episodes = len(indices) if part_of is None else 1
        if name.startswith(EVENT_FOLDER) and (
            len(piece.sizes) != n_episodes
            or min(piece.sizes) < 0
            or sum(piece.sizes) != piece.length
        ):
            raise ValueError("sizes")
        if piece.offset < 0 or piece.length < 0:
            raise ValueError("place")
        pieces[name] = piece
    return Entry(offset, length, kind, indices, pieces, part_of, parts)


def _check_texts(texts: Sequence[str]) -> None:
    if not isinstance(texts, list) or not {str}.issuperset(map(type, texts)):
        raise ValueError("there is something else where texts should be")


def _check_name(name: str) -> None:
    """Refuse a name that leads out of the directory."""
    folder, _, file = name.partition("/")
    if folder not in (TRAJECTORY_FOLDER, EVENT_FOLDER) or not file or "/" in file or "\\" in file:
        raise ValueError(f"{name!r} is no data file")


class Batches(Sequence[Mapping[str, Sequence[Any]]]):
    """The rows of each ``episodes`` line by column, parsed when they are asked for.

    Args:
        path: of the journal.
        lines: offset and length of each of these lines.
    """

    def __init__(self, path: Path, lines: Sequence[tuple[int, int]]) -> None:
        self._path = path
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return Batches(self._path, self.lines[position])
        with self._path.open("rb") as file:
            return self._parsed(file, *self.lines[position])

    def __iter__(self) -> Iterator[Mapping[str, Sequence[Any]]]:
        with self._path.open("rb") as file:
            for offset, length in self.lines:
                yield self._parsed(file, offset, length)

    def _parsed(self, file: BinaryIO, offset: int, length: int) -> dict[str, Sequence[Any]]:
        file.seek(offset)
        try:
            return columns_of(parse_line(file.read(length)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise OutputError(
                f"{self._path} at byte {offset} holds no rows of episodes: {error}"
            ) from error


class JournalWriter:
    """Appends to a journal, each line as a whole or not at all.

    Args:
        path: of the file.
        journal: what it holds. What comes after its last whole line is cut off.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        self._path = path
        self._file: BinaryIO = path.open("r+b", buffering=0)
        self._size = journal.size
        self._batches = list(journal.batches.lines)
        self._file.truncate(self._size)
        self._file.seek(self._size)

    @classmethod
    def begin(cls, path: Path, line: Mapping[str, Any]) -> JournalWriter:
        """Make a journal, which is there with its first line or not at all.

        Raises:
            FileExistsError: If there is one.
        """
        if path.exists():
            raise FileExistsError(path)
        temporary = path.with_name(path.name + ".writing")
        temporary.write_bytes(encode_line({"kind": "run", **line}))
        os.replace(temporary, path)
        return cls(path, Journal(path))

    @property
    def batches(self) -> Batches:
        """The rows of the episodes that were written, by batch."""
        return Batches(self._path, self._batches)

    def write(self, kind: str, line: Mapping[str, Any]) -> None:
        """Append a line. Raises ``OSError`` if that cannot be done; it is not there then."""
        data = encode_line({"kind": kind, **line})
        try:
            write_all(self._file, data)
        except BaseException:
            # Half a line would spoil the one after it.
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        if kind == "episodes":
            self._batches.append((self._size, len(data)))
        self._size += len(data)

    def write_batch(self, batch: EpisodeBatch, pieces: Mapping[str, Piece]) -> None:
        """Append the line for episodes, or for a part of one, whose data was written."""
        files = {
            name: [
                piece.offset,
                piece.length,
                piece.checksum,
                *([tuple(piece.sizes)] if piece.sizes else []),
            ]
            for name, piece in pieces.items()
        }
        if batch.part_of is not None:
            self.write("part", {"part_of": batch.part_of, "files": files})
        elif batch.rows:
            self.write("episodes", {**fields_of(batch), "files": files})
        elif batch.warnings:
            self.write("warning", {"warnings": batch.warnings})

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write to an unbuffered file, which may take less than it is given at a time."""
    n_written = file.write(data)
    while n_written < len(data):
        n_written += file.write(memoryview(data)[n_written:])


def encode_line(fields: Mapping[str, Any]) -> bytes:
    """Return a line of a journal."""
    try:
        text = json.dumps(fields, allow_nan=False)
    except ValueError:
        # JSON has no NaN and no infinities: they become strings, and the line says that it has
        # such, so that others need not be looked through when they are read.
        text = json.dumps({"has_odd_numbers": True, **_without_odd_numbers(fields)})
    body = text.encode()[1:]
    return b"%s%s%s%s\n" % (_BEFORE, checksum_of(body).encode(), _AFTER, body)


def parse_line(line: bytes) -> dict[str, Any]:
    """Return what a line holds. Raises ``ValueError`` if it does not fit its checksum."""
    start, end = len(_BEFORE), len(_BEFORE) + _N_DIGITS
    body = line[_START:-1]
    if (
        line[:start] != _BEFORE
        or line[end:_START] != _AFTER
        or checksum_of(body).encode() != line[start:end]
    ):
        raise ValueError("the line does not fit its checksum")
    fields = json.loads(b"{" + body)
    assert isinstance(fields, dict)
    return fields


def fields_of(batch: EpisodeBatch) -> dict[str, Any]:
    """Return the rows as JSON: a list for each column, or ``{"all": value}`` if all are equal."""
    by_column = zip(*batch.rows, strict=True)
    columns: dict[str, Any] = dict(zip(EpisodeRow._fields, by_column, strict=True))
    if batch.zero_statistics:
        columns["zero_statistics"] = sorted(batch.zero_statistics)
    if any(columns["failure"]):
        columns["failure"] = [
            None if failure is None else asdict(failure) for failure in columns["failure"]
        ]
    # Most columns say the same of all: they are terminated, started once, and nothing was wrong.
    for name in EpisodeRow._fields:
        first = columns[name][0]
        if len(batch.rows) > 1 and columns[name].count(first) == len(batch.rows):
            columns[name] = {"all": first}
    if batch.parts:
        columns["parts"] = {str(index): parts for index, parts in batch.parts.items()}
    if batch.warnings:
        columns["warnings"] = batch.warnings
    return columns


def columns_of(fields: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Return the rows of an ``episodes`` line by column: the attributes of ``EpisodeRow``."""
    columns = {name: _expanded(fields, name) for name in EpisodeRow._fields}
    if fields.get("has_odd_numbers"):
        for name in ("episode_return", "seconds"):
            columns[name] = [float(value) for value in columns[name]]
        columns["statistics"] = [
            {name: float(value) for name, value in statistics.items()}
            for statistics in columns["statistics"]
        ]
    columns["failure"] = [
        None if failure is None else read_failure(failure) for failure in columns["failure"]
    ]
    columns["zero_statistics"] = fields.get("zero_statistics", ())
    _check_columns(columns)
    return columns


_INTEGERS = ("episode_index", "env_seed", "agent_seed", "n_steps", "attempts", "n_nan")
_NUMBERS = ("episode_return", "seconds")
_TEXTS = ("episode_id", "ending", "truncated_by", "digest", "error")


def _check_columns(columns: Mapping[str, Sequence[Any]]) -> None:
    """Refuse what no writer of ours has written."""
    if {len(columns[name]) for name in EpisodeRow._fields} != {len(columns["episode_index"])}:
        raise ValueError("its columns differ in length")
    for name in _INTEGERS:
        column = columns[name]
        if not {int}.issuperset(map(type, column)) or not 0 <= min(column) <= max(column) < 2**63:
            raise ValueError(f"{name} holds something else than numbers that count")
    numbers = [value for statistics in columns["statistics"] for value in statistics.values()]
    for column in (*(columns[name] for name in _NUMBERS), numbers):
        if not {int, float}.issuperset(map(type, column)):
            raise ValueError("there is something else where numbers should be")
    for name in (*_TEXTS, "zero_statistics"):
        if not {str}.issuperset(map(type, columns[name])):
            raise ValueError(f"{name} holds something else than texts")
    if not {"terminated", "truncated", "failed"}.issuperset(columns["ending"]):
        raise ValueError("there is an ending that is none")


def _expanded(fields: Mapping[str, Any], name: str) -> Sequence[Any]:
    column = fields[name]
    if not isinstance(column, dict):
        return list(column)
    of_each = fields["episode_index"]
    n_rows = 1 if isinstance(of_each, dict) else len(of_each)  # Indices are never all equal.
    return [column["all"]] * n_rows


def _without_odd_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _without_odd_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_odd_numbers(item) for item in value]
    return value
