"""Taking up a directory whose run has ended, in whatever way.

What counts is kept, what was not finished is cut off, and what is damaged is taken out, so that its
episodes are missing and can be played again. Taking something out means writing the files anew:
first beside the old ones, then a list of them, and only then do they take their places. If that is
interrupted, it is gone on with the next time; the list says how.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from maze.core.episode import EpisodeRow
from maze.core.errors import OutputError
from maze.core.ledger.check import (
    REWRITING_FILE,
    REWRITTEN,
    Damage,
    DamagedError,
    PieceFile,
    find_damage,
    settle_layout,
)
from maze.core.ledger.data_files import EventLayout, layouts_of
from maze.core.ledger.journal import (
    EPISODES_FILE,
    EVENT_FOLDER,
    JOURNAL_FILE,
    STATISTICS_FILE,
    TRAJECTORY_FOLDER,
    Entry,
    Journal,
    checksum_of,
    encode_line,
    parse_line,
)

REPLACED_FILE = "replaced.jsonl"
"""The rows of episodes that were played again, as they had been."""

_N_END_BYTES = 8


@dataclass(frozen=True)
class Recovered:
    """A directory that can be written to again."""

    journal: Journal
    sizes: Mapping[str, int]
    """How many bytes of each data file count."""
    layouts: Mapping[str, EventLayout]
    is_sorted_since: bool
    """Whether an event log is in episode order although no line of the journal says so."""
    damage: tuple[Damage, ...] = ()
    """What was not as it had been written."""
    forgotten: tuple[int, ...] = ()
    """Episodes that were taken out, to be played again."""


def recover(directory: Path, retry: Callable[[str], bool] | None = None) -> Recovered:
    """Make a directory fit to go on.

    Args:
        directory: its lock has to be held.
        retry: chooses from an episode's ending whether to take it out.

    Raises:
        OutputError: If it holds no run, or one that cannot be understood.
    """
    finish_rewriting(directory)
    path = directory / JOURNAL_FILE
    if not path.exists():
        raise OutputError(f"{directory} holds no run that could be resumed: it has no {path.name}")
    journal = Journal(path)
    if not journal.run:
        raise OutputError(
            f"the first line of {path} is damaged or missing, and without it nobody knows what was"
            " played. What is recorded can still be read (maze.load)"
        )
    _refuse_links(directory, journal)
    _find_heads(directory, journal)
    damage = tuple(find_damage(directory, journal))
    drop = {index for one in damage for index in one.episode_indices}
    if retry is not None:
        for columns in journal.batches:
            endings = zip(columns["episode_index"], columns["ending"], strict=True)
            drop.update(index for index, ending in endings if retry(ending))
    for name in _unknown_files(directory, journal):
        (directory / name).unlink()
    if drop or any(not one.is_unfinished for one in damage) or has_orphans(journal):
        recovered = rewrite(directory, journal, drop)
        forgotten = tuple(sorted(drop & set(journal.episode_indices().tolist())))
        return Recovered(
            recovered.journal, recovered.sizes, recovered.layouts, False, damage, forgotten
        )
    return _as_it_is(directory, journal, damage)


def has_orphans(journal: Journal) -> bool:
    """Return whether there are parts of episodes that did not come to an end."""
    counted = _counted_plays(journal)
    return any(
        entry.part_of is not None and entry.part_of[:2] not in counted for entry in journal.entries
    )


def finish_rewriting(directory: Path) -> None:
    """Go on with what was interrupted: files that were to take the place of others."""
    marker = directory / REWRITING_FILE
    if marker.exists():
        try:
            names = json.loads(marker.read_text(encoding="utf-8"))
            assert isinstance(names, list)
        except (ValueError, AssertionError):
            names = []  # It is written at once, so somebody else has changed it.
        remove_tables(directory)  # They may list what is taken out.
        known = {JOURNAL_FILE}
        for name in names:
            folder, _, rest = str(name).partition("/")
            is_data = folder in (TRAJECTORY_FOLDER, EVENT_FOLDER) and rest and "/" not in rest
            rewritten = directory / f"{name}{REWRITTEN}"
            if (is_data or name in known) and rewritten.exists():
                os.replace(rewritten, directory / name)
        marker.unlink()
    for folder in (".", TRAJECTORY_FOLDER, EVENT_FOLDER):
        for path in (directory / folder).glob(f"*{REWRITTEN}"):
            path.unlink()


def remove_tables(directory: Path) -> None:
    """Remove what is made of the journal at the end of a run."""
    for name in (STATISTICS_FILE, EPISODES_FILE):
        (directory / name).unlink(missing_ok=True)


def rewrite(directory: Path, journal: Journal, drop: Collection[int]) -> Recovered:
    """Write journal and data files anew, without some episodes and without orphans."""
    new = _Rewriting(directory, journal, frozenset(drop))
    new.write()
    _write_durably(directory / REWRITING_FILE, json.dumps(new.names).encode())
    finish_rewriting(directory)
    return _as_it_is(directory, Journal(directory / JOURNAL_FILE), ())


def _as_it_is(directory: Path, journal: Journal, damage: tuple[Damage, ...]) -> Recovered:
    sizes = {name: len(head) for name, head in journal.heads.items()}
    for entry in journal.entries:
        for name, piece in entry.pieces.items():
            sizes[name] = max(sizes[name], piece.offset + piece.length)
    layouts: dict[str, EventLayout] = {}
    is_sorted_since = False
    for name, (layout, places) in layouts_of(journal).items():
        was_sorted = layout.is_sorted()
        with PieceFile(directory, name) as file:
            settle_layout(file, journal, layout, places)
        is_sorted_since = is_sorted_since or layout.is_sorted() != was_sorted
        layouts[name] = layout
        sizes[name] = layout.size
    return Recovered(journal, sizes, layouts, is_sorted_since, damage)


class _Rewriting:
    def __init__(self, directory: Path, journal: Journal, drop: frozenset[int]) -> None:
        self._directory = directory
        self._journal = journal
        self._drop = drop
        self.names = [*journal.heads, JOURNAL_FILE]
        self._sizes: dict[str, int] = {}
        self._counted = _counted_plays(journal)

    def write(self) -> None:
        journal, directory = self._journal, self._directory
        sources: dict[str, PieceFile] = {}
        targets: dict[str, BinaryIO] = {}
        layouts = layouts_of(journal)
        try:
            for name, head in journal.heads.items():
                (directory / name).parent.mkdir(exist_ok=True)
                targets[name] = (directory / (name + REWRITTEN)).open("wb")
                targets[name].write(head)
                self._sizes[name] = len(head)
                try:
                    sources[name] = PieceFile(directory, name)
                except DamagedError:
                    continue  # All its episodes are dropped.
                if name in layouts:
                    settle_layout(sources[name], journal, *layouts[name])
            first_texts = {
                (name, position): first
                for name, (_, places) in layouts.items()
                for position, first in places
            }
            places = {
                name: (layout.offsets(), layout.sizes()) for name, (layout, _) in layouts.items()
            }
            with (
                (directory / (JOURNAL_FILE + REWRITTEN)).open("wb") as target,
                journal.path.open("rb") as source,
            ):
                target.write(encode_line(journal.run))
                for name, head in journal.heads.items():
                    encoded = base64.b64encode(head).decode()
                    target.write(encode_line({"kind": "file", "file": name, "head": encoded}))
                for position, entry in enumerate(journal.entries):
                    if entry.kind not in ("episodes", "part", "resumed", "warning"):
                        continue
                    source.seek(entry.offset)
                    fields = parse_line(source.read(entry.length))
                    kept = self._kept(entry)
                    if entry.kind == "episodes" and not all(kept):
                        self._archive(fields, kept)
                        fields = _filtered(fields, kept)
                    if entry.kind in ("episodes", "part") and not any(kept):
                        continue
                    files: dict[str, list[Any]] = {}
                    for name, piece in entry.pieces.items():
                        if name in layouts:
                            first = first_texts[name, position]
                            texts = slice(first, first + len(piece.sizes))
                            offsets, sizes = (column[texts] for column in places[name])
                            data = b"".join(
                                sources[name].read_at(int(offset), int(size))
                                for offset, size, is_kept in zip(offsets, sizes, kept, strict=True)
                                if is_kept
                            )
                            new_sizes = [
                                s for s, is_kept in zip(piece.sizes, kept, strict=True) if is_kept
                            ]
                            files[name] = [*self._place(name, data), new_sizes]
                        else:
                            data = sources[name].read(piece)
                            if not all(kept):
                                data = _without_episodes(journal.heads[name], data, self._drop)
                            if data:
                                files[name] = self._place(name, data)
                        targets[name].write(data)
                    target.write(encode_line({**fields, "files": files} if files else fields))
                target.flush()
                os.fsync(target.fileno())
            for file in targets.values():
                file.flush()
                os.fsync(file.fileno())
        finally:
            for source_file in sources.values():
                source_file.close()
            for file in targets.values():
                file.close()

    def _place(self, name: str, data: bytes) -> list[Any]:
        place = [self._sizes[name], len(data), checksum_of(data)]
        self._sizes[name] += len(data)
        return place

    def _kept(self, entry: Entry) -> list[bool]:
        if entry.part_of is not None:
            is_dropped = entry.part_of.episode_index in self._drop
            return [not is_dropped and entry.part_of[:2] in self._counted]
        return [index not in self._drop for index in entry.data_indices]

    def _archive(self, fields: Mapping[str, Any], kept: list[bool]) -> None:
        """Keep what the journal said of the episodes that are taken out."""
        gone = _filtered(fields, [not is_kept for is_kept in kept])
        gone = {k: v for k, v in gone.items() if k not in ("files", "parts", "warnings")}
        with (self._directory / REPLACED_FILE).open("ab") as file:
            file.write(encode_line(gone))


def _filtered(fields: Mapping[str, Any], kept: list[bool]) -> dict[str, Any]:
    """Return an ``episodes`` line with some of its rows."""
    filtered = dict(fields)
    for name in EpisodeRow._fields:
        if isinstance(filtered[name], list):
            pairs = zip(filtered[name], kept, strict=True)
            filtered[name] = [value for value, is_kept in pairs if is_kept]
    indices = set(map(str, filtered["episode_index"]))
    if "parts" in filtered:
        filtered["parts"] = {i: p for i, p in filtered["parts"].items() if i in indices}
    filtered.pop("files", None)
    return filtered


def _without_episodes(head: bytes, message: bytes, drop: frozenset[int]) -> bytes:
    """Return the record batch messages of a piece without the rows of some episodes."""
    buffer = pa.py_buffer(head + message)
    table = pa.ipc.open_stream(buffer).read_all()
    indices = table.column("episode_index").to_numpy()
    kept = ~np.isin(indices, list(drop))
    if not kept.any():
        return b""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        for batch in table.filter(pa.array(kept)).combine_chunks().to_batches():
            writer.write_batch(batch)
    stream = sink.getvalue()
    return stream.slice(len(head), stream.size - len(head) - _N_END_BYTES).to_pybytes()


def _counted_plays(journal: Journal) -> set[tuple[int, int]]:
    """Return index and token of the long episodes that came to their end."""
    return {
        (index, parts.token) for entry in journal.entries for index, parts in entry.parts.items()
    }


def _find_heads(directory: Path, journal: Journal) -> None:
    """Take the head of a file from the file, where the line of the journal with it is damaged."""
    names = {name for entry in journal.entries for name in entry.pieces}
    for name in sorted(names - set(journal.heads)):
        starts = [entry.pieces[name].offset for entry in journal.entries if name in entry.pieces]
        try:
            with PieceFile(directory, name) as file:
                journal.heads[name] = file.read_at(0, min(starts))
        except DamagedError:
            journal.heads[name] = b""


def _unknown_files(directory: Path, journal: Journal) -> Iterator[str]:
    """Yield the files that were begun, and of which the journal does not know."""
    for folder, pattern in ((TRAJECTORY_FOLDER, "steps_*.arrow"), (EVENT_FOLDER, "*.tsv*")):
        for path in sorted((directory / folder).glob(pattern)):
            name = f"{folder}/{path.name}"
            if name not in journal.heads:
                yield name


def _refuse_links(directory: Path, journal: Journal) -> None:
    """Write to nothing outside of the directory."""
    names = [JOURNAL_FILE, TRAJECTORY_FOLDER, EVENT_FOLDER, *journal.heads]
    for name in names:
        if (directory / name).is_symlink():
            raise OutputError(
                f"{directory / name} is a symbolic link: runs are resumed only in files of their"
                " own. Copy the directory"
            )


def _write_durably(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".writing")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
