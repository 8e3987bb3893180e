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
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import xxhash
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey, StructuredEnv
from maze.core.episode import (
    Ending,
    Episode,
    EpisodeSpec,
    EpisodeTiming,
    Failure,
    FailurePlace,
    TruncatedBy,
)
from maze.core.errors import ConfigError, ContractError
from maze.core.events.event import Event, Measurement, measure_events
from maze.core.rollout.interrupts import is_from_outside
from maze.core.trajectory.columns import SpaceRecorder, StepColumns

AfterStep: TypeAlias = Callable[[StructuredEnv, EpisodeSpec, int], None]
"""Gets the environment, the spec that is played, and the number of sub-steps done."""

TIMED_EVERY = 8
"""Of so many episodes, one is measured for how its time is split."""

_NUMBER_TYPES = frozenset(
    {
        *(float, int, np.float64, np.float32, np.float16),
        *(np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8),
    }
)
_FLAG_TYPES = frozenset({bool, np.bool_})
_NOTHING_MEASURED = Measurement({}, frozenset())


@dataclass(frozen=True)
class PlayOptions:
    """How episodes are played."""

    max_episode_steps: int = 0
    """Structured steps after which the runner cuts an episode off. 0: no limit of the runner's."""


def episode_id(spec: EpisodeSpec) -> str:
    """Return the id of the episode that a spec stands for: its index and a hash of its seeds."""
    seeds = xxhash.xxh32_hexdigest(b"%d,%d" % (spec.env_seed, spec.agent_seed))
    return f"{spec.index:06d}-{seeds}"


def seed_global_generators(seed: int) -> None:
    """Set the generators that an environment or policy may use behind our back."""
    random.seed(seed)
    np.random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


class GlobalGenerators:
    """Notices whether an environment or policy draws from a global random generator.

    Setting the global generators takes longer than anything else at the start of an episode, and
    hardly any environment uses them. So they are set for an episode only once it is known
    that somebody does. To notice it, one number is drawn after each episode and compared with
    what an untouched copy gives; the episode in which it happened first is then played again.
    """

    def __init__(self) -> None:
        self.are_used = False
        self.restart()

    def restart(self) -> None:
        """Forget what was drawn, in the making of an environment for instance."""
        seed_global_generators(0)
        self._python, self._numpy = random.Random(0), np.random.RandomState(0)

    def begin(self, seed: int) -> None:
        """Prepare for an episode; ``seed`` is what to set the generators to, if they are used."""
        if self.are_used or "torch" in sys.modules:
            seed_global_generators(seed)

    def found_use(self) -> bool:
        """Return whether they were used for the first time since the last call."""
        if self.are_used or "torch" in sys.modules:
            return False
        self.are_used = (
            random.random() != self._python.random()
            or np.random.random_sample() != self._numpy.random_sample()
        )
        return self.are_used


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
        after_step: AfterStep | None = None,
    ) -> None:
        """Prepare a lane; the environment is built by ``open`` or when first needed.

        Args:
            build_env: makes the environment; called again after an episode broke it.
            options: limits.
            shares_process: whether other lanes are played in between, so that the global random
                generators cannot be set for each episode, and time has to be shared out.
            given: an environment to use first, which is not closed in the end.
            after_step: called after each reset and step, to render the environment.
        """
        self._build_env = build_env
        self._options = options
        self._shares_process = shares_process
        self._given = given
        self._after_step = after_step
        self.env: StructuredEnv | None = None
        self.policy_seconds = 0.0
        self._is_clean = True
        self._generators = None if shares_process else GlobalGenerators()

    def open(self) -> StructuredEnv:
        """Build the environment, unless it is there, and return it."""
        if self.env is None:
            if self._generators is not None:
                self._generators.restart()
            self.env = env = self._given or self._build_env()
            if self._generators is not None:
                self._generators.restart()
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
        # Reading the clock three times in each step would cost more than recording the step.
        is_timed = self._shares_process or spec.index % TIMED_EVERY == 0
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
            if self._generators is not None:
                self._generators.begin(spec.env_seed)
            if not self._is_clean:  # The last episode was abandoned.
                for observed, acted in self._recorders.values():
                    observed.take()
                    acted.take()
            self._is_clean = False
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
                before = clock()
                after_step(env, spec, 0)
                env_seconds += clock() - before
            step, collect_reward = env.step, rewards.append
            while True:
                place = "policy"
                if is_timed:
                    before = clock()
                action = yield observation
                record_action(action)
                place = "step"
                if is_timed:
                    after = clock()
                    away += after - before
                observation, reward, terminated, truncated, _ = step(action)
                if is_timed:
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
                    before = clock()
                    after_step(env, spec, len(rewards))
                    env_seconds += clock() - before
                if terminated or truncated:
                    break
                if n_steps >= limit:
                    break
            _check_flags(terminated, truncated)
        except ConfigError:
            raise  # It is about the request, not about this episode.
        except DependencyNotInstalled as error:
            raise ConfigError(f"the environment misses a dependency: {error}") from error
        except BaseException as error:
            if is_from_outside(error):
                raise
            if isinstance(error, _PolicyFailed):
                place, error = "policy", error.__cause__ or error
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
            is_timed=is_timed,
        )

    def has_to_repeat(self) -> bool:
        """Return whether the episode just played has to be played again, see the generators."""
        return self._generators is not None and self._generators.found_use()

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
        is_timed: bool,
    ) -> Episode:
        columns: dict[StepKey, StepColumns] = {}
        if self.env is not None:
            for key, (observed, acted) in self._recorders.items():
                observations, actions = observed.take(), acted.take()
                steps = steps_of.get(key, []) if env_times is not None else None
                columns[key] = StepColumns(
                    observations,
                    actions,
                    n_observations=observations[0].n if observations else len(rewards),
                    n_actions=actions[0].n if actions else len(rewards),
                    steps=steps,
                    agent_ids=agents_of.get(key, []) if env_times is not None else None,
                )
            self._is_clean = True
        measured, events, event_failure = _measured(events, len(rewards))
        failure = failure or event_failure
        ending: Ending
        truncated_by: TruncatedBy = ""
        if failure is not None:
            ending = "failed"
            self.close()  # What it left behind may be half done: the next one gets a fresh one.
        elif terminated:
            ending = "terminated"
        else:
            ending, truncated_by = "truncated", "env" if truncated else "runner"
        reward_failure: Failure | None = None
        try:
            if not _NUMBER_TYPES.issuperset(map(type, rewards)):
                raise TypeError
            reward_column = np.array(rewards, dtype=np.float64)
        except (TypeError, OverflowError):
            reward_failure = _reward_failure(rewards)
            rewards = rewards[: reward_failure.step] + [0.0] * (len(rewards) - reward_failure.step)
            reward_column = np.array(rewards, dtype=np.float64)
        policy_seconds = self.policy_seconds if self._shares_process else away
        seconds = perf_counter() - started
        if self._shares_process:
            seconds += policy_seconds - away
        episode = Episode(
            spec=spec,
            episode_id=episode_id(spec),
            ending=ending,
            truncated_by=truncated_by,
            rewards=reward_column,
            env_times=env_times,
            n_steps=n_steps,
            columns=columns,
            events=events,
            statistics=measured.numbers,
            zero_statistics=measured.zero_without_events,
            digest=digest_of(columns, reward_column),
            episode_return=sum_rewards(rewards),
            seconds=seconds,
            timing=EpisodeTiming(seconds, env_seconds, policy_seconds) if is_timed else None,
            failure=failure,
        )
        return (
            episode
            if reward_failure is None
            else break_off(episode, reward_failure, with_action=True)
        )


def break_off(episode: Episode, failure: Failure, *, with_action: bool) -> Episode:
    """Return the episode without all that came after a failure that was noticed only later.

    Args:
        episode: was played on.
        failure: that of which the episode would have ended, after ``failure.step`` steps.
        with_action: whether the policy had acted once more by then.
    """
    step = failure.step
    rewards, env_times, n_steps = episode.rewards[:step], episode.env_times, step
    if env_times is not None:
        n_steps = env_times[step] if step < len(env_times) else episode.n_steps
        env_times = env_times[:step]
    columns: dict[StepKey, StepColumns] = {}
    for key, part in episode.columns.items():
        columns[key] = part.until(step, with_action=with_action)
    # Events know their time and not their sub-step: those of an unfinished step are all kept.
    is_over = n_steps if env_times is None else n_steps + 1
    events = [(time, event) for time, event in episode.events if time < max(is_over, 1)]
    measured, events, _ = _measured(events, step)
    return episode._replace(
        ending="failed",
        truncated_by="",
        rewards=rewards,
        env_times=env_times,
        n_steps=n_steps,
        columns=columns,
        events=events,
        statistics=measured.numbers,
        zero_statistics=measured.zero_without_events,
        digest=digest_of(columns, rewards),
        episode_return=sum_rewards(rewards.tolist()),
        failure=failure,
    )


def sum_rewards(rewards: Sequence[float]) -> float:
    """Sum rewards, correctly rounded, so that no order of summation can show."""
    try:
        return math.fsum(rewards)
    except (OverflowError, ValueError):  # Infinities of both signs, or beyond the largest float.
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.sum(np.array(rewards, dtype=np.float64)))
    except TypeError:
        return math.nan


def digest_of(columns: dict[StepKey, StepColumns], rewards: NDArray[np.float64]) -> str:
    """Hash observations, actions and rewards. xxh3: 128 bits, some 20 GB/s, not cryptographic."""
    digest = xxhash.xxh3_128()
    for key, part in columns.items():
        if part.steps is not None:
            digest.update(repr((key, list(part.steps), list(part.agent_ids or ()))).encode())
        for column in (*part.observations, *part.actions):
            digest.update(column.digest_data())
    digest.update(rewards.tobytes())
    return digest.hexdigest()


def _reward_failure(rewards: Sequence[Any]) -> Failure:
    """Tell of the first reward that is not a number, or not one that fits 64 bits."""
    step, wrong = next((i, reward) for i, reward in enumerate(rewards) if not _is_number(reward))
    message = f"the reward is {_describe(wrong)}, expected a number (float(...) it)"
    return Failure("step", step, "ContractError", message, "", is_contract_violation=True)


def _is_number(reward: Any) -> bool:
    is_too_large = type(reward) is int and abs(reward) > sys.float_info.max
    return type(reward) in _NUMBER_TYPES and not is_too_large


def _measured(
    events: list[tuple[int, Event]], n_steps: int
) -> tuple[Measurement, list[tuple[int, Event]], Failure | None]:
    """Measure the statistics of events. What cannot be measured fails the episode."""
    if not events:
        return _NOTHING_MEASURED, events, None
    try:
        return measure_events(events), events, None
    except Exception as error:
        for time, event in events:
            if not isinstance(event, Event):
                wrong = ContractError(
                    f"{_describe(event)} is among the events of step {time}, expected an Event"
                )
                return _NOTHING_MEASURED, [], _failure("step", n_steps, wrong)
        return _NOTHING_MEASURED, events, _failure("step", n_steps, error)


def _check_flags(terminated: Any, truncated: Any) -> None:
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
        message=_printable(_message(error)),
        traceback=_printable("".join(traceback.format_exception(error))),
        is_contract_violation=isinstance(error, ContractError),
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as another:
        return f"(its message cannot be shown: {type(another).__name__})"


def _printable(text: str) -> str:
    """Escape halves of characters, which no file and no terminal takes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def drive(
    lanes: Sequence[Lane],
    policy: StructuredPolicy,
    next_spec: Callable[[bool], EpisodeSpec | None],
    deterministic: bool = True,
    warn: Callable[[str], None] = lambda text: None,
) -> Iterator[Episode]:
    """Play specs until there are no more, and yield the episodes as they end.

    Args:
        lanes: environments to play in. With several, the policy is asked for a batch of actions.
        policy: decides.
        next_spec: gives the next spec, or ``None`` for none now. It is called with ``True`` when
            nothing is being played: then ``None`` means that there are no more.
        deterministic: passed to the policy.
        warn: told what the user should know about how the episodes were played.
    """
    if len(lanes) == 1:
        while (spec := next_spec(True)) is not None:
            episode = _play_alone(lanes[0], policy, spec, deterministic)
            if lanes[0].has_to_repeat():
                episode = _play_alone(lanes[0], policy, spec, deterministic)
            yield episode
    else:
        yield from _play_together(lanes, policy, next_spec, deterministic, warn)


def _play_alone(
    lane: Lane, policy: StructuredPolicy, spec: EpisodeSpec, deterministic: bool
) -> Episode:
    turns = lane.play(spec)
    act, send = policy.act, turns.send
    try:
        observation = next(turns)
        try:
            memory = policy.start_episode(spec.agent_seed)
        except BaseException as error:
            if is_from_outside(error):
                raise
            turns.throw(_policy_failed(error))
        while True:
            # Only what the policy raises: what comes out of the episode itself is not its fault.
            try:
                action = act(observation, lane.actor, memory, deterministic)
            except BaseException as error:
                if is_from_outside(error):
                    raise
                turns.throw(_policy_failed(error))
            observation = send(action)
    except StopIteration as end:
        return _played(end)


def _policy_failed(error: BaseException) -> _PolicyFailed:
    failed = _PolicyFailed()
    failed.__cause__ = error
    return failed


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
    warn: Callable[[str], None],
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
            except BaseException as error:
                if is_from_outside(error):
                    raise
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
        except BaseException as error:
            if is_from_outside(error):
                raise
            # One of them is to blame, and the others must not suffer. Played again from their
            # seeds, each alone, exactly those fail that have to.
            for turn in playing:
                turn.turns.close()
            is_to_blame = False
            for turn in playing:
                episode = _play_alone(turn.lane, policy, turn.spec, deterministic)
                is_to_blame = is_to_blame or episode.failure is not None
                yield episode
                free.append(turn.lane)
            if not is_to_blame:
                warn(
                    f"act_batch of {type(policy).__name__} raised {type(error).__name__}: {error}."
                    " One by one, act played the same episodes. Mend act_batch, or use"
                    " runner.n_lanes=1."
                )
            playing = []
            continue
        if len(actions) != len(playing):
            raise ContractError(
                f"act_batch of {type(policy).__name__} returned {len(actions)} actions for"
                f" {len(playing)} observations"
            )
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
