"""The viewer in a notebook: whole runs, one episode with a slider, and the events of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from maze.core.errors import ConfigError, MissingExtraError
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.run_directory import RunDirectory
from maze.viewer.export import Report, make_report
from maze.viewer.server import Viewer

if TYPE_CHECKING:
    from maze.viewer.widgets import EpisodeWidget, EventsWidget

Recorded: TypeAlias = RolloutResult | RunDirectory | str | Path
"""A run that was recorded: its result, or its output directory."""


def view(
    *runs: Recorded,
    episodes: Sequence[int] | None = None,
    with_frames: bool = True,
    max_mb: float = 10,
    height: int = 720,
    trust: bool = False,
) -> Report:
    """Show runs in a notebook as ``maze view`` shows them in the browser; several are compared.

        maze.view(result)
        maze.view("run", "other_run", episodes=[3, 17]).write("report.html")

    It stays in the notebook when that is saved, with the data of the page.

    Args:
        runs: results of recorded runs, or their output directories.
        episodes: those to be looked at step by step. ``None``: the worst, the median and the best
            one by return, and the first that failed.
        with_frames: whether to draw their frames.
        max_mb: largest size of the page; frames are left out until it fits.
        height: of the page, in pixels.
        trust: whether to import what the config of a run names, besides Maze and Gymnasium.

    Raises:
        ConfigError: If a run was not recorded, or is too large for the page.
        OutputError: If a directory holds no run, or there is no such episode.
    """
    if not runs:
        raise ConfigError("nothing to look at: give a result or an output directory")
    with Viewer([_directory_of(run) for run in runs], trust=trust) as viewer:
        report = make_report(
            viewer, episodes=episodes, with_frames=with_frames, max_bytes=int(max_mb * 10**6)
        )
    return replace(report, height=height)


def view_episode(run: Recorded, episode_index: int, *, trust: bool = False) -> EpisodeWidget:
    """Show one episode with a slider: the frame and the values of a step.

        maze.view_episode(result, 3)

    The frames are drawn when they are asked for, so it starts at once, however long the episode.
    ``close()`` ends what draws them.

    Args:
        run: result of a recorded run, or its output directory.
        episode_index: of the episode.
        trust: see ``view``.

    Returns:
        A widget with the children ``play`` and ``slider``, whose ``value`` is the step.

    Raises:
        OutputError: If there is no such episode.
        MissingExtraError: If ipywidgets is not installed.
    """
    _check_extra()
    from maze.viewer.widgets import EpisodeWidget

    return EpisodeWidget(_directory_of(run), episode_index, trust)


def view_events(run: Recorded, event_type: str | None = None) -> EventsWidget:
    """Show the events of a run: statistics by group, and histograms of their attributes.

        maze.view_events(result, "Ordered")

    ``maze.load(directory).events("Ordered")`` has the same as a data frame.

    Args:
        run: result of a recorded run, or its output directory.
        event_type: to begin with. ``None``: the first one.

    Returns:
        A widget with choices of event type, attribute, grouping and aggregation.

    Raises:
        OutputError: If no events of that type were recorded.
        MissingExtraError: If ipywidgets, pandas or matplotlib are not installed.
    """
    _check_extra()
    from maze.viewer.widgets import EventsWidget

    return EventsWidget(RunDirectory(_directory_of(run)), event_type)


def _directory_of(run: Recorded) -> Path:
    if isinstance(run, RolloutResult):
        if run.output_directory is None:
            raise ConfigError(
                "the run was not recorded, so there is nothing to look at: give it an output"
                " directory, as in maze.rollout(..., output_dir='run')"
            )
        return run.output_directory
    return run.path if isinstance(run, RunDirectory) else Path(run)


def _check_extra() -> None:
    for package in ("ipywidgets", "pandas", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "notebook")
