"""The digest of an episode, from the memory of the process that played it or from a file.

Equal episodes have equal digests, and what was read back from a trajectory file has the digest
that its row of the episode table names: so a recording can be shown to be whole. A long episode
is hashed part by part, so that nobody ever needs to have all of it. xxh3: 128 bits, some 20 GB/s,
not cryptographic.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.trajectory.columns import Leaf, LeafColumn, StepColumns, from_plain, leaves, to_plain

if TYPE_CHECKING:
    import pyarrow as pa

    from maze.core.trajectory.trajectory import StepsStream

Rows: TypeAlias = "pa.Table | pa.RecordBatch"


class EpisodeDigest:
    """Hash over observations, actions and rewards of an episode.

    An episode is hashed part by part (see ``part_steps``). Of each part come, for each step key
    that has observations in it, sorted by its text: in structured episodes, which sub-steps these
    were and whose; the observations and the actions, leaf by leaf. Then come the part's rewards.
    """

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def update(self, columns: Mapping[StepKey, StepColumns], rewards: NDArray[np.float64]) -> None:
        """Take in the next part."""
        _update(self._hash, columns, rewards)

    def copy(self) -> EpisodeDigest:
        """Return a digest that goes on from here by itself."""
        digest = EpisodeDigest()
        digest._hash = self._hash.copy()
        return digest

    def hexdigest(self) -> str:
        """Return the digest of what was taken in so far: 32 hexadecimal digits."""
        return self._hash.hexdigest()


def digest_of(columns: Mapping[StepKey, StepColumns], rewards: NDArray[np.float64]) -> str:
    """Return the digest of an episode of a single part."""
    digest = xxhash.xxh3_128()
    _update(digest, columns, rewards)
    return digest.hexdigest()


def _update(
    digest: xxhash.xxh3_128, columns: Mapping[StepKey, StepColumns], rewards: NDArray[np.float64]
) -> None:
    for key in columns if len(columns) == 1 else sorted(columns, key=_text):
        part = columns[key]
        if not part.n_observations:
            continue
        if part.steps is not None:
            agent_ids = list(map(int, part.agent_ids or ()))
            digest.update(repr((_plain_key(key), list(part.steps), agent_ids)).encode())
        for column in (*part.observations, *part.actions):
            digest.update(column.digest_data())
    digest.update(rewards.tobytes())


def _plain_key(key: StepKey) -> StepKey:
    """Return a step key as it comes back from JSON, which knows no members of enumerations."""
    return str.__str__(key) if isinstance(key, str) else int(key)


def _text(key: StepKey) -> str:
    return str(_plain_key(key))


class RecordedSteps(NamedTuple):
    """The rows of one step key in one episode, as they were read back."""

    step_key: StepKey
    observation_leaves: Sequence[Leaf]
    action_leaves: Sequence[Leaf]
    pieces: Iterable[Rows]
    """The rows in the order of their steps, in pieces of any size."""


def recorded_digest(recorded: Iterable[RecordedSteps], *, is_flat: bool, part_steps: int) -> str:
    """Compute the digest of an episode from what was recorded of it.

    Pieces are read as they are needed, so that one part of the episode is in memory at a time.

    Args:
        recorded: of each step key that has rows in the episode.
        is_flat: of the environment; in the description of each trajectory file.
        part_steps: likewise.
    """
    digest = EpisodeDigest()
    parts = heapq.merge(*(parts_of(steps, part_steps) for steps in recorded), key=_number)
    for _, same in itertools.groupby(parts, key=_number):
        columns: dict[StepKey, StepColumns] = {}
        steps: list[NDArray[Any]] = []
        rewards: list[NDArray[Any]] = []
        for part in same:
            columns[part.of.step_key] = step_columns_of(part, is_flat)
            for rows in part.rows:
                given = _values(rows, "reward").drop_null().to_numpy(zero_copy_only=False)
                rewards.append(given)
                steps.append(_values(rows, "step").to_numpy()[: len(given)])
        order = np.argsort(np.concatenate(steps), kind="stable")
        digest.update(columns, np.concatenate(rewards)[order])
    return digest.hexdigest()


def recorded_digest_in(streams: Iterable[StepsStream], episode_index: int) -> str:
    """Compute the digest of an episode from the streams of the run's step keys."""
    recorded: list[RecordedSteps] = []
    is_flat, part_steps = True, 1
    for stream in streams:
        rows = stream.rows(episode_index)
        if rows is not None:
            is_flat = stream.description["is_flat"]
            part_steps = stream.description["part_steps"]
            recorded.append(
                RecordedSteps(
                    stream.step_key,
                    leaves(stream.observation_space, "observation"),
                    leaves(stream.action_space, "action"),
                    rows.to_batches(),
                )
            )
    return recorded_digest(recorded, is_flat=is_flat, part_steps=part_steps)


class RecordedPart(NamedTuple):
    """The rows of one step key in one part of an episode."""

    number: int
    of: RecordedSteps
    rows: list[Rows]


def _number(part: RecordedPart) -> int:
    return part.number


def parts_of(steps: RecordedSteps, part_steps: int) -> Iterator[RecordedPart]:
    """Cut the rows of a step key into those of each part of the episode."""
    number = 0
    rows: list[Rows] = []
    for piece in steps.pieces:
        if not piece.num_rows:
            continue
        numbers = _values(piece, "env_time").to_numpy() // part_steps
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), piece.num_rows]
        for start, stop in itertools.pairwise(cuts):
            if numbers[start] != number and rows:
                yield RecordedPart(number, steps, rows)
                rows = []
            number = int(numbers[start])
            rows.append(piece.slice(start, stop - start))
    if rows:
        yield RecordedPart(number, steps, rows)


def step_columns_of(part: RecordedPart, is_flat: bool) -> StepColumns:
    """Return rows that were read back as the columns that they were written from."""
    n_observations = [rows.num_rows for rows in part.rows]
    n_actions = n_observations
    if part.of.action_leaves:
        name = part.of.action_leaves[0].name
        n_actions = [rows.num_rows - _values(rows, name).null_count for rows in part.rows]
    steps, agent_ids = (
        [number for rows in part.rows for number in _values(rows, name).to_numpy().tolist()]
        for name in ("step", "agent_id")
    )
    return StepColumns(
        tuple(_column(leaf, part.rows, n_observations) for leaf in part.of.observation_leaves),
        tuple(_column(leaf, part.rows, n_actions) for leaf in part.of.action_leaves),
        n_observations=sum(n_observations),
        n_actions=sum(n_actions),
        steps=None if is_flat else steps,
        agent_ids=None if is_flat else agent_ids,
    )


def _column(leaf: Leaf, pieces: Sequence[Rows], n_values: Sequence[int]) -> LeafColumn:
    """Return the first values of a leaf in each piece, as they were when they were recorded."""
    data: list[bytes] = []
    values: list[Any] = []
    for rows, n in zip(pieces, n_values, strict=True):
        column = _values(rows, leaf.name).slice(0, n)
        if leaf.dtype is None:
            # There and back: what Arrow makes of a small number may be another type than ours.
            plain = (from_plain(leaf.space, value) for value in column.to_pylist())
            values.extend(to_plain(leaf.space, value) for value in plain)
        else:
            elements = column.flatten() if leaf.shape else column
            array = elements.to_numpy(zero_copy_only=False)
            data.append(np.asarray(array, dtype=leaf.dtype).tobytes())
    return LeafColumn(leaf, sum(n_values), b"".join(data), values)


def _values(rows: Rows, name: str) -> Any:
    """Return a column as one Arrow array."""
    column: Any = rows.column(name)
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column
