"""A recorded episode as numpy arrays, and the streams that episodes are read from.

The format is described in ``docs/output_directory.md``. Nothing that is read here can run code.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.errors import MazeError, OutputError
from maze.core.ledger.check import DamagedError, PieceFile, current_path
from maze.core.ledger.journal import TRAJECTORY_FOLDER, Journal, checksum_of
from maze.core.trajectory.arrow_messages import body_length, check_declared_sizes
from maze.core.trajectory.columns import Leaf, from_plain, leaves
from maze.core.trajectory.space_json import space_from_json

Nested: TypeAlias = Any
"""Arrays (or lists, for ragged leaves) in the nesting of the space they come from: a dictionary
for a Dict, a tuple for a Tuple."""

METADATA_KEY = b"maze"
"""Where the schema of a trajectory file describes what is in it, as JSON."""

FORMAT_VERSION = 1
"""Raised when files of this format could be misread by older versions of Maze."""

_N_PREFIX_BYTES = 8
_CONTINUATION = 0xFFFFFFFF
_LARGEST_SCHEMA = 2**28

# What comes of reading as something what is something else.
_MALFORMED = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError),
    *(OverflowError, MemoryError, AssertionError, struct.error, MazeError),
)


@dataclass(frozen=True)
class StepTrajectory:
    """What was seen and done in the sub-steps of one step key in one episode."""

    observations: Nested
    """A row for each observation: ``{"observation": (T + 1, ...)}`` for a plain environment."""
    actions: Nested
    """A row for each action: ``{"action": (T, ...)}`` for a plain environment."""
    rewards: NDArray[np.float64]
    """Shape (T,); the rewards of these actions."""
    steps: NDArray[np.int32]
    """Shape (number of observations,): index of the sub-step, counted over all step keys."""
    env_times: NDArray[np.int32]
    """Shape (number of observations,): the structured step it belongs to."""
    agent_ids: NDArray[np.int32]
    """Shape (number of observations,): which agent saw the observation."""


@dataclass(frozen=True)
class Trajectory:
    """The recorded data of one episode.

    For environments with one step key, ``observations``, ``actions`` and ``rewards`` are those of
    ``by_step_key``'s only entry, and a plain environment's are arrays instead of dictionaries of
    one array.
    """

    episode_index: int
    terminated: bool
    truncated: bool
    by_step_key: Mapping[StepKey, StepTrajectory]

    @property
    def observations(self) -> Nested:
        """The observations: T + 1 of them, the last one being what follows the last action."""
        return _only_value(self._only.observations, "observation")

    @property
    def actions(self) -> Nested:
        """The actions: T of them."""
        return _only_value(self._only.actions, "action")

    @property
    def rewards(self) -> NDArray[np.float64]:
        """Shape (T,): the reward that followed each action, in order, over all step keys."""
        parts = [
            (part.steps[: len(part.rewards)], part.rewards) for part in self.by_step_key.values()
        ]
        steps = np.concatenate([steps for steps, _ in parts])
        return np.concatenate([rewards for _, rewards in parts])[np.argsort(steps, kind="stable")]

    def __len__(self) -> int:
        return sum(len(part.rewards) for part in self.by_step_key.values())

    def __repr__(self) -> str:
        ending = "terminated" if self.terminated else "truncated" if self.truncated else "cut off"
        total = float(self.rewards.sum())
        keys = ", ".join(map(repr, self.by_step_key))
        return (
            f"<Trajectory of episode {self.episode_index}: {len(self)} steps, return {total:g},"
            f" {ending}, step keys: {keys}>"
        )

    @property
    def _only(self) -> StepTrajectory:
        if len(self.by_step_key) != 1:
            raise AttributeError(
                f"the episode has the step keys {list(self.by_step_key)}: use"
                " trajectory.by_step_key[...].observations and .actions"
            )
        return next(iter(self.by_step_key.values()))


class _Place(NamedTuple):
    """Where the data of an episode is in a file: a piece, which others may share."""

    offset: int
    length: int
    checksum: str
    """Empty where nobody vouches for it."""


class StepsStream:
    """A file of recorded steps, indexed by episode.

    Reads what is whole, also while a run goes on or after it was killed. With a journal, what it
    lists is found by it and compared with its checksums, whatever happened to the rest of the
    file; without, whole record batches are looked for one after the other.

    Args:
        path: of the file.
        journal: of the run.
        name: of the file in the journal.

    Raises:
        OutputError: If nobody can tell what is in the file.
    """

    def __init__(self, path: Path, journal: Journal | None = None, name: str = "") -> None:
        self.path = path
        self.name = name
        head = None if journal is None else journal.heads.get(name)
        try:
            self._head = head if head else _head_of(path)
            self._schema = pa.ipc.read_schema(pa.py_buffer(self._head))
            description = json.loads((self._schema.metadata or {})[METADATA_KEY])
            if description["format_version"] > FORMAT_VERSION:
                raise OutputError(
                    f"{path} has format version {description['format_version']}, and this version"
                    f" of Maze reads up to {FORMAT_VERSION}: install a newer one"
                )
            self.description: dict[str, Any] = description
            self.step_key: StepKey = description["step_key"]
            self.observation_space = space_from_json(description["observation_space"])
            self.action_space = space_from_json(description["action_space"])
        except (OSError, EOFError, pa.ArrowException, *_MALFORMED) as error:
            raise OutputError(f"{path} holds no trajectory data of Maze: {error}") from error
        self.observation_leaves = leaves(self.observation_space, "observation")
        self.action_leaves = leaves(self.action_space, "action")
        self._batches: tuple[_Place, list[pa.RecordBatch]] | None = None
        self._failed: tuple[_Place, DamagedError] | None = None
        self._listed = _Listing(journal, name)
        self._changed: set[_Place] = set()
        """Places whose data did not fit its checksum when it was read."""

    def episode_indices(self) -> list[int]:
        """Return the indices of the episodes that are there, in order.

        With a journal, episodes that failed before their first observation are among them.
        """
        return self._listed.episode_indices.tolist() if self._listed else sorted(self._found)

    def vouches_for(self, episode_index: int) -> bool:
        """Return whether what ``rows`` returns fits the checksums that the journal lists.

        Else, it is what could be decoded, and has to be compared with the episode's digest.
        """
        return self._listed.places(episode_index) is not None and not self.is_changed(episode_index)

    def is_changed(self, episode_index: int) -> bool:
        """Return whether data that ``rows`` has read did not fit the checksum in the journal."""
        return not self._changed.isdisjoint(self._listed.places(episode_index) or ())

    def rows(self, episode_index: int) -> pa.Table | None:
        """Return the rows of an episode; ``None`` if it has none here.

        Raises:
            OutputError: If its data is damaged.
        """
        parts = list(self.parts(episode_index))
        return pa.Table.from_batches(parts) if parts else None

    def parts(self, episode_index: int) -> Iterator[pa.RecordBatch]:
        """Iterate over the rows of an episode in pieces: a long one need not be in memory whole.

        Raises:
            OutputError: If its data is damaged.
        """
        places = self._listed.places(episode_index)
        if places is None:
            places = self._found.get(episode_index, [])
        try:
            for place in places:
                yield from self._rows_at(place, episode_index)
        except DamagedError as error:
            raise OutputError(
                f"the data of episode {episode_index} in {self.path} is damaged: {error}"
            ) from error

    def rows_in(
        self, offset: int, length: int, checksum: str, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the rows of a piece that a journal lists, of all of its episodes.

        Args:
            offset: where the piece begins.
            length: of the piece, in bytes.
            checksum: of its data.
            columns: names of those that are wanted; no other one is decompressed. ``None``: all.

        Raises:
            OutputError: If the data is damaged.
        """
        place = _Place(offset, length, checksum)
        try:
            data = self._data_at(place)
            if place in self._changed:
                raise DamagedError("it does not fit its checksum")
            if columns is None:
                return pa.Table.from_batches(self._decoded(data), self._schema)
            for _ in _checked_messages(data):
                pass  # Before anything is decompressed.
            fields = [self._schema.get_field_index(name) for name in columns]
            options = pa.ipc.IpcReadOptions(included_fields=fields)
            with pa.ipc.open_stream(pa.BufferReader(self._head + data), options=options) as reader:
                return reader.read_all()
        except (DamagedError, OSError, pa.ArrowException, *_MALFORMED) as error:
            raise OutputError(f"{self.path} is damaged at byte {offset:,}: {error}") from error

    def table(self) -> pa.Table:
        """Return all whole rows, in the order of the file. Needs memory for all of them."""
        places = self._listed.all_places()
        if not self._listed:
            places = {place for of_episode in self._found.values() for place in of_episode}
        batches = [batch for place in sorted(places) for batch in self._read(place)]
        return pa.Table.from_batches(batches, self._schema)

    def _rows_at(self, place: _Place, episode_index: int) -> Iterator[pa.RecordBatch]:
        for batch in self._read(place):
            rows = np.flatnonzero(batch.column(0).to_numpy() == episode_index)
            if len(rows):
                yield batch.slice(int(rows[0]), int(rows[-1] - rows[0]) + 1)

    def _read(self, place: _Place) -> list[pa.RecordBatch]:
        # Episodes next to each other are mostly in one batch: it is decompressed once.
        if self._failed is not None and self._failed[0] == place:
            raise self._failed[1]
        if self._batches is None or self._batches[0] != place:
            try:
                self._batches = place, self._decoded(self._data_at(place))
            except DamagedError as error:
                self._failed = place, error
                raise
        return self._batches[1]

    def _data_at(self, place: _Place) -> bytes:
        with PieceFile.at(self.path, self.name) as file:
            data = file.read_at(place.offset, place.length)
        # A few changed bytes may spoil one of the episodes that share them, and not the others.
        if place.checksum and checksum_of(data) != place.checksum:
            self._changed.add(place)
        return data

    def _decoded(self, data: bytes) -> list[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = []
        try:
            for message in _checked_messages(data):
                batch = pa.ipc.read_record_batch(message, self._schema)
                batch.validate(full=True)
                batches.append(batch)
        except (OSError, EOFError, pa.ArrowException, *_MALFORMED) as error:
            raise DamagedError(f"it cannot be decoded: {error}") from error
        return batches

    @cached_property
    def _found(self) -> dict[int, list[_Place]]:
        """Where episodes are by the record batches found outside of what a journal lists."""
        found: dict[int, list[_Place]] = {}
        taken = sorted(place[:2] for place in self._listed.all_places())
        start = len(self._head)
        try:
            size = self.path.stat().st_size
        except OSError:
            return found
        for offset, length in [*taken, (size, 0)]:
            if start < offset:
                for place, batches in self._walk(start, min(offset, size)):
                    for batch in batches:
                        for index in np.unique(batch.column(0).to_numpy()).tolist():
                            found.setdefault(index, []).append(place)
            start = max(start, offset + length)
        return found

    def _walk(self, start: int, stop: int) -> Iterator[tuple[_Place, list[pa.RecordBatch]]]:
        with PieceFile.at(self.path, self.name) as file:
            while start + _N_PREFIX_BYTES <= stop:
                try:
                    marker, n_metadata = struct.unpack("<Ii", file.read_at(start, _N_PREFIX_BYTES))
                    if marker != _CONTINUATION or n_metadata <= 0:
                        return
                    metadata = file.read_at(start + _N_PREFIX_BYTES, n_metadata)
                    length = _N_PREFIX_BYTES + n_metadata + body_length(metadata)
                    if start + length > stop:
                        return  # It is not whole (yet).
                    batches = self._decoded(file.read_at(start, length))
                except (DamagedError, *_MALFORMED):
                    return
                yield _Place(start, length, ""), batches
                start += length

    def steps(self, episode_index: int) -> StepTrajectory | None:
        """Return the steps of an episode as arrays; ``None`` if it has none here."""
        table = self.rows(episode_index)
        if table is None:
            return None
        try:
            return self._steps(table)
        except (pa.ArrowException, *_MALFORMED) as error:
            raise OutputError(
                f"the data of episode {episode_index} in {self.path} cannot be understood: {error}"
            ) from error

    def _steps(self, table: pa.Table) -> StepTrajectory:
        rewards = table.column("reward").drop_null().to_numpy()
        n_actions = table.num_rows
        if self.action_leaves:
            n_actions -= table.column(self.action_leaves[0].name).null_count
        return StepTrajectory(
            observations=_nested(
                self.observation_space, self.observation_leaves, table, table.num_rows
            ),
            actions=_nested(self.action_space, self.action_leaves, table, n_actions),
            rewards=np.asarray(rewards, dtype=np.float64),
            steps=table.column("step").to_numpy(),
            env_times=table.column("env_time").to_numpy(),
            agent_ids=table.column("agent_id").to_numpy(),
        )

    def flags(self, episode_index: int) -> tuple[bool, bool]:
        """Return whether the episode terminated and was truncated by a step in this file."""
        table = self.rows(episode_index)
        if table is None:
            return False, False
        terminated, truncated = (
            any(table.column(name).to_pylist()) for name in ("terminated", "truncated")
        )
        return terminated, truncated


class _Listing:
    """Where a journal says that the data of each episode is in one file."""

    def __init__(self, journal: Journal | None, name: str) -> None:
        parts: dict[tuple[int, int], list[_Place]] = {}
        self._places: list[_Place | None] = []
        self._begun: dict[int, list[_Place]] = {}
        """By episode, of those that began with parts."""
        indices: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        for entry in [] if journal is None else journal.entries:
            piece = entry.pieces.get(name)
            place = None if piece is None else _Place(piece.offset, piece.length, piece.checksum)
            if entry.part_of is not None:
                if place is not None:
                    parts.setdefault(entry.part_of[:2], []).append(place)
            elif len(entry.episode_indices):
                indices.append(entry.episode_indices)
                self._places.append(place)
                for index, play in entry.parts.items():
                    self._begun[index] = parts.get((index, play.token), [])
        numbers = np.repeat(np.arange(len(self._places)), [len(of) for of in indices[1:]])
        arrived = np.concatenate(indices)
        order = np.argsort(arrived, kind="stable")
        self.episode_indices = arrived[order]
        """Ascending."""
        self._numbers = numbers[order]
        """By position in ``episode_indices``, in which batch it is."""

    def __contains__(self, episode_index: int) -> bool:
        return self.places(episode_index) is not None

    def __len__(self) -> int:
        return len(self.episode_indices)

    def places(self, episode_index: int) -> list[_Place] | None:
        """Return where an episode is; ``None`` if it is not listed."""
        position = int(np.searchsorted(self.episode_indices, episode_index, side="right")) - 1
        if position < 0 or self.episode_indices[position] != episode_index:
            return None
        place = self._places[self._numbers[position]]
        return [*self._begun.get(episode_index, []), *([] if place is None else [place])]

    def all_places(self) -> set[_Place]:
        """Return all places that are listed."""
        places = {place for place in self._places if place is not None}
        return places.union(*self._begun.values())


def _checked_messages(data: bytes) -> Iterator[Any]:
    """Yield the messages of record batches, none of which claims more memory than it can need."""
    source = pa.BufferReader(data)
    while source.tell() < len(data):
        message = pa.ipc.read_message(source)
        check_declared_sizes(message)
        yield message


def _head_of(path: Path) -> bytes:
    """Return the schema message that a stream begins with."""
    with path.open("rb") as file:
        marker, n_metadata = struct.unpack("<Ii", file.read(_N_PREFIX_BYTES))
        if marker != _CONTINUATION or not 0 < n_metadata <= _LARGEST_SCHEMA:
            raise ValueError("it does not begin with a schema")
        file.seek(0)
        return file.read(_N_PREFIX_BYTES + n_metadata)


def _nested(
    space: spaces.Space[Any], space_leaves: Sequence[Leaf], table: pa.Table, n: int
) -> Nested:
    values = {leaf.path: leaf_values(leaf, table, n) for leaf in space_leaves}

    def build(space: spaces.Space[Any], path: tuple[str | int, ...]) -> Nested:
        if isinstance(space, spaces.Dict):
            return {key: build(child, (*path, key)) for key, child in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(build(child, (*path, i)) for i, child in enumerate(space.spaces))
        return values[path]

    return build(space, ())


def leaf_values(leaf: Leaf, table: pa.Table | pa.RecordBatch, n: int) -> Any:
    """Return the first ``n`` values of a leaf: an array of shape (n, ...), or a list if ragged."""
    column: Any = table.column(leaf.name).slice(0, n)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if leaf.dtype is None:
        return [from_plain(leaf.space, plain) for plain in column.to_pylist()]
    if leaf.shape:
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=leaf.dtype).reshape(n, *leaf.shape)


def _only_value(values: Nested, key: str) -> Nested:
    if isinstance(values, dict) and list(values) == [key]:
        return values[key]
    return values


def read_trajectory(streams: Sequence[StepsStream], episode_index: int) -> Trajectory | None:
    """Put an episode together from the streams of its step keys; ``None`` if it is in none."""
    by_step_key: dict[StepKey, StepTrajectory] = {}
    terminated = truncated = False
    for stream in streams:
        steps = stream.steps(episode_index)
        if steps is not None:
            by_step_key[stream.step_key] = steps
            flags = stream.flags(episode_index)
            terminated, truncated = terminated or flags[0], truncated or flags[1]
    if not by_step_key:
        return None
    return Trajectory(episode_index, terminated, truncated, by_step_key)


def open_streams(directory: Path, journal: Journal | None) -> list[StepsStream]:
    """Open the streams of an output directory, as far as they can be."""
    names = {} if journal is None else {name: True for name in journal.heads if _is_stream(name)}
    paths = sorted((directory / TRAJECTORY_FOLDER).glob("steps_*.arrow"))
    names.update({f"{TRAJECTORY_FOLDER}/{path.name}": True for path in paths})
    streams: list[StepsStream] = []
    for name in sorted(names):
        with contextlib.suppress(OutputError):
            streams.append(StepsStream(current_path(directory, name), journal, name))
    return streams


def _is_stream(name: str) -> bool:
    return name.startswith(TRAJECTORY_FOLDER)
