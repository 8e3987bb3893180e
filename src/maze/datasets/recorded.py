"""Recorded episodes as the values that they were before they were written.

What is written again from them (a merged recording, a part of one) is written by the same encoder
as what is played, and its digest proves that it is the same episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from maze.core.env.structured_env import StepKey
from maze.core.episode import Episode, EpisodePart, EpisodeRow, EpisodeSpec, HandedOver, PartID
from maze.core.errors import OutputError
from maze.core.rollout.play import episode_id
from maze.core.rollout.run_directory import RunDirectory
from maze.core.trajectory.columns import StepColumns, join_columns
from maze.core.trajectory.digest import RecordedPart, RecordedSteps, parts_of, step_columns_of
from maze.core.trajectory.trajectory import StepsStream


@dataclass(frozen=True)
class RecordedSpaces:
    """What an encoder has to know of an environment that is not there any more."""

    observation_spaces: Mapping[StepKey, spaces.Dict]
    action_spaces: Mapping[StepKey, spaces.Dict]
    is_flat: bool

    @classmethod
    def of(cls, run: RunDirectory) -> RecordedSpaces:
        """Return those of a recording.

        Raises:
            OutputError: If it has no trajectories.
        """
        streams = run.streams
        if not streams:
            raise OutputError(f"{run.path} has no trajectory data")
        return cls(
            {stream.step_key: _dict(stream.observation_space) for stream in streams},
            {stream.step_key: _dict(stream.action_space) for stream in streams},
            bool(streams[0].description["is_flat"]),
        )


class _Group(NamedTuple):
    """What was recorded of one part of an episode."""

    number: int
    columns: dict[StepKey, StepColumns]
    rewards: np.ndarray[Any, np.dtype[np.float64]]
    env_times: list[int]


def recorded_episode(
    run: RunDirectory, row: EpisodeRow, spec: EpisodeSpec
) -> Iterator[EpisodePart | Episode]:
    """Return a recorded episode as if it had just been played: its parts, then the episode.

    Args:
        run: where it is.
        row: of the episode there.
        spec: its index where it is going to be written, and its seeds.

    Raises:
        OutputError: If the data does not fit the digest in the row.
    """
    streams = [stream for stream in run.streams if stream.rows(row.episode_index) is not None]
    if not streams:
        yield _episode(row, spec, None, None, 0)
        return
    is_flat = bool(streams[0].description["is_flat"])
    part_steps = int(streams[0].description["part_steps"])
    handed_over: HandedOver | None = None
    waiting: _Group | None = None
    for group in _groups(streams, row.episode_index, is_flat, part_steps):
        if waiting is not None and not len(group.rewards) and row.n_steps % part_steps == 0:
            # It ended where a part ends: the last observation stands alone.
            group = _joined(waiting, group)
            waiting = None
        if waiting is not None:
            if handed_over is None:
                handed_over = HandedOver(1)
            part = EpisodePart(
                spec=spec,
                episode_id=episode_id(spec),
                part_id=PartID(spec.index, handed_over.token, handed_over.n_parts),
                first_step=handed_over.n_sub_steps,
                first_time=handed_over.n_times,
                n_steps=(waiting.number + 1) * part_steps,
                rewards=waiting.rewards,
                env_times=None if is_flat else waiting.env_times,
                columns=waiting.columns,
                events=(),
            )
            handed_over.add(part, 0)
            yield part
        waiting = group
    episode = _episode(row, spec, waiting, handed_over, part_steps, is_flat)
    if episode.digest != row.digest:
        raise OutputError(
            f"episode {row.episode_index} in {run.path} is damaged: it does not fit its digest."
            f" `maze verify {run.path}` tells more; leave it out to go on"
        )
    yield episode


def _episode(
    row: EpisodeRow,
    spec: EpisodeSpec,
    group: _Group | None,
    handed_over: HandedOver | None,
    part_steps: int,
    is_flat: bool = True,
) -> Episode:
    n_parts = 0 if handed_over is None else handed_over.n_parts
    return Episode(
        spec=spec,
        episode_id=episode_id(spec),
        ending=row.ending,
        truncated_by=row.truncated_by,
        rewards=np.zeros(0) if group is None else group.rewards,
        env_times=None if is_flat or group is None else group.env_times,
        n_steps=row.n_steps,
        columns={} if group is None else group.columns,
        events=(),
        statistics=row.statistics,
        zero_statistics=frozenset(),
        episode_return=row.episode_return,
        seconds=row.seconds,
        n_nan=row.n_nan,
        failure=row.failure,
        part_end=(n_parts + 1) * part_steps if part_steps else 1,
        handed_over=handed_over,
        digest_of_parts="" if group is not None else row.digest,
    )


def _groups(
    streams: Sequence[StepsStream], episode_index: int, is_flat: bool, part_steps: int
) -> Iterator[_Group]:
    import heapq

    parts = heapq.merge(
        *(
            parts_of(
                RecordedSteps(
                    stream.step_key,
                    stream.observation_leaves,
                    stream.action_leaves,
                    stream.parts(episode_index),
                ),
                part_steps,
            )
            for stream in streams
        ),
        key=_number,
    )
    for number, same in groupby(parts, key=_number):
        columns: dict[StepKey, StepColumns] = {}
        steps: list[Any] = []
        times: list[Any] = []
        rewards: list[Any] = []
        for part in same:
            columns[part.of.step_key] = step_columns_of(part, is_flat)
            for rows in part.rows:
                table: Any = rows
                given = table.column("reward").drop_null()
                n = len(given)
                rewards.append(given.to_numpy(zero_copy_only=False))
                steps.append(table.column("step").to_numpy()[:n])
                times.append(table.column("env_time").to_numpy()[:n])
        order = np.argsort(np.concatenate(steps), kind="stable")
        yield _Group(
            number,
            columns,
            np.concatenate(rewards)[order],
            np.concatenate(times)[order].tolist(),
        )


def _joined(first: _Group, second: _Group) -> _Group:
    columns = dict(first.columns)
    for key, part in second.columns.items():
        columns[key] = join_columns([columns[key], part]) if key in columns else part
    return _Group(first.number, columns, first.rewards, first.env_times)


def _number(part: RecordedPart) -> int:
    return part.number


def _dict(space: Any) -> spaces.Dict:
    assert isinstance(space, spaces.Dict)
    return space
