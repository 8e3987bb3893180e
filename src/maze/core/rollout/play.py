"""The one episode loop, and the driver that advances several episodes together.

``Lane.play`` plays one spec in one environment. It is a generator: it yields an observation and
is sent the action, so that the same loop serves a policy that is asked for one action at a time
and one that is asked for a batch of them. ``drive`` is the driver. Everything else in Maze that
plays episodes (runners, workers, trainers) calls it.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np
import xxhash

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey, StructuredEnv
from maze.core.errors import ContractError
from maze.core.events.event import Event, measure_events
from maze.core.rollout.episode import (
    Ending,
    Episode,
    EpisodeSpec,
    Failure,
    FailurePlace,
    TruncatedBy,
)
from maze.core.trajectory.columns import LeafColumn, SpaceRecorder, StepColumns, count_nan

OnNaN: TypeAlias = Literal["fail", "count", "stop"]
OnOutOfSpace: TypeAlias = Literal["stop", "fail", "allow"]

_NUMBER_TYPES = frozenset(
    {
        *(float, int, np.float64, np.float32, np.float16),
        *(np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8),
    }
)
_FLAG_TYPES = frozenset({bool, np.bool_})


@dataclass(frozen=True)
class PlayOptions:
    """How episodes are played and checked."""

    max_episode_steps: int = 0
    """Structured steps after which the runner cuts an episode off. 0: no limit of the runner's."""
    on_nan: OnNaN = "fail"
    """A NaN among observations or rewards fails the episode, is only counted, or stops the run."""
    on_out_of_space: OnOutOfSpace = "stop"
    """An observation or action outside its space's bounds stops the run, fails the episode, or is
    allowed. Wrong types, dtypes and shapes always stop the run: they cannot be recorded."""


def episode_id(spec: EpisodeSpec) -> str:
    """Return the id of the episode that a spec stands for: its index and a hash of its seeds."""
    seeds = blake2b(f"{spec.env_seed},{spec.agent_seed}".encode(), digest_size=4).hexdigest()
    return f"{spec.index:06d}-{seeds}"


def seed_global_generators(seed: int) -> None:
    """Set the generators that an environment or policy may use behind our back."""
    random.seed(seed)
    np.random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


class _PolicyFailed(Exception):
    """Thrown into an episode whose policy raised; the cause is what it raised."""


class Lane:
    """One environment in which one episode at a time is played."""

    actor: ActorID
    """Who has to act on the observation that was yielded last."""
    policy_seconds: float
    """Set by the driver where the policy is asked for batches: this episode's share."""

    def __init__(
        self,
        build_env: Callable[[], StructuredEnv],
        options: PlayOptions,
        *,
        shares_process: bool = False,
        given: StructuredEnv | None = None,
        after_step: Callable[[StructuredEnv], None] | None = None,
    ) -> None:
        """Prepare a lane; the environment is built by ``open`` or when first needed.

        Args:
            build_env: makes the environment; called again after an episode broke it.
            options: limits and checks.
            shares_process: whether other lanes are played in between, so that the global random
                generators cannot be set for each episode, and time has to be shared out.
            given: an environment to use first, which is not closed in the end.
            after_step: called with the environment after each reset and step, to render it.
        """
        self._build_env = build_env
        self._options = options
        self._shares_process = shares_process
        self._given = given
        self._after_step = after_step
        self.env: StructuredEnv | None = None
        self.policy_seconds = 0.0

    def open(self) -> StructuredEnv:
        """Build the environment, unless it is there, and return it."""
        if self.env is None:
            self.env = env = self._given or self._build_env()
            self._recorders = {
                key: (
                    SpaceRecorder(env.observation_spaces[key], "observation"),
                    SpaceRecorder(env.action_spaces[key], "action"),
                )
                for key in env.observation_spaces
            }
            if env.is_flat:
                self.actor = env.actor_id()
        return self.env

    def close(self) -> None:
        """Close the environment."""
        env, self.env = self.env, None
        given, self._given = self._given, None
        if env is not None and env is not given:
            with contextlib.suppress(Exception):
                env.close()

    def play(self, spec: EpisodeSpec) -> Generator[Observation, Action, Episode]:
        """Play one episode: yields observations, is sent actions, returns the episode.

        Whatever goes wrong in the environment, or is thrown in by the driver, ends up in the
        episode's ``failure``. Only interrupts pass through.
        """
        clock = perf_counter
        started = clock()
        away = env_seconds = 0.0
        self.policy_seconds = 0.0
        rewards: list[float] = []
        events: list[tuple[int, Event]] = []
        env_times: list[int] | None = None
        steps_of: dict[StepKey, list[int]] = {}
        agents_of: dict[StepKey, list[int]] = {}
        terminated: Any = False
        truncated: Any = False
        n_steps = 0
        place: FailurePlace = "construction"
        failure: Failure | None = None
        limit = self._options.max_episode_steps or sys.maxsize
        after_step = self._after_step
        try:
            env = self.open()
            place = "reset"
            if not self._shares_process:
                seed_global_generators(spec.env_seed)
            for observed, acted in self._recorders.values():
                observed.take()
                acted.take()
            pending = env.events
            pending.clear()
            before = clock()
            reset = env.reset(seed=spec.env_seed)
            env_seconds = clock() - before
            try:
                observation, _ = reset
            except (TypeError, ValueError):
                raise ContractError(
                    f"reset returned {_describe(reset)}, expected (observation, info)"
                ) from None
            structured = not env.is_flat
            if structured:
                env_times = []
                self.actor = env.actor_id()
                self._begin_sub_step(steps_of, agents_of, 0)
            observed, acted = self._recorders[self.actor.step_key]
            record_observation, record_action = observed.record, acted.record
            record_observation(observation)
            if pending:
                events.extend((0, event) for event in pending)
                pending.clear()
            if after_step is not None:
                after_step(env)
            step, collect_reward = env.step, rewards.append
            while True:
                place = "policy"
                before = clock()
                action = yield observation
                record_action(action)
                place = "step"
                after = clock()
                away += after - before
                observation, reward, terminated, truncated, _ = step(action)
                env_seconds += clock() - after
                collect_reward(reward)
                if structured:
                    assert env_times is not None
                    env_times.append(n_steps)
                    if pending:
                        events.extend((n_steps, event) for event in pending)
                        pending.clear()
                    n_steps = env.env_time()
                    self.actor = env.actor_id()
                    observed, acted = self._recorders[self.actor.step_key]
                    record_observation, record_action = observed.record, acted.record
                    record_observation(observation)
                    self._begin_sub_step(steps_of, agents_of, len(rewards))
                else:
                    if pending:
                        events.extend((n_steps, event) for event in pending)
                        pending.clear()
                    n_steps += 1
                    record_observation(observation)
                if after_step is not None:
                    after_step(env)
                if terminated or truncated:
                    break
                if n_steps >= limit:
                    break
            _check_step_results(rewards, terminated, truncated)
        except (Exception, SystemExit) as error:
            if isinstance(error, _PolicyFailed):
                place, error = "policy", error.__cause__ or error  # type: ignore[assignment]
            failure = _failure(place, len(rewards), error)
        return self._finish(
            spec=spec,
            rewards=rewards,
            env_times=env_times,
            steps_of=steps_of,
            agents_of=agents_of,
            events=events,
            terminated=bool(terminated),
            truncated=bool(truncated),
            n_steps=n_steps,
            failure=failure,
            env_seconds=env_seconds,
            away=away,
            started=started,
        )

    def _begin_sub_step(
        self, steps_of: dict[StepKey, list[int]], agents_of: dict[StepKey, list[int]], step: int
    ) -> None:
        step_key, agent_id = self.actor
        steps_of.setdefault(step_key, []).append(step)
        agents_of.setdefault(step_key, []).append(agent_id)

    def _finish(
        self,
        spec: EpisodeSpec,
        rewards: list[float],
        env_times: list[int] | None,
        steps_of: dict[StepKey, list[int]],
        agents_of: dict[StepKey, list[int]],
        events: list[tuple[int, Event]],
        terminated: bool,
        truncated: bool,
        n_steps: int,
        failure: Failure | None,
        env_seconds: float,
        away: float,
        started: float,
    ) -> Episode:
        columns: dict[StepKey, StepColumns] = {}
        if self.env is not None:
            for key, (observed, acted) in self._recorders.items():
                observations, actions = observed.take(), acted.take()
                columns[key] = StepColumns(
                    observations,
                    actions,
                    n_observations=_length(observations, steps_of.get(key), rewards, failure),
                    n_actions=_length(actions, None, rewards, failure),
                    steps=steps_of.get(key) if env_times is not None else None,
                    agent_ids=agents_of.get(key) if env_times is not None else None,
                )
        offence = self._first_offence(columns, rewards)
        if offence is not None and (failure is None or offence.step <= failure.step):
            failure = offence
        if failure is not None:
            # Of a failed episode, what led to the failure is kept, and nothing after it.
            columns = {
                key: _cut(part, failure.step, keep_action=failure is not offence or failure.place == "policy")
                for key, part in columns.items()
            }
            rewards = rewards[: failure.step]
            if env_times is None:
                n_steps = len(rewards)
            elif failure.step < len(env_times):
                n_steps = env_times[failure.step]
                env_times = env_times[: failure.step]
            events = [(time, event) for time, event in events if time <= n_steps]
        ending: Ending
        truncated_by: TruncatedBy = ""
        if failure is not None:
            ending = "failed"
            self.close()  # What it left behind may be half done: the next one gets a fresh one.
        elif terminated:
            ending = "terminated"
        else:
            ending, truncated_by = "truncated", "env" if truncated else "runner"
        n_nan = 0
        if self._options.on_nan == "count" or failure is not None:
            n_nan = sum(count_nan(part.observations) for part in columns.values())
            n_nan += sum(1 for reward in rewards if reward != reward)
        policy_seconds = self.policy_seconds if self._shares_process else away
        seconds = perf_counter() - started
        if self._shares_process:
            seconds += policy_seconds - away
        return Episode(
            spec=spec,
            episode_id=episode_id(spec),
            ending=ending,
            truncated_by=truncated_by,
            rewards=rewards,
            env_times=env_times,
            n_steps=n_steps,
            columns=columns,
            events=events,
            statistics=measure_events(events) if events else {},
            digest=_digest(columns, rewards),
            episode_return=_sum(rewards),
            seconds=seconds,
            env_seconds=env_seconds,
            policy_seconds=policy_seconds,
            n_nan=n_nan,
            failure=failure,
        )

    def _first_offence(
        self, columns: dict[StepKey, StepColumns], rewards: Sequence[float]
    ) -> Failure | None:
        """Find the first NaN or value out of bounds, if such a value is to fail the episode."""
        options = self._options
        found: list[tuple[int, int, Failure]] = []
        for key, part in columns.items():
            observed, acted = self._recorders[key]
            for recorder, leaves, is_policy in (
                (observed, part.observations, False),
                (acted, part.actions, True),
            ):
                offence = recorder.first_offence(leaves)
                if offence is None:
                    continue
                if offence.kind == "nan" and not is_policy:
                    if options.on_nan == "count":
                        continue
                    stops = options.on_nan == "stop"
                else:
                    if options.on_out_of_space == "allow":
                        continue
                    stops = options.on_out_of_space == "stop"
                step = offence.index if part.steps is None else part.steps[offence.index]
                place: FailurePlace = "policy" if is_policy else "step" if step else "reset"
                message = offence.message
                if offence.kind == "nan" and not is_policy:
                    message += " (runner.on_nan=count records it and goes on)"
                elif not is_policy:
                    message += (
                        ". If the space is wrong rather than the environment,"
                        " runner.on_out_of_space=allow records it and goes on"
                    )
                else:
                    message += " (clip it, for instance; runner.on_out_of_space=allow plays it)"
                failure = Failure(place, step, "SpaceError", message, "", stops)
                found.append((step, int(is_policy), failure))
        if options.on_nan != "count" and _sum(rewards) != _sum(rewards):
            step = next(i for i, reward in enumerate(rewards) if reward != reward) + 1
            message = "the reward is NaN (runner.on_nan=count records it and goes on)"
            stops = options.on_nan == "stop"
            found.append((step, 0, Failure("step", step, "SpaceError", message, "", stops)))
        return min(found, key=lambda item: item[:2])[2] if found else None


def _length(
    columns: Sequence[LeafColumn],
    steps: Sequence[int] | None,
    rewards: Sequence[float],
    failure: Failure | None,
) -> int:
    if columns:
        return columns[0].n
    if steps is not None:
        return len(steps)
    return len(rewards)


def _cut(part: StepColumns, step: int, keep_action: bool) -> StepColumns:
    """Keep what happened up to and including the observation (or the action on it) of a step."""
    if part.steps is None:
        n_observations, n_actions = step + 1, step + keep_action
    else:
        n_observations = sum(1 for index in part.steps if index <= step)
        n_actions = sum(1 for index in part.steps if index < step + keep_action)
    return part.first(n_observations, n_actions)


def _sum(rewards: Sequence[float]) -> float:
    """Sum rewards, correctly rounded, so that no order of summation can show."""
    try:
        return math.fsum(rewards)
    except (OverflowError, ValueError):  # Infinities of both signs, or beyond the largest float.
        return float(np.sum(np.array(rewards, dtype=np.float64)))
    except TypeError:
        return math.nan


def _digest(columns: dict[StepKey, StepColumns], rewards: Sequence[float]) -> str:
    """Hash observations, actions and rewards. xxh3: 128 bits, some 20 GB/s, not cryptographic."""
    digest = xxhash.xxh3_128()
    for key, part in columns.items():
        if part.steps is not None:
            digest.update(repr((key, list(part.steps), list(part.agent_ids or ()))))
        for column in (*part.observations, *part.actions):
            for data in column.digest_parts():
                digest.update(data)
    digest.update(np.array(rewards, dtype=np.float64).tobytes())
    return digest.hexdigest()


def _check_step_results(rewards: list[float], terminated: Any, truncated: Any) -> None:
    """Check the types of what the steps returned, for all the steps of an episode at once."""
    types = set(map(type, rewards))
    if not types <= _NUMBER_TYPES:
        step, wrong = next(
            (i, reward) for i, reward in enumerate(rewards) if type(reward) not in _NUMBER_TYPES
        )
        del rewards[step:]
        raise ContractError(
            f"the reward of step {step} is {_describe(wrong)}, expected a number (float(...) it)"
        )
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if type(flag) not in _FLAG_TYPES:
            raise ContractError(f"{name} is {_describe(flag)}, expected a bool")


def _describe(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)} values"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _failure(place: FailurePlace, step: int, error: BaseException) -> Failure:
    return Failure(
        place=place,
        step=step,
        exception_type=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        is_contract_violation=isinstance(error, ContractError),
    )


def drive(
    lanes: Sequence[Lane],
    policy: StructuredPolicy,
    next_spec: Callable[[bool], EpisodeSpec | None],
    deterministic: bool = True,
) -> Iterator[Episode]:
    """Play specs until there are no more, and yield the episodes as they end.

    Args:
        lanes: environments to play in. With several, the policy is asked for a batch of actions.
        policy: decides.
        next_spec: gives the next spec, or ``None`` for none now. It is called with ``True`` when
            nothing is being played: then ``None`` means that there are no more.
        deterministic: passed to the policy.
    """
    if len(lanes) == 1:
        while (spec := next_spec(True)) is not None:
            yield _play_alone(lanes[0], policy, spec, deterministic)
    else:
        yield from _play_together(lanes, policy, next_spec, deterministic)


def _play_alone(
    lane: Lane, policy: StructuredPolicy, spec: EpisodeSpec, deterministic: bool
) -> Episode:
    turns = lane.play(spec)
    act, send = policy.act, turns.send
    try:
        observation = next(turns)
        try:
            memory = policy.start_episode(spec.agent_seed)
            while True:
                action = act(observation, lane.actor, memory, deterministic)
                try:
                    observation = send(action)
                except StopIteration as end:
                    return _played(end)
        except (Exception, SystemExit) as error:
            failed = _PolicyFailed()
            failed.__cause__ = error
            turns.throw(failed)
    except StopIteration as end:
        return _played(end)
    raise AssertionError("an episode goes on after its policy failed")


def _played(end: StopIteration) -> Episode:
    episode = end.value
    assert isinstance(episode, Episode)
    return episode


@dataclass
class _Turn:
    """An episode that waits for its next action."""

    lane: Lane
    spec: EpisodeSpec
    turns: Generator[Observation, Action, Episode]
    observation: Observation
    memory: Any


def _play_together(
    lanes: Sequence[Lane],
    policy: StructuredPolicy,
    next_spec: Callable[[bool], EpisodeSpec | None],
    deterministic: bool,
) -> Iterator[Episode]:
    free = list(reversed(lanes))
    playing: list[_Turn] = []
    while True:
        while free and (spec := next_spec(not playing)) is not None:
            lane = free.pop()
            turns = lane.play(spec)
            try:
                observation = next(turns)
            except StopIteration as end:
                free.append(lane)
                yield _played(end)
                continue
            try:
                playing.append(
                    _Turn(lane, spec, turns, observation, policy.start_episode(spec.agent_seed))
                )
            except (Exception, SystemExit):
                turns.close()
                yield _play_alone(lane, policy, spec, deterministic)
                free.append(lane)
        if not playing:
            return
        before = perf_counter()
        try:
            actions = policy.act_batch(
                [turn.observation for turn in playing],
                [turn.lane.actor for turn in playing],
                [turn.memory for turn in playing],
                deterministic,
            )
            if len(actions) != len(playing):
                raise ContractError(
                    f"act_batch returned {len(actions)} actions for {len(playing)} observations"
                )
        except (Exception, SystemExit):
            # One of them is to blame, and the others must not suffer. Played again from their
            # seeds, each alone, exactly those fail that have to.
            for turn in playing:
                turn.turns.close()
            for turn in playing:
                yield _play_alone(turn.lane, policy, turn.spec, deterministic)
                free.append(turn.lane)
            playing = []
            continue
        share = (perf_counter() - before) / len(playing)
        going_on: list[_Turn] = []
        for turn, action in zip(playing, actions, strict=True):
            turn.lane.policy_seconds += share
            try:
                turn.observation = turn.turns.send(action)
                going_on.append(turn)
            except StopIteration as end:
                free.append(turn.lane)
                yield _played(end)
        playing = going_on
