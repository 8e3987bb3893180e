"""Rollouts in this process: for single episodes, debugging and rendering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maze.core.rollout.episode import EpisodeBatch, EpisodeSpec
from maze.core.rollout.job import Job, WrapperSource
from maze.core.rollout.play import OnNaN, OnOutOfSpace
from maze.core.rollout.player import Player
from maze.core.rollout.rollout_runner import OnError, RolloutRunner, check_flag


class SequentialRolloutRunner(RolloutRunner):
    """Plays one episode after the other in this process.

    Args:
        render: whether to show the episodes, in a window where there is a display, else in video
            files in the output directory.

    The other arguments are described at ``RolloutRunner``.
    """

    def __init__(
        self,
        n_episodes: int = 50,
        max_episode_steps: int | None = 200,
        record_trajectory: bool = True,
        record_event_logs: bool = True,
        render: bool = False,
        *,
        deterministic: bool = True,
        n_lanes: int = 1,
        on_error: OnError = "record",
        on_nan: OnNaN = "fail",
        on_out_of_space: OnOutOfSpace = "stop",
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
            wrappers=wrappers,
            output_dir=output_dir,
            show_progress=show_progress,
        )
        self.render = check_flag("render", render)

    def episodes(self, job: Job, specs: Sequence[EpisodeSpec]) -> Iterator[EpisodeBatch]:
        """Play the specs in this process."""
        remaining = iter(specs)

        def next_spec(_: bool) -> EpisodeSpec | None:
            return next(remaining, None)

        with Player(job) as player:
            try:
                yield from player.play(next_spec)
            except KeyboardInterrupt:
                batch = player.flush()
                if batch is not None:
                    yield batch
                raise
