"""Plays a recorded episode again, and shows whether it is the same.

The environment is built from the run's config and reset with the episode's seed; the actions are
those that were recorded, so that no policy is needed. It goes through the one episode loop, so
that the digest over observations, actions and rewards can be compared with the recorded one: if
they are equal, what is being looked at is what happened.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from gymnasium import spaces

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey, StructuredEnv
from maze.core.episode import Episode, EpisodePart, EpisodeRow, EpisodeSpec
from maze.core.errors import ConfigError, OutputError
from maze.core.events.event import Event
from maze.core.rollout.difference import Difference, data_difference, first_difference
from maze.core.rollout.job import (
    EnvRecipe,
    EnvSource,
    Job,
    PolicySource,
    WrapperSource,
    build_policy,
)
from maze.core.rollout.play import AfterStep, break_off
from maze.core.rollout.player import Player
from maze.core.rollout.run_directory import RunDirectory
from maze.core.rollout.setup import RunSetup
from maze.core.rollout.trust import check_trust, is_path
from maze.core.trajectory.columns import StepColumns, join_columns
from maze.core.trajectory.trajectory import StepTrajectory, Trajectory

ActedBy: TypeAlias = Literal["recording", "policy"]
"""Where the actions of a replay come from."""


class ReplayStoppedError(Exception):
    """Raised in place of an action that is not to be played: the replay ends here."""


@dataclass(frozen=True)
class Replay:
    """An episode that was played again."""

    episode: Episode
    """As it was played now."""
    row: EpisodeRow
    """What the run's episode table says of it."""
    acted_by: ActedBy
    first_difference: Difference | None
    """In what it differs first from the recorded one. ``None``: in nothing that was played."""
    stopped_before: str = ""
    """Why it was not played to its end, as a sentence; mostly empty."""

    @property
    def is_equal(self) -> bool:
        """Whether this is the recorded episode, from the reset to the end: the digest proves it."""
        return self.first_difference is None and not self.stopped_before

    @property
    def was_stopped(self) -> bool:
        """Whether it went on when there was no further action for it, or was not to go on."""
        return _was_stopped(self.episode)

    @property
    def explanation(self) -> str:
        """Whether it is the recorded episode, and how that is known."""
        difference = self.first_difference
        if self.is_equal:
            return f"it is the recorded episode: the digest is {self.row.digest}, as recorded"
        if difference is None:
            return f"{self.stopped_before}; up to there, nothing differs from what was recorded"
        blamed = {
            "environment": "; it is the environment that did something else",
            "policy": "; it is the policy that did something else",
            "": "",
        }
        return f"it differs from the recorded episode. {difference}{blamed[difference.whose]}"

    def __str__(self) -> str:
        return f"episode {self.row.episode_index}: {self.explanation}"


def replay_episode(
    run: RunDirectory,
    episode_index: int,
    *,
    env: EnvSource | None = None,
    policy: PolicySource = None,
    wrappers: WrapperSource = None,
    trust: bool = False,
    acted_by: ActedBy | None = None,
    beyond: bool = False,
    after_step: AfterStep | None = None,
    render_mode: str | None = None,
    around_env: Callable[[StructuredEnv], StructuredEnv] | None = None,
    around_policy: Callable[[StructuredPolicy], StructuredPolicy] | None = None,
) -> Replay:
    """Play a recorded episode again.

    An episode that failed is expected to fail again, in the same place with the same exception.
    One that ended its process or hung is played up to the step in which it did, not beyond.

    Args:
        run: the recorded run.
        episode_index: of the episode.
        env: takes the place of the config's, as do ``policy`` and ``wrappers``.
        policy: see ``acted_by``.
        wrappers: see ``env``.
        trust: whether to import what the config names, if that is not known to be harmless.
        acted_by: where the actions come from. ``None``: from the recording; from the policy if no
            actions were recorded, or if it was the policy that failed.
        beyond: whether to play on where an episode ended its process or hung.
        after_step: called after the reset and after each step, see ``Lane``.
        render_mode: for the environment, if it has none of its own.
        around_env: puts something around the environment and all its wrappers.
        around_policy: puts something around what acts.

    Raises:
        ConfigError: If environment or policy cannot be built, or must not be without ``trust``.
        OutputError: If there is no such episode.
    """
    row = recorded_row(run, episode_index)
    recorded = _recorded(run, row)
    acted_by = acted_by or _who_acts(row, recorded)
    if acted_by == "recording" and recorded is None and not _failed_before_acting(row):
        raise OutputError(
            f"no actions of episode {episode_index} were recorded in {run.path}: they have to come"
            " from the policy"
        )
    if not beyond and (reason := refusal(row)):
        raise ConfigError(
            f"episode {episode_index} is not played again: {reason}. --beyond plays it all the same"
            " (in Python: beyond=True)"
        )
    setup = _setup(run.config, env, policy, wrappers, trust, needs_policy=acted_by == "policy")
    if acted_by == "recording":
        setup = replace(setup, policy={"_target_": RecordedActions, "trajectory": recorded})
    limit = None if beyond else _safe_steps(row)
    spec = EpisodeSpec(row.episode_index, row.env_seed, row.agent_seed)
    try:
        job = _without_window(setup, render_mode).job()
        job = _staged(job, render_mode, limit, around_env, around_policy)
        (episode,) = play_episodes(job, [spec], after_step=after_step)
    except ConfigError as error:
        _tell_what_was_kept(error, setup)
        raise
    if limit is not None and _was_stopped(episode):
        n_steps = len(episode.rewards)
        known = "" if n_steps == limit else ", up to which the actions are known"
        return Replay(
            episode,
            row,
            acted_by,
            None if recorded is None else data_difference(recorded, episode),
            f"{_what_happened(row)} after {limit} steps, and is not played beyond step {n_steps}"
            f"{known}",
        )
    difference = first_difference(recorded, episode, row)
    if difference is not None and acted_by == "recording" and difference.whose == "policy":
        # It only did what was recorded: something else was asked of it.
        difference = replace(difference, whose="environment")
    if difference is not None and difference.kind == "ending" and _was_stopped(episode):
        difference = replace(difference, got="no end yet")
    return Replay(episode, row, acted_by, difference)


def play_episodes(
    job: Job,
    specs: Sequence[EpisodeSpec],
    *,
    after_step: AfterStep | None = None,
    render_mode: str | None = None,
) -> Iterator[Episode]:
    """Play specs in this process and yield the episodes themselves, with all that was seen.

    They are checked as in any run. Environment and policy are built once.
    """
    remaining = iter(specs)
    played: dict[int, Episode] = {}
    parts: dict[int, list[EpisodePart]] = {}

    def keep(episode: Episode) -> None:
        played[episode.spec.index] = episode

    def keep_part(part: EpisodePart) -> None:
        of_episode = parts.setdefault(part.spec.index, [])
        if part.part_id.number == 0:
            of_episode.clear()  # It was begun again.
        of_episode.append(part)

    player = Player(job, after_step=after_step, render_mode=render_mode, seeds_always=True)
    with player:
        batches = player.play(lambda _: next(remaining, None), on_end=keep, on_part=keep_part)
        for batch in batches:
            for row in batch.rows:
                episode = _as_checked(played.pop(row.episode_index), row)
                yield _whole(episode, parts.pop(row.episode_index, []))


def recorded_row(run: RunDirectory, episode_index: int) -> EpisodeRow:
    """Return the row of an episode.

    Raises:
        OutputError: If the run has no such episode.
    """
    try:
        return run.table.row(episode_index)
    except KeyError:
        raise OutputError(
            f"there is no episode {episode_index} in {run.path}: it has {len(run.table)},"
            " counted from 0"
        ) from None


def refusal(row: EpisodeRow) -> str:
    """Return why an episode must not be played again at all; mostly an empty text.

    That is so if it ended its process or hung, and it is not known that it came past the reset.
    """
    failure = row.failure
    if failure is None or not is_dangerous(row):
        return ""
    is_past_reset = failure.step > 0 or failure.place in ("step", "policy")
    if is_past_reset:
        return ""
    return (
        f"{_what_happened(row)}, before its first step as far as is known, and would do so here"
        f" ({failure.exception_type}: {failure.message})"
    )


class RecordedActions(StructuredPolicy):
    """Acts as was recorded, whatever it observes.

    Args:
        trajectory: the recording; ``None`` for one without any action.
        action_spaces: the environment's.

    Raises:
        ConfigError: If the recorded actions are not of these spaces.
    """

    def __init__(
        self, trajectory: Trajectory | None, action_spaces: Mapping[StepKey, spaces.Dict]
    ) -> None:
        self._turns: dict[int, tuple[ActorID, Any, int]] = {}
        for step_key, part in ({} if trajectory is None else trajectory.by_step_key).items():
            if step_key not in action_spaces:
                raise ConfigError(
                    f"step key {step_key!r} was recorded, but the environment has"
                    f" {list(action_spaces)}: this is not the environment of the run"
                )
            take = _taker(action_spaces[step_key], part.actions, f"of step key {step_key!r}")
            for row in range(_n_actions(part)):
                actor = ActorID(step_key, int(part.agent_ids[row]))
                self._turns[int(part.steps[row])] = actor, take, row

    def start_episode(self, seed: int) -> Iterator[int]:
        """Return a counter of the sub-steps."""
        return itertools.count()

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        """Return the recorded action of this sub-step.

        Raises:
            ReplayStoppedError: If there is none, or it was another actor's turn.
        """
        step = next(memory)
        if step not in self._turns:
            raise ReplayStoppedError(f"no action was recorded at step {step}")
        recorded_actor, take, row = self._turns[step]
        if recorded_actor != actor:
            raise ReplayStoppedError(f"the action at step {step} is that of {recorded_actor}")
        action: Action = take(row)
        return action


# What is played.


def _recorded(run: RunDirectory, row: EpisodeRow) -> Trajectory | None:
    try:
        return run.trajectory(row.episode_index)
    except OutputError:
        return None


def _who_acts(row: EpisodeRow, recorded: Trajectory | None) -> ActedBy:
    if row.failure is not None and row.failure.place == "policy":
        return "policy"
    return "recording" if recorded is not None or _failed_before_acting(row) else "policy"


def _failed_before_acting(row: EpisodeRow) -> bool:
    return row.failure is not None and row.failure.place in ("construction", "reset")


def is_dangerous(row: EpisodeRow) -> bool:
    """Return whether an episode ended its process or hung, and so might again."""
    failure = row.failure
    return failure is not None and (
        failure.place == "worker" or failure.exception_type == "DeadlineExceeded"
    )


def _safe_steps(row: EpisodeRow) -> int | None:
    """Return the number of sub-steps that can be played; ``None``: all."""
    return row.failure.step if row.failure is not None and is_dangerous(row) else None


def _what_happened(row: EpisodeRow) -> str:
    assert row.failure is not None
    return "it hung" if row.failure.exception_type == "DeadlineExceeded" else "it ended its process"


def _was_stopped(episode: Episode) -> bool:
    failure = episode.failure
    return failure is not None and failure.exception_type == ReplayStoppedError.__name__


def _setup(
    config: Mapping[str, Any],
    env: EnvSource | None,
    policy: PolicySource,
    wrappers: WrapperSource,
    trust: bool,
    needs_policy: bool,
) -> RunSetup:
    given = {"env": env, "policy": policy, "wrappers": wrappers}
    given = {group: value for group, value in given.items() if value is not None}
    used = ("runner", "env", "wrappers", *(("policy", "model") if needs_policy else ()))
    check_trust(config, trust, [group for group in used if group not in given])
    return replace(RunSetup.from_config(config), **given)  # type: ignore[arg-type]


def _without_window(setup: RunSetup, render_mode: str | None) -> RunSetup:
    """Keep an environment that was watched when it was recorded from opening a window now."""
    env = setup.env
    if isinstance(env, Mapping) and env.get("render_mode") == "human" and render_mode != "human":
        return replace(setup, env={**env, "render_mode": None})
    return setup


def _tell_what_was_kept(error: ConfigError, setup: RunSetup) -> None:
    """Add to an error that an environment or policy from Python is perhaps not what it was."""
    for group, source in (("env", setup.env), ("policy", setup.policy)):
        if isinstance(source, str) and is_path(source):
            error.add_note(
                f"The run was set up in Python, and of its {group} only the path {source} was"
                f" kept. If it took arguments, pass it: maze.replay(..., {group}=...)"
            )


def _staged(
    job: Job,
    render_mode: str | None,
    limit: int | None,
    around_env: Callable[[StructuredEnv], StructuredEnv] | None,
    around_policy: Callable[[StructuredPolicy], StructuredPolicy] | None,
) -> Job:
    """Put around environment and policy what there is to be put around them."""
    recipe = job.env if render_mode is None else job.env.rendering(render_mode)
    built: list[StructuredEnv] = []

    def build_env() -> StructuredEnv:
        env = recipe.take_given() or recipe.build()
        built.append(env if around_env is None else around_env(env))
        return built[-1]

    def make_policy() -> StructuredPolicy:
        policy = build_policy(job.policy, built[-1])
        if limit is not None:
            policy = _UpTo(policy, limit)
        return policy if around_policy is None else around_policy(policy)

    return replace(job, env=EnvRecipe(build_env), policy={"_target_": make_policy})


class _UpTo(StructuredPolicy):
    """Acts for the first so many sub-steps."""

    def __init__(self, policy: StructuredPolicy, n_steps: int) -> None:
        self._policy, self._n_steps = policy, n_steps
        self.emits_events = policy.emits_events

    def take_events(self, memory: Any) -> Sequence[Event]:
        return self._policy.take_events(memory[1])

    def start_episode(self, seed: int) -> tuple[Iterator[int], Any]:
        # What hung before the first action may have hung here.
        memory = self._policy.start_episode(seed) if self._n_steps else None
        return itertools.count(), memory

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        steps, inner = memory
        if next(steps) >= self._n_steps:
            raise ReplayStoppedError("the rest is not to be played")
        return self._policy.act(observation, actor, inner, deterministic)


def _as_checked(episode: Episode, row: EpisodeRow) -> Episode:
    """Return the episode as the checks after its end left it."""
    failure = row.failure
    if failure is not None and failure != episode.failure:
        episode = break_off(episode, failure, with_action=failure.place == "policy")
    return episode._replace(n_nan=row.n_nan)


def _whole(episode: Episode, parts: Sequence[EpisodePart]) -> Episode:
    """Return an episode with the data that it had handed over in parts."""
    if episode.handed_over is None:
        return episode
    pieces: list[EpisodePart | Episode] = [*parts, episode]
    columns: dict[StepKey, StepColumns] = {}
    for key in dict.fromkeys(key for piece in pieces for key in piece.columns):
        columns[key] = join_columns(
            [piece.columns[key] for piece in pieces if key in piece.columns]
        )
    env_times = None
    if episode.env_times is not None:
        env_times = [time for piece in pieces for time in piece.env_times or ()]
    return episode._replace(
        rewards=np.concatenate([piece.rewards for piece in pieces]),
        env_times=env_times,
        columns=columns,
        events=[event for piece in pieces for event in piece.events],
        handed_over=None,
        digest_of_parts=episode.digest,
    )


# Recorded actions.


def n_recorded_actions(trajectory: Trajectory) -> int:
    """Return how many actions were recorded, that on which an environment failed included."""
    return sum(_n_actions(part) for part in trajectory.by_step_key.values())


def _n_actions(part: StepTrajectory) -> int:
    actions = part.actions
    while isinstance(actions, dict | tuple):
        values = list(actions.values()) if isinstance(actions, dict) else list(actions)
        if not values:
            return len(part.rewards)
        actions = values[0]
    return len(actions)


def _taker(space: spaces.Space[Any], values: Any, name: str) -> Callable[[int], Any]:
    """Return a function from a row to the action in it, as a value of the space."""
    if isinstance(space, spaces.Dict) and isinstance(values, dict):
        if list(space) == list(values):
            by_key = {
                key: _taker(child, values[key], f"{name}, {key!r}") for key, child in space.items()
            }
            return lambda row: {key: take(row) for key, take in by_key.items()}
    elif isinstance(space, spaces.Tuple) and isinstance(values, tuple):
        if len(space.spaces) == len(values):
            parts = [
                _taker(child, values[i], f"{name}, {i}") for i, child in enumerate(space.spaces)
            ]
            return lambda row: tuple(take(row) for take in parts)
    elif isinstance(space, spaces.Discrete) and _is_column(values, np.dtype(np.int64), ()):
        # As policies mostly give them.
        is_usual = space.dtype == np.int64
        return lambda row: int(values[row]) if is_usual else space.dtype.type(values[row])
    elif isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        if _is_column(values, np.dtype(space.dtype), tuple(space.shape or ())):
            # A copy: the recording is not to be written to, and the environment may.
            return lambda row: np.array(values[row])
    elif isinstance(values, list):
        return lambda row: values[row]
    raise ConfigError(
        f"the recorded actions {name} are not of the environment's action space {space}: this is"
        " not the environment of the run"
    )


def _is_column(values: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == dtype and values.shape[1:] == shape
