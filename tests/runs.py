"""Running, opening and comparing whole runs, for tests that play."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import maze
from maze.core.episode_table import TIMING_COLUMNS
from maze.core.ledger.journal import encode_line, parse_line
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.rollout_runner import RolloutRunner
from maze.core.rollout.run_directory import RunDirectory
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding

SEEDING = Seeding(env_base_seed=11, agent_base_seed=22)


def numbered(n_episodes: int) -> Seeding:
    """Seed each episode's environment with its index, so that faults can be addressed."""
    return Seeding(agent_base_seed=5, explicit_env_seeds=range(n_episodes))


def sequential(**options: Any) -> RolloutRunner:
    return SequentialRolloutRunner(**{"n_episodes": 12, **options})


def parallel(**options: Any) -> RolloutRunner:
    return ParallelRolloutRunner(**{"n_processes": 2, "n_episodes": 12, **options})


@dataclass(frozen=True)
class Where:
    """A way of playing the same episodes."""

    n_processes: int
    """0: in this process."""
    n_lanes: int = 1

    def runner(self, **options: Any) -> RolloutRunner:
        options = {"n_lanes": self.n_lanes, **options}
        if not self.n_processes:
            return sequential(**options)
        return parallel(**{"n_processes": self.n_processes, **options})

    def __str__(self) -> str:
        return f"{self.n_processes or 'no'}_processes_{self.n_lanes}_lanes"


HERE = Where(0)
HERE_LANES = Where(0, 8)
WORKERS = Where(2)
WORKERS_LANES = Where(2, 8)
RUNNERS = (HERE, WORKERS)
EVERYWHERE = (HERE, HERE_LANES, WORKERS, WORKERS_LANES)


@dataclass(frozen=True)
class Content:
    """What a run left behind, without what says how long it took and where."""

    rows: Sequence[Mapping[str, Any]]
    """Of the episode table, as the file holds it."""
    events: Mapping[str, bytes]
    statistics: Mapping[str, Any]
    trajectories: Mapping[int, Any]
    """By episode index, in plain containers and arrays."""


def content(directory: Path) -> Content:
    table = pq.read_table(directory / "episodes.parquet").drop_columns([*TIMING_COLUMNS])
    statistics = json.loads((directory / "statistics.json").read_text())
    for failure in statistics["failures"]:
        for name in ("attempts", "output", "reproduce"):
            del failure[name]
    run = maze.load(directory)
    return Content(
        rows=table.to_pylist(),
        events={p.name: p.read_bytes() for p in sorted((directory / "event_logs").glob("*"))},
        statistics={k: v for k, v in statistics.items() if k not in ("run", "timing")},
        trajectories={trajectory.episode_index: plain(trajectory) for trajectory in run},
    )


def assert_equal(one: Content, other: Content) -> None:
    """Compare part by part, so that a failing test shows the one that differs."""
    assert one.rows == other.rows
    assert one.events == other.events
    assert one.statistics == other.statistics
    assert one.trajectories.keys() == other.trajectories.keys()
    for index, trajectory in one.trajectories.items():
        assert is_same(trajectory, other.trajectories[index]), f"episode {index}"


def plain(trajectory: Any) -> Any:
    return {
        "ending": (trajectory.terminated, trajectory.truncated),
        **{
            key: [
                part.observations,
                part.actions,
                part.rewards,
                part.steps,
                part.env_times,
                part.agent_ids,
            ]
            for key, part in trajectory.by_step_key.items()
        },
    }


def is_same(one: Any, other: Any) -> bool:
    """Return whether nested values are equal: to the bit, with dtypes and shapes.

    A number of numpy's is the same as an array of no dimensions, and a Python integer the same as
    one of numpy's: the values of spaces may be either.
    """
    one, other = (np.int64(value) if type(value) is int else value for value in (one, other))
    if isinstance(one, np.ndarray | np.generic) and isinstance(other, np.ndarray | np.generic):
        one, other = np.asarray(one), np.asarray(other)
        return bool(
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(is_same(one[k], other[k]) for k in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other)


def open_run(result: RolloutResult) -> RunDirectory:
    assert result.output_directory is not None
    return maze.load(result.output_directory)


def rewrite_journal(
    directory: Path, change: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> RunDirectory:
    """Change what a journal says, as somebody could who knows how checksums are made."""
    path = directory / "journal.jsonl"
    lines = [parse_line(line) for line in path.read_bytes().splitlines(keepends=True)]
    path.write_bytes(b"".join(encode_line(change(fields)) for fields in lines))
    return maze.load(directory)


def with_config(directory: Path, config: Mapping[str, Any]) -> RunDirectory:
    """Put another config into a recorded run."""

    def change(fields: dict[str, Any]) -> Mapping[str, Any]:
        return (
            {**fields, "config": {**fields["config"], **config}} if "config" in fields else fields
        )

    return rewrite_journal(directory, change)
