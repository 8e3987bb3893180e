"""Rollouts in this process: for single episodes, debugging and rendering."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from maze.core.episode import EpisodeBatch, EpisodeSpec
from maze.core.errors import ConfigError
from maze.core.output_directory import default_output_directory
from maze.core.rollout.checks import OnNaN, OnOutOfSpace
from maze.core.rollout.job import Job, WrapperSource
from maze.core.rollout.player import Player
from maze.core.rollout.rendering import VideoRecorder, has_display, without_display
from maze.core.rollout.rollout_runner import Batches, OnError, RolloutRunner, check_flag


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
        max_failures: int | float | None = None,
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
        self.render = check_flag("render", render)
        if self.render and self.n_lanes > 1:
            raise ConfigError(
                f"'runner.render' needs 'runner.n_lanes' to be 1, got {self.n_lanes}: only one"
                " episode can be shown at a time"
            )

    def episodes(self, job: Job, specs: Sequence[EpisodeSpec]) -> Batches:
        """Play the specs in this process."""
        remaining = iter(specs)

        def next_spec(_: bool) -> EpisodeSpec | None:
            return next(remaining, None)

        with contextlib.ExitStack() as stack:
            note = ""
            if not self.render:
                player = Player(job)
            elif has_display():
                player = Player(job, render_mode="human")
            else:
                assert job.directory is not None
                stack.enter_context(without_display())
                video = stack.enter_context(VideoRecorder(job.directory / "video"))
                note = f"there is no display, so the episodes were filmed to {video.directory}"
                player = Player(job, after_step=video.after_step, render_mode="rgb_array")
            stack.enter_context(player)
            try:
                yield from player.play(next_spec)
            except KeyboardInterrupt:
                batch = player.flush()
                if batch is not None:
                    yield batch
                raise
            if note:
                yield EpisodeBatch(rows=(), warnings=(note,))

    def _directory(self, output_dir: str | Path | None) -> Path | None:
        directory = super()._directory(output_dir)
        if directory is None and self.render and not has_display():
            return default_output_directory()
        return directory
