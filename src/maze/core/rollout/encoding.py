"""From finished episodes to what leaves the process that played them.

Episodes are collected and encoded in groups: a record batch costs some hundred microseconds
whatever its size, which would be more than the whole of a short episode. The format of the
trajectory data is described in ``docs/output_directory.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.episode import (
    EncodedSteps,
    Episode,
    EpisodeBatch,
    EpisodePart,
    EpisodeRow,
    EventText,
    Parts,
)
from maze.core.events.event import Event, Reward
from maze.core.trajectory.columns import Leaf, LeafColumn, StepColumns, leaves
from maze.core.trajectory.space_json import space_to_json
from maze.core.trajectory.trajectory import FORMAT_VERSION, METADATA_KEY

_N_STREAM_END_BYTES = 8
_N_TIMES_KEPT = 65536
_ONE_ZERO = np.zeros(1)
_ARROW_TYPES: dict[str, pa.DataType] = {
    "float16": pa.float16(),
    "bool": pa.bool_(),
    **{
        name: pa.from_numpy_dtype(np.dtype(name))
        for name in ("float32", "float64", "int8", "int16", "int32", "int64")
    },
    **{
        name: pa.from_numpy_dtype(np.dtype(name))
        for name in ("uint8", "uint16", "uint32", "uint64")
    },
}


Compression: TypeAlias = Literal["lz4", "zstd", "none"]


class EncoderOptions(NamedTuple):
    """What is kept of an episode besides its row."""

    keep_trajectories: bool = True
    keep_events: bool = True
    compression: Compression = "lz4"


class HasSpaces(Protocol):
    """An environment, as far as its recording depends on it."""

    @property
    def observation_spaces(self) -> Mapping[StepKey, spaces.Dict]:
        """Of each step key."""

    @property
    def action_spaces(self) -> Mapping[StepKey, spaces.Dict]:
        """Of each step key."""

    @property
    def is_flat(self) -> bool:
        """Whether there is a single actor."""


class BatchEncoder:
    """Collects finished episodes and encodes them as one ``EpisodeBatch``."""

    def __init__(
        self,
        env: HasSpaces,
        options: EncoderOptions,
        part_steps: int,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare for the spaces of an environment.

        Args:
            env: only its spaces, and whether it is flat, are looked at.
            options: what is kept.
            part_steps: structured steps in a part of an episode.
            metadata: JSON values that go into the schema of each trajectory file.
        """
        description = {"is_flat": env.is_flat, "part_steps": part_steps, **(metadata or {})}
        self._options = options
        self._times: list[str] = []  # The env times as the event log has them, each made once.
        self._steps = (
            {
                key: _StepsEncoder(key, env, options.compression, description)
                for key in env.observation_spaces
            }
            if options.keep_trajectories
            else {}
        )
        self._clear()

    def _clear(self) -> None:
        self._rows: list[EpisodeRow] = []
        self._parts: dict[int, Parts] = {}
        self._zero_statistics: frozenset[str] = frozenset()
        self._events: dict[str, tuple[tuple[str, ...], dict[int, bytes]]] = {}

    def add(self, episode: Episode, attempts: int = 1) -> None:
        """Collect an episode."""
        self._add_data(episode)
        if episode.zero_statistics:
            self._zero_statistics |= episode.zero_statistics
        if episode.handed_over is not None:
            token, n_parts = episode.handed_over.token, episode.handed_over.n_parts
            self._parts[episode.spec.index] = Parts(token, n_parts)
        failure = episode.failure
        self._rows.append(
            EpisodeRow(
                episode_index=episode.spec.index,
                episode_id=episode.episode_id,
                env_seed=episode.spec.env_seed,
                agent_seed=episode.spec.agent_seed,
                ending=episode.ending,
                truncated_by=episode.truncated_by,
                episode_return=episode.episode_return,
                n_steps=episode.n_steps,
                seconds=episode.seconds,
                attempts=attempts,
                digest=episode.digest,
                n_nan=episode.n_nan,
                error="" if failure is None else " ".join(str(failure).split()),
                failure=failure,
                statistics=episode.statistics,
            )
        )

    def flush(self) -> EpisodeBatch:
        """Return what was collected as a batch, and start anew."""
        return self._flush(len(self._rows))

    def encode_part(self, part: EpisodePart) -> EpisodeBatch:
        """Return a part of an episode as a batch. Nothing must have been collected before."""
        assert not self._rows, "a part would get mixed with finished episodes"
        self._add_data(part)
        return replace(self._flush(1), part_of=part.part_id)

    def _flush(self, n_texts: int) -> EpisodeBatch:
        batch = EpisodeBatch(
            rows=tuple(self._rows),
            zero_statistics=self._zero_statistics,
            trajectories={
                key: encoder.flush() for key, encoder in self._steps.items() if encoder.n_rows
            },
            events={
                name: EventText(attributes, tuple(texts.get(i, b"") for i in range(n_texts)))
                for name, (attributes, texts) in self._events.items()
            },
            parts=self._parts,
        )
        self._clear()
        return batch

    def _add_data(self, episode: Episode | EpisodePart) -> None:
        if self._options.keep_events:
            self._add_events(episode)
        for key, encoder in self._steps.items():
            steps = episode.columns.get(key)
            if steps is not None and steps.n_observations:
                encoder.add(episode, steps)

    def _add_events(self, episode: Episode | EpisodePart) -> None:
        position = len(self._rows)
        prefix = episode.episode_id
        if len(episode.rewards):
            values = episode.rewards.tolist()
            first_time = episode.first_time
            if episode.env_times is not None:
                sums = [0.0] * (episode.env_times[-1] + 1 - first_time)
                for time, reward in zip(episode.env_times, values, strict=True):
                    sums[time - first_time] += reward
                values = sums
            lines = self._reward_lines(prefix, first_time, values)
            self._texts(Reward)[position] = lines.encode()
        if episode.events:
            by_type: dict[type[Event], list[tuple[int, Event]]] = {}
            for timed in episode.events:
                by_type.setdefault(type(timed[1]), []).append(timed)
            for event_type, same in by_type.items():
                names = self._known(event_type)[0]
                rows = [
                    "\t".join([prefix, str(time), *[_cell(getattr(event, name)) for name in names]])
                    for time, event in same
                ]
                self._texts(event_type)[position] = ("\n".join(rows) + "\n").encode(
                    "utf-8", "backslashreplace"
                )

    def _reward_lines(self, prefix: str, first_time: int, values: list[float]) -> str:
        """Return the lines of the reward log. There is one for every step that is ever played."""
        times = self._times
        if first_time or len(values) > _N_TIMES_KEPT:
            times = [f"{time}\t" for time in range(first_time, first_time + len(values))]
        while len(times) < len(values):
            times.append(f"{len(times)}\t")
        # Many tasks give the same reward in every step. (Zeros may differ in their sign.)
        if values[0] and values.count(values[0]) == len(values):
            number = repr(values[0])
            lines = f"{number}\n{prefix}\t".join(times[: len(values)])
            return f"{prefix}\t{lines}{number}\n"
        parts = [time + repr(value) for time, value in zip(times, values, strict=False)]
        return f"{prefix}\t" + f"\n{prefix}\t".join(parts) + "\n"

    def _texts(self, event_type: type[Event]) -> dict[int, bytes]:
        return self._known(event_type)[1]

    def _known(self, event_type: type[Event]) -> tuple[tuple[str, ...], dict[int, bytes]]:
        """Return the columns of an event log, and its lines by the position of the episode."""
        known = self._events.get(event_type.__name__)
        if known is None:
            known = self._events[event_type.__name__] = (event_type.attributes(), {})
        return known


_PLAIN_NUMBERS = (int, float, bool)


def _cell(value: Any) -> str:
    """A value as a cell of a TSV file. Tabs, newlines and backslashes are escaped by backslash."""
    if type(value) in _PLAIN_NUMBERS:
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    text = value if isinstance(value, str) else str(value)
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        text = text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
        text = text.replace("\r", "\\r")
    return text


class _StepsEncoder:
    """Encodes the rows of one step key: one for each observation."""

    def __init__(
        self,
        step_key: StepKey,
        env: HasSpaces,
        compression: Compression,
        metadata: Mapping[str, Any],
    ) -> None:
        observation_space, action_space = (
            env.observation_spaces[step_key],
            env.action_spaces[step_key],
        )
        self._leaves = (leaves(observation_space, "observation"), leaves(action_space, "action"))
        description = {
            "format_version": FORMAT_VERSION,
            "step_key": step_key,
            "observation_space": space_to_json(observation_space),
            "action_space": space_to_json(action_space),
            **metadata,
        }
        fields = [
            pa.field("episode_index", pa.int64(), nullable=False),
            pa.field("step", pa.int32(), nullable=False),
            pa.field("env_time", pa.int32(), nullable=False),
            pa.field("agent_id", pa.int32(), nullable=False),
            *(_field(leaf, nullable=False) for leaf in self._leaves[0]),
            *(_field(leaf, nullable=True) for leaf in self._leaves[1]),
            pa.field("reward", pa.float64()),
            pa.field("terminated", pa.bool_()),
            pa.field("truncated", pa.bool_()),
        ]
        self._schema = pa.schema(fields, metadata={METADATA_KEY: json.dumps(description)})
        self._schema_message = self._schema.serialize().to_pybytes()
        self._options = pa.ipc.IpcWriteOptions(
            compression=None if compression == "none" else compression, use_threads=False
        )
        self._clear()

    def _clear(self) -> None:
        self.n_rows = 0
        self._episodes: list[tuple[int, int, int]] = []  # index, number of rows, first step
        # Empty in flat environments, where they can be told from that.
        self._steps: list[NDArray[np.int32]] = []
        self._env_times: list[NDArray[np.int32]] = []
        self._agent_ids: list[NDArray[np.int32]] = []
        self._rewards: list[NDArray[np.float64]] = []
        self._without: tuple[list[int], list[int]] = ([], [])  # rows without action, reward
        self._last: tuple[list[int], list[int]] = ([], [])  # rows that terminated, truncated
        self._columns: list[list[LeafColumn]] = [[] for group in self._leaves for _ in group]

    def add(self, episode: Episode | EpisodePart, part: StepColumns) -> None:
        """Append the rows of one episode, or of a part of one."""
        n, first_row = part.n_observations, self.n_rows
        rewards, first_step = episode.rewards, episode.first_step
        n_rewards = len(rewards)
        if part.steps is None:
            last_row = n_rewards - 1
        else:
            steps = np.array(part.steps, dtype=np.int32)
            times = np.array([*(episode.env_times or ()), episode.n_steps], dtype=np.int32)
            local_steps = steps - np.int32(first_step)
            self._steps.append(steps)
            self._env_times.append(times[np.minimum(local_steps, len(times) - 1)])
            self._agent_ids.append(np.array(part.agent_ids, dtype=np.int32))
            rewarded = local_steps[local_steps < n_rewards]
            last_row = len(rewarded) - 1 if len(rewarded) and rewarded[-1] == n_rewards - 1 else -1
            rewards, n_rewards = rewards[rewarded], len(rewarded)
        self._rewards.append(rewards)
        if n_rewards < n:
            self._rewards.append(np.zeros(n - n_rewards) if n - n_rewards > 1 else _ONE_ZERO)
            self._without[1].extend(range(first_row + n_rewards, first_row + n))
        if part.n_actions < n:
            self._without[0].extend(range(first_row + part.n_actions, first_row + n))
        if last_row >= 0 and isinstance(episode, Episode):
            if episode.ending == "terminated":
                self._last[0].append(first_row + last_row)
            elif episode.truncated_by:
                self._last[1].append(first_row + last_row)
        self._episodes.append((episode.spec.index, n, first_step))
        for collected, column in zip(
            self._columns, (*part.observations, *part.actions), strict=True
        ):
            collected.append(column)
        self.n_rows += n

    def flush(self) -> EncodedSteps:
        """Encode the rows collected so far."""
        n = self.n_rows
        episodes = np.array(self._episodes, dtype=np.int64)
        rows_of = episodes[:, 1]
        has_action, has_reward = (_validity(n, rows) for rows in self._without)
        arrays: list[pa.Array[Any]] = [
            _primitive(pa.int64(), np.repeat(episodes[:, 0], rows_of)),
            *(_primitive(pa.int32(), column) for column in self._places(episodes)),
        ]
        n_observed = len(self._leaves[0])
        for i, collected in enumerate(self._columns):
            validity = None if i < n_observed else has_action
            arrays.append(_leaf_array(collected, rows_of.tolist(), validity))
        arrays.append(_primitive(pa.float64(), np.concatenate(self._rewards), has_reward))
        for rows in self._last:
            flags = np.zeros(n, dtype=np.bool_)
            flags[rows] = True
            arrays.append(
                pa.Array.from_buffers(pa.bool_(), n, [has_reward, pa.py_buffer(_bits(flags))])
            )
        record_batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._schema, options=self._options) as writer:
            writer.write_batch(record_batch)
        stream = sink.getvalue()
        start = len(self._schema_message)
        message = stream.slice(start, stream.size - start - _N_STREAM_END_BYTES).to_pybytes()
        self._clear()
        return EncodedSteps(self._schema_message, message)

    def _places(self, episodes: NDArray[np.int64]) -> Sequence[NDArray[np.int32]]:
        """Return the columns ``step``, ``env_time`` and ``agent_id``."""
        if self._steps:
            by_column = (self._steps, self._env_times, self._agent_ids)
            return [np.concatenate(parts) for parts in by_column]
        _, rows_of, first_steps = episodes.T
        first_rows = np.cumsum(rows_of) - rows_of
        steps = np.arange(self.n_rows) - np.repeat(first_rows - first_steps, rows_of)
        steps_and_times = steps.astype(np.int32)
        return steps_and_times, steps_and_times, np.zeros(self.n_rows, dtype=np.int32)


def _field(leaf: Leaf, nullable: bool) -> pa.Field[Any]:
    description: dict[str, Any] = {"path": list(leaf.path)}
    if leaf.dtype is None:
        arrow_type = plain_arrow_type(leaf.space)
    else:
        arrow_type = _element_type(leaf.dtype)
        description |= {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}
        if leaf.shape:
            arrow_type = pa.list_(arrow_type, int(np.prod(leaf.shape)))
    return pa.field(
        leaf.name, arrow_type, nullable=nullable, metadata={METADATA_KEY: json.dumps(description)}
    )


def _element_type(dtype: np.dtype[Any]) -> pa.DataType:
    try:
        return _ARROW_TYPES[str(dtype)]
    except KeyError:
        raise TypeError(
            f"values of dtype {dtype} cannot be recorded; possible are {', '.join(_ARROW_TYPES)}"
        ) from None


def plain_arrow_type(space: Any) -> pa.DataType:
    """Return the Arrow type of the plain form (see ``to_plain``) of the values of a space."""
    if isinstance(space, spaces.Text):
        return pa.string()
    if isinstance(space, spaces.Discrete):
        return pa.int64()
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        element = _element_type(np.dtype(space.dtype))
        return pa.list_(element, int(np.prod(space.shape))) if space.shape else element
    if isinstance(space, spaces.Dict):
        return pa.struct([(key, plain_arrow_type(child)) for key, child in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        return pa.struct([(str(i), plain_arrow_type(c)) for i, c in enumerate(space.spaces)])
    if isinstance(space, spaces.Sequence):
        return pa.list_(plain_arrow_type(space.feature_space))
    if isinstance(space, spaces.Graph):
        fields = [("nodes", pa.list_(plain_arrow_type(space.node_space)))]
        if space.edge_space is not None:
            fields.append(("edges", pa.list_(plain_arrow_type(space.edge_space))))
            fields.append(("edge_links", pa.list_(pa.list_(pa.int32(), 2))))
        return pa.struct(fields)
    if isinstance(space, spaces.OneOf):
        options = [(str(i), plain_arrow_type(child)) for i, child in enumerate(space.spaces)]
        return pa.struct([("choice", pa.int64()), *options])
    raise TypeError(f"values of the space {space} cannot be recorded; use the spaces of Gymnasium")


def _leaf_array(
    columns: Sequence[LeafColumn], rows: Sequence[int], validity: pa.Buffer | None
) -> pa.Array[Any]:
    leaf, n = columns[0].leaf, sum(rows)
    if leaf.dtype is None:
        values: list[Any] = []
        for column, n_rows in zip(columns, rows, strict=True):
            values.extend(column.values)
            values.extend([None] * (n_rows - column.n))
        return pa.array(values, plain_arrow_type(leaf.space))
    size = int(np.prod(leaf.shape)) if leaf.shape else 1
    element = _element_type(leaf.dtype)
    parts: list[bytes] = []
    for column, n_rows in zip(columns, rows, strict=True):
        parts.append(column.data)
        if column.n < n_rows:
            parts.append(bytes(size * leaf.dtype.itemsize * (n_rows - column.n)))
    data = b"".join(parts)
    if leaf.dtype.kind == "b":
        data = _bits(np.frombuffer(data, dtype=np.bool_))
    buffer = pa.py_buffer(data)
    if not leaf.shape:
        return pa.Array.from_buffers(element, n, [validity, buffer])
    child = pa.Array.from_buffers(element, n * size, [None, buffer])
    return pa.Array.from_buffers(pa.list_(element, size), n, [validity], children=[child])


def _primitive(
    arrow_type: pa.DataType, values: NDArray[Any], validity: pa.Buffer | None = None
) -> pa.Array[Any]:
    return pa.Array.from_buffers(arrow_type, len(values), [validity, pa.py_buffer(values)])  # type: ignore[arg-type]


def _validity(n: int, missing: Sequence[int]) -> pa.Buffer | None:
    if not missing:
        return None
    valid = np.ones(n, dtype=np.bool_)
    valid[list(missing)] = False
    return pa.py_buffer(_bits(valid))


def _bits(flags: NDArray[np.bool_]) -> bytes:
    return np.packbits(flags, bitorder="little").tobytes()
