"""Checks of finished episodes, and of parts of them, for NaN and values outside of their spaces.

Types, dtypes and shapes are checked when a value is recorded. Bounds are checked here, for many
episodes at once, since a comparison of a whole batch costs hardly more than that of one
observation. An episode in which something is found becomes a failed one, cut off at the first
offence, just as if it had been noticed in that step. A part in which something is found is not
handed over, and the episode ends there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from gymnasium import spaces

from maze.core.env.structured_env import StepKey
from maze.core.episode import Episode, EpisodePart, Failure, FailurePlace
from maze.core.rollout.play import break_off
from maze.core.trajectory.columns import (
    LeafColumn,
    Offence,
    bounds_check,
    count_nan,
    leaves,
)

OnNaN: TypeAlias = Literal["fail", "count", "stop"]
OnOutOfSpace: TypeAlias = Literal["stop", "fail", "allow"]


@dataclass(frozen=True)
class CheckOptions:
    """What is done about values that do not belong where they are."""

    on_nan: OnNaN = "fail"
    """A NaN among observations or rewards fails the episode, is only counted, or stops the run."""
    on_out_of_space: OnOutOfSpace = "stop"
    """An observation or action outside its space's bounds stops the run, fails the episode, or is
    allowed. Wrong types, dtypes and shapes always stop the run: they cannot be recorded."""


class EpisodeChecks:
    """Checks episodes of an environment with the given spaces."""

    def __init__(
        self,
        observation_spaces: Mapping[StepKey, spaces.Dict],
        action_spaces: Mapping[StepKey, spaces.Dict],
        options: CheckOptions,
    ) -> None:
        self._options = options
        self._checks = {
            key: (
                [bounds_check(leaf) for leaf in leaves(observation_spaces[key], "observation")],
                [bounds_check(leaf) for leaf in leaves(action_spaces[key], "action")],
            )
            for key in observation_spaces
        }

    def check(self, episodes: Sequence[Episode]) -> Sequence[Episode]:
        """Return the episodes, those with an offence as failed ones."""
        if all(episode.episode_return == episode.episode_return for episode in episodes):
            for key, (observed, acted) in self._checks.items():
                parts = [episode.columns[key] for episode in episodes if key in episode.columns]
                if not all(
                    check is None or check(_joined([column[i] for column in columns])) is None
                    for checks, columns in (
                        (observed, [part.observations for part in parts]),
                        (acted, [part.actions for part in parts]),
                    )
                    if columns
                    for i, check in enumerate(checks)
                ):
                    break
            else:
                return episodes
        return [self._judge(episode) for episode in episodes]

    def check_part(self, part: EpisodePart) -> int | None:
        """Return how many NaNs are in a part; ``None`` if there is something to end it for."""
        is_sound = not np.isnan(part.rewards).any() and all(
            check is None or check(column) is None
            for key, (observed, acted) in self._checks.items()
            for checks, columns in (
                (observed, part.columns[key].observations),
                (acted, part.columns[key].actions),
            )
            for check, column in zip(checks, columns, strict=True)
        )
        if is_sound:
            return 0
        return _count_nan(part) if next(self._failures(part), None) is None else None

    def _judge(self, episode: Episode) -> Episode:
        """Look for the first offence in one episode."""
        # The environment gives the reward of a step together with the observation of the next
        # one, on which the policy then acts.
        failure = min(
            self._failures(episode),
            key=lambda found: (found.step, found.place == "policy"),
            default=None,
        )
        if failure is not None and (
            episode.failure is None or episode.failure.step >= failure.step
        ):
            episode = break_off(episode, failure, with_action=failure.place == "policy")
        n_before = 0 if episode.handed_over is None else episode.handed_over.n_nan
        return episode._replace(n_nan=n_before + _count_nan(episode))

    def _failures(self, episode: Episode | EpisodePart) -> Iterator[Failure]:
        for key, part in episode.columns.items():
            for checks, columns, is_policy in zip(
                self._checks[key], (part.observations, part.actions), (False, True), strict=True
            ):
                ignored = self._ignored(is_policy)
                for check, column in zip(checks, columns, strict=True):
                    offence = check(column, ignored) if check is not None and column.n else None
                    if offence is not None:
                        row = offence.row
                        step = episode.first_step + row if part.steps is None else part.steps[row]
                        yield self._failure(offence, step, is_policy)
        if self._options.on_nan != "count" and np.isnan(episode.rewards).any():
            # The step that gave it is completed, so that it is the failure of the one after it.
            step = episode.first_step + int(np.isnan(episode.rewards).argmax()) + 1
            message = "the reward is NaN (runner.on_nan=count records it and goes on)"
            stops = self._options.on_nan == "stop"
            yield Failure("step", step, "SpaceError", message, "", stops)

    def _ignored(self, is_policy: bool) -> Sequence[str]:
        """Return the kinds of offences that the options do not take for failures."""
        allows_outside = self._options.on_out_of_space == "allow"
        # A NaN in an action is out of its space, and nothing else.
        allows_nan = allows_outside if is_policy else self._options.on_nan == "count"
        return [*(["outside"] if allows_outside else []), *(["nan"] if allows_nan else [])]

    def _failure(self, offence: Offence, step: int, is_policy: bool) -> Failure:
        options, message = self._options, offence.message
        if offence.kind == "nan" and not is_policy:
            stops = options.on_nan == "stop"
            message += " (runner.on_nan=count records it and goes on)"
        else:
            stops = options.on_out_of_space == "stop"
            message += (
                " (clip it, for instance; runner.on_out_of_space=allow plays it)"
                if is_policy
                else ". If the space is wrong rather than the environment,"
                " runner.on_out_of_space=allow records it and goes on"
            )
        place: FailurePlace = "policy" if is_policy else "step" if step else "reset"
        return Failure(place, step, "SpaceError", message, "", stops)


def _count_nan(episode: Episode | EpisodePart) -> int:
    """Count the observations and rewards that hold a NaN."""
    n_nan = sum(count_nan(part.observations) for part in episode.columns.values())
    return n_nan + int(np.isnan(episode.rewards).sum())


def _joined(columns: Sequence[LeafColumn]) -> LeafColumn:
    if len(columns) == 1:
        return columns[0]
    data = b"".join([column.data for column in columns])
    return LeafColumn(columns[0].leaf, sum([column.n for column in columns]), data)
