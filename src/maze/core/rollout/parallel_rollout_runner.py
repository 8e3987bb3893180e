"""Rollouts in several processes on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maze.core.episode import EpisodeSpec
from maze.core.errors import ConfigError
from maze.core.rollout.checks import OnNaN, OnOutOfSpace
from maze.core.rollout.job import Job, WrapperSource
from maze.core.rollout.rollout_runner import Batches, OnError, RolloutRunner, check_count
from maze.core.rollout.worker import WorkerOptions
from maze.core.rollout.worker_pool import Deadlines, WorkerPool


class ParallelRolloutRunner(RolloutRunner):
    """Plays episodes in several processes.

    Args:
        n_processes: workers. Each builds its own environment and policy.
        max_attempts: how often an episode is started before it is recorded as failed, if the
            worker dies each time.
        step_timeout_s: seconds that a step or reset of the environment, or a decision of the
            policy, may take. After that the process is killed and the episode has failed.
        episode_timeout_s: seconds that an episode may take.
        recycle_after_episodes: episodes after which a worker is replaced by a fresh one.
        max_worker_memory_mb: memory (MiB, resident) above which a worker is replaced by a fresh
            one; looked at after each episode.

    The last four are off with ``None``. The other arguments are described at ``RolloutRunner``.
    """

    def __init__(
        self,
        n_processes: int = 5,
        n_episodes: int = 50,
        max_episode_steps: int | None = 200,
        record_trajectory: bool = True,
        record_event_logs: bool = True,
        *,
        deterministic: bool = True,
        n_lanes: int = 1,
        on_error: OnError = "record",
        on_nan: OnNaN = "fail",
        on_out_of_space: OnOutOfSpace = "stop",
        max_failures: int | float | None = None,
        max_attempts: int = 3,
        step_timeout_s: float | None = None,
        episode_timeout_s: float | None = None,
        recycle_after_episodes: int | None = None,
        max_worker_memory_mb: float | None = None,
        wrappers: WrapperSource = None,
        output_dir: str | Path | None = None,
        show_progress: bool | None = None,
    ) -> None:
        super().__init__(
            n_episodes,
            max_episode_steps,
            record_trajectory,
            record_event_logs,
            deterministic=deterministic,
            n_lanes=n_lanes,
            on_error=on_error,
            on_nan=on_nan,
            on_out_of_space=on_out_of_space,
            max_failures=max_failures,
            wrappers=wrappers,
            output_dir=output_dir,
            show_progress=show_progress,
        )
        self.n_processes = check_count("n_processes", n_processes, 1)
        self.max_attempts = check_count("max_attempts", max_attempts, 1)
        self.step_timeout_s = _check_amount("step_timeout_s", step_timeout_s, "seconds")
        self.episode_timeout_s = _check_amount("episode_timeout_s", episode_timeout_s, "seconds")
        self.recycle_after_episodes = (
            None
            if recycle_after_episodes is None
            else check_count("recycle_after_episodes", recycle_after_episodes, 1)
        )
        self.max_worker_memory_mb = _check_amount(
            "max_worker_memory_mb", max_worker_memory_mb, "megabytes"
        )

    def episodes(self, job: Job, specs: Sequence[EpisodeSpec]) -> Batches:
        """Play the specs in worker processes."""
        deadlines = Deadlines(self.step_timeout_s, self.episode_timeout_s)
        pool = WorkerPool(
            job,
            specs,
            min(self.n_processes, len(specs)),
            self.max_attempts,
            deadlines,
            WorkerOptions(
                deadlines.are_set, self.recycle_after_episodes, self.max_worker_memory_mb
            ),
        )
        try:
            yield from pool.play()
        except KeyboardInterrupt:
            yield from pool.finish()
            raise
        finally:
            pool.kill()


def _check_amount(name: str, value: Any, unit: str) -> float | None:
    """Check that an option is a positive number, or ``None``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(
            f"'runner.{name}' is {value!r} ({type(value).__name__}), expected a number of {unit},"
            " or null"
        )
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"'runner.{name}' is {value}, expected more than 0 {unit}, or null")
    return value
