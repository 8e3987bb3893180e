"""A recorded episode as numpy arrays, and the streams that episodes are read from.

The format is described in ``docs/output_directory.md``. Nothing that is read here can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.errors import OutputError
from maze.core.trajectory.columns import Leaf, from_plain, leaves
from maze.core.trajectory.space_json import space_from_json

Nested: TypeAlias = Any
"""Arrays (or lists, for ragged leaves) in the nesting of the space they come from: a dictionary
for a Dict, a tuple for a Tuple."""

METADATA_KEY = b"maze"
"""Where the schema of a trajectory file describes what is in it, as JSON."""

FORMAT_VERSION = 1
"""Raised when files of this format could be misread by older versions of Maze."""


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
    """Where the rows of an episode are in a stream."""

    offset: int
    first_row: int
    n_rows: int


class StepsStream:
    """A file of recorded steps, indexed by episode.

    Reads what whole record batches there are, also while a run goes on or after it was killed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pa.memory_map(str(path))
            self._schema = pa.ipc.open_stream(self._file).schema
            description = json.loads((self._schema.metadata or {})[METADATA_KEY])
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise OutputError(f"{path} holds no trajectory data of Maze: {error}") from error
        if description["format_version"] > FORMAT_VERSION:
            raise OutputError(
                f"{path} has format version {description['format_version']}, and this version of"
                f" Maze reads up to {FORMAT_VERSION}: install a newer one"
            )
        self.description: dict[str, Any] = description
        self.step_key: StepKey = description["step_key"]
        self.observation_space = space_from_json(description["observation_space"])
        self.action_space = space_from_json(description["action_space"])
        self._observation_leaves = leaves(self.observation_space, "observation")
        self._action_leaves = leaves(self.action_space, "action")
        self._places = self._index()
        self._batch: tuple[int, pa.RecordBatch] | None = None

    def _index(self) -> dict[int, list[_Place]]:
        places: dict[int, list[_Place]] = {}
        self._file.seek(0)
        # Only the column of episode indices is decompressed.
        options = pa.ipc.IpcReadOptions(included_fields=[0], use_threads=False)
        reader = pa.ipc.open_stream(self._file, options=options)
        while True:
            offset = self._file.tell()
            try:
                batch = reader.read_next_batch()
            except (StopIteration, pa.ArrowInvalid, OSError):
                break  # The end, or a batch that is not whole (yet).
            indices = batch.column(0).to_numpy()
            if not len(indices):
                continue
            starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 1))
            ends = np.append(starts[1:], len(indices))
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                places.setdefault(int(indices[start]), []).append(
                    _Place(offset, start, end - start)
                )
        return places

    def episode_indices(self) -> list[int]:
        """Return the indices of the episodes that are there, in order."""
        return sorted(self._places)

    def rows(self, episode_index: int) -> pa.Table | None:
        """Return the rows of an episode; ``None`` if it has none here."""
        places = self._places.get(episode_index)
        if not places:
            return None
        return pa.Table.from_batches(
            [self._read(place.offset).slice(place.first_row, place.n_rows) for place in places]
        )

    def table(self) -> pa.Table:
        """Return all rows, in the order of the file. Needs memory for all of them."""
        offsets = sorted({place.offset for places in self._places.values() for place in places})
        return pa.Table.from_batches([self._read(offset) for offset in offsets], self._schema)

    def steps(self, episode_index: int) -> StepTrajectory | None:
        """Return the steps of an episode as arrays; ``None`` if it has none here."""
        table = self.rows(episode_index)
        if table is None:
            return None
        rewards = table.column("reward").drop_null().to_numpy()
        n_actions = table.num_rows
        if self._action_leaves:
            n_actions -= table.column(self._action_leaves[0].name).null_count
        return StepTrajectory(
            observations=_nested(
                self.observation_space, self._observation_leaves, table, table.num_rows
            ),
            actions=_nested(self.action_space, self._action_leaves, table, n_actions),
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

    def _read(self, offset: int) -> pa.RecordBatch:
        # Episodes next to each other are mostly in one batch: it is decompressed once.
        if self._batch is None or self._batch[0] != offset:
            self._file.seek(offset)
            message = pa.ipc.read_message(self._file)
            self._batch = offset, pa.ipc.read_record_batch(message, self._schema)
        return self._batch[1]


def _nested(
    space: spaces.Space[Any], space_leaves: Sequence[Leaf], table: pa.Table, n: int
) -> Nested:
    values = {leaf.path: _leaf_values(leaf, table, n) for leaf in space_leaves}

    def build(space: spaces.Space[Any], path: tuple[str | int, ...]) -> Nested:
        if isinstance(space, spaces.Dict):
            return {key: build(child, (*path, key)) for key, child in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(build(child, (*path, i)) for i, child in enumerate(space.spaces))
        return values[path]

    return build(space, ())


def _leaf_values(leaf: Leaf, table: pa.Table, n: int) -> Any:
    column: Any = table.column(leaf.name).slice(0, n).combine_chunks()
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


def open_streams(directory: Path) -> list[StepsStream]:
    """Open the streams in a ``trajectory_data`` directory."""
    return [StepsStream(path) for path in sorted(directory.glob("steps_*.arrow"))]
