"""The one episode loop, and the driver that advances several episodes together.

``Lane.play`` plays one spec in one environment. It is a generator: it yields an observation and
is sent the action, so that the same loop serves a policy that is asked for one action at a time
and one that is asked for a batch of them. ``drive`` is the driver. Everything else in Maze that
plays episodes (runners, workers, trainers) calls it.

A long episode is handed over in parts, so that memory does not grow with it. A part consists of
the structured steps from one multiple of ``part_steps`` to the next: which one a row of the
recorded columns belongs to can be told from its ``env_time``.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import secrets
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import xxhash
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import (
    Action,
    ActorID,
    EpisodeSummary,
    Observation,
    StepKey,
    StructuredEnv,
)
from maze.core.episode import (
    Ending,
    Episode,
    EpisodePart,
    EpisodeSpec,
    EpisodeTiming,
    Failure,
    FailurePlace,
    HandedOver,
    PartID,
    TruncatedBy,
)
from maze.core.errors import ConfigError, ContractError
from maze.core.events.event import Event, Kpi, Measurement, measure_events
from maze.core.rollout.interrupts import is_from_outside
from maze.core.trajectory.columns import SpaceRecorder, StepColumns, part_steps
from maze.core.wrappers.wrapper import Wrapper

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
    part_steps: int = 0
    """Structured steps after which an episode hands over a part. 0: by the size of the spaces."""


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
    that somebody does. To notice it, one number is drawn after each episode, and before each part
    of one is handed over, and compared with what an untouched copy gives; the episode in which it
    happened first is then begun again.
    """

    def __init__(self, are_used: bool = False) -> None:
        self.are_used = are_used
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


class _Recorders(NamedTuple):
    """What is collected of the sub-steps of one step key until it is handed over."""

    observed: SpaceRecorder
    acted: SpaceRecorder
    # Of structured episodes, for each observation: the number of rewards there were since
    # something was handed over, and who saw it.
    n_rewards: list[int]
    agent_ids: list[int]

    def columns(
        self, n_rewards: int, first_step: int, is_structured: bool, *, without_last: bool = False
    ) -> StepColumns:
        """Return what was collected, and leave it here.

        Args:
            n_rewards: number of rewards, over all step keys.
            first_step: number of sub-steps that were handed over.
            is_structured: whether sub-steps have numbers.
            without_last: whether to leave the last observation out.
        """
        observations = self.observed.columns(without_last=without_last)
        actions = self.acted.columns()
        if not is_structured:
            return StepColumns(
                observations,
                actions,
                observations[0].n if observations else n_rewards,
                actions[0].n if actions else n_rewards,
            )
        n_observations = len(self.n_rewards) - without_last
        steps = self.n_rewards[:n_observations]
        return StepColumns(
            observations,
            actions,
            observations[0].n if observations else n_observations,
            actions[0].n if actions else sum(step < n_rewards for step in steps),
            [first_step + step for step in steps] if first_step else steps,
            self.agent_ids[:n_observations],
        )

    def forget(self, *, all_but_last: bool = False) -> None:
        """Drop what was collected, but for the last observation if asked to."""
        self.observed.forget(all_but_last=all_but_last)
        self.acted.forget()
        if all_but_last:
            del self.agent_ids[:-1]
            self.n_rewards[:] = [0]
        else:
            self.agent_ids.clear()
            self.n_rewards.clear()


class Lane:
    """One environment in which one episode at a time is played."""

    actor: ActorID
    """Who has to act on the observation that was yielded last."""
    policy_seconds: float
    """Set by the driver where the policy is asked for batches: this episode's share."""
    part_steps: int
    """Structured steps in a part of an episode; set by ``open``."""
    part: EpisodePart
    """The part that was announced last."""
    check_part: Callable[[EpisodePart], int | None]
    """Returns how many NaNs are in a part, ``None`` if the episode has to end for what is in it.
    Whoever sets it looks at finished episodes, too, and finds there what is wrong."""

    def __init__(
        self,
        build_env: Callable[[], StructuredEnv],
        options: PlayOptions,
        *,
        shares_process: bool = False,
        given: StructuredEnv | None = None,
        after_step: AfterStep | None = None,
        seeds_always: bool = False,
    ) -> None:
        """Prepare a lane; the environment is built by ``open`` or when first needed.

        Args:
            build_env: makes the environment; called again after an episode broke it.
            options: limits.
            shares_process: whether other lanes are played in between, so that the global random
                generators cannot be set for each episode, and time has to be shared out.
            given: an environment to use first, which is not closed in the end.
            after_step: called after each reset and step, to render the environment.
            seeds_always: whether to set the global random generators from the first episode on,
                so that none has to be played again because it draws from them.
        """
        self._build_env = build_env
        self._options = options
        self._shares_process = shares_process
        self._given = given
        self._after_step = after_step
        self.env: StructuredEnv | None = None
        self.policy_seconds = 0.0
        self.check_part = lambda part: 0
        self._is_clean = True
        self._generators = None if shares_process else GlobalGenerators(seeds_always)

    def open(self) -> StructuredEnv:
        """Build the environment, unless it is there, and return it."""
        if self.env is None:
            if self._generators is not None:
                self._generators.restart()
            self.env = env = self._given or self._build_env()
            if self._generators is not None:
                self._generators.restart()
            self._recorders = {
                key: _Recorders(
                    SpaceRecorder(env.observation_spaces[key], "observation"),
                    SpaceRecorder(env.action_spaces[key], "action"),
                    [],
                    [],
                )
                for key in env.observation_spaces
            }
            self._is_structured = not env.is_flat
            self._has_kpis = _has_kpis(env)
            if not self._is_structured:
                self.actor = env.actor_id()
            self.part_steps = self._options.part_steps or part_steps(
                env.observation_spaces, env.action_spaces
            )
        return self.env

    def close(self) -> None:
        """Close the environment."""
        env, self.env = self.env, None
        given, self._given = self._given, None
        if env is not None and env is not given:
            with contextlib.suppress(Exception):
                env.close()

    def play(self, spec: EpisodeSpec) -> Generator[Observation | None, Action, Episode | None]:
        """Play one episode: yields observations, is sent actions, returns the episode.

        It yields ``None`` in place of an observation where there is a ``part`` to be handed over,
        and then the observation. It returns ``None`` where the episode has to be played again,
        see ``GlobalGenerators``.

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
        env_times: list[int] = []
        terminated: Any = False
        truncated: Any = False
        n_steps = first_step = 0
        part_end = sys.maxsize
        handed_over: HandedOver | None = None
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
                for recorders in self._recorders.values():
                    recorders.forget()
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
            structured = self._is_structured
            if structured:
                self.actor = env.actor_id()
            step_key, agent_id = self.actor
            observed, acted, n_rewards_at, agent_ids = self._recorders[step_key]
            record_observation, record_action = observed.record, acted.record
            record_observation(observation)
            if structured:
                n_rewards_at.append(0)
                agent_ids.append(agent_id)
            if pending:
                events.extend((0, event) for event in pending)
                pending.clear()
            if after_step is not None:
                before = clock()
                after_step(env, spec, 0)
                env_seconds += clock() - before
            step, collect_reward = env.step, rewards.append
            part_end = self.part_steps
            checkpoint = part_end if part_end < limit else limit
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
                    env_times.append(n_steps)
                    if pending:
                        events.extend((n_steps, event) for event in pending)
                        pending.clear()
                    n_steps = env.env_time()
                    self.actor = env.actor_id()
                    step_key, agent_id = self.actor
                    observed, acted, n_rewards_at, agent_ids = self._recorders[step_key]
                    record_observation, record_action = observed.record, acted.record
                    record_observation(observation)
                    n_rewards_at.append(len(rewards))
                    agent_ids.append(agent_id)
                else:
                    if pending:
                        events.extend((n_steps, event) for event in pending)
                        pending.clear()
                    n_steps += 1
                    record_observation(observation)
                if after_step is not None:
                    before = clock()
                    after_step(env, spec, first_step + len(rewards))
                    env_seconds += clock() - before
                if terminated or truncated:
                    break
                if n_steps >= checkpoint:
                    if n_steps >= limit:
                        break
                    if self.has_to_repeat():
                        return None
                    sealed = self._seal(spec, rewards, env_times, events, n_steps, handed_over)
                    if sealed is None:
                        break
                    handed_over, first_step = sealed, sealed.n_sub_steps
                    rewards.clear()
                    env_times.clear()
                    events.clear()
                    before = clock()
                    yield None
                    started += clock() - before
                    part_end = (n_steps // self.part_steps + 1) * self.part_steps
                    checkpoint = min(part_end, limit)
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
            failure = _failure(place, first_step + len(rewards), error)
        return self._finish(
            spec=spec,
            rewards=rewards,
            env_times=env_times,
            events=events,
            handed_over=handed_over,
            part_end=part_end,
            terminated=bool(terminated),
            truncated=bool(truncated),
            n_steps=n_steps,
            failure=failure,
            env_seconds=env_seconds,
            away=away,
            started=started,
            is_timed=is_timed,
        )

    def add_events(self, events: Sequence[Event]) -> None:
        """Add events to those of the step that is about to be played."""
        if events:
            assert self.env is not None
            self.env.events.extend(events)

    def has_to_repeat(self) -> bool:
        """Return whether the episode has to be played again from its start, see the generators."""
        return self._generators is not None and self._generators.found_use()

    def _with_kpis(
        self, summary: EpisodeSummary, measured: Measurement, events: list[tuple[int, Event]]
    ) -> tuple[Measurement, list[tuple[int, Event]]]:
        """Add the environment's KPIs to what was measured and to the events of the last step."""
        assert self.env is not None
        kpis = {str(name): float(kpi) for name, kpi in self.env.kpis(summary).items()}
        last_time = max(summary.n_steps - 1, 0)
        return (
            measured._replace(
                numbers={**measured.numbers, **{f"kpi.{name}": kpi for name, kpi in kpis.items()}}
            ),
            [*events, *((last_time, Kpi(name, kpi)) for name, kpi in kpis.items())],
        )

    def _seal(
        self,
        spec: EpisodeSpec,
        rewards: list[float],
        env_times: list[int],
        events: list[tuple[int, Event]],
        n_steps: int,
        handed_over: HandedOver | None,
    ) -> HandedOver | None:
        """Make a part of what was collected, but for the last observation, which follows it.

        Returns ``None``, and leaves all as it is, if there is something wrong with it, of which
        the episode has to end. What that is will be found in the finished episode.
        """
        try:
            reward_column = _reward_column(rewards)
        except (TypeError, OverflowError):
            return None
        if not all(isinstance(event, Event) for _, event in events):
            return None
        if handed_over is None:
            handed_over = HandedOver(secrets.randbits(31))
        next_key = self.actor.step_key
        part = EpisodePart(
            spec=spec,
            episode_id=episode_id(spec),
            part_id=PartID(spec.index, handed_over.token, handed_over.n_parts),
            first_step=handed_over.n_sub_steps,
            first_time=handed_over.n_times,
            n_steps=n_steps,
            rewards=reward_column,
            env_times=list(env_times) if self._is_structured else None,
            columns={
                key: recorders.columns(
                    len(rewards),
                    handed_over.n_sub_steps,
                    self._is_structured,
                    without_last=key == next_key,
                )
                for key, recorders in self._recorders.items()
            },
            events=list(events),
        )
        n_nan = self.check_part(part)
        if n_nan is None:
            return None
        handed_over.add(part, n_nan)
        for key, recorders in self._recorders.items():
            recorders.forget(all_but_last=key == next_key)
        self.part = part
        return handed_over

    def _finish(
        self,
        spec: EpisodeSpec,
        rewards: list[float],
        env_times: list[int],
        events: list[tuple[int, Event]],
        handed_over: HandedOver | None,
        part_end: int,
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
        first_step = 0 if handed_over is None else handed_over.n_sub_steps
        is_structured = self.env is not None and self._is_structured
        if self.env is not None:
            for key, recorders in self._recorders.items():
                columns[key] = recorders.columns(len(rewards), first_step, is_structured)
                recorders.forget()
            self._is_clean = True
        n_sub_steps = first_step + len(rewards)
        measured, events, event_failure = _measured(events, n_sub_steps, n_steps, handed_over)
        failure = failure or event_failure
        reward_failure: Failure | None = None
        try:
            reward_column = _reward_column(rewards)
        except (TypeError, OverflowError):
            n_right = next(i for i, reward in enumerate(rewards) if not _is_number(reward))
            reward_failure = _reward_failure(first_step + n_right, rewards[n_right])
            rewards = rewards[:n_right] + [0.0] * (len(rewards) - n_right)
            reward_column = np.array(rewards, dtype=np.float64)
        episode_return = _return(rewards, handed_over)
        if self.env is not None and self._has_kpis and not (failure or reward_failure):
            summary = EpisodeSummary(n_steps, episode_return, measured.numbers)
            try:
                measured, events = self._with_kpis(summary, measured, events)
            except Exception as error:
                failure = _failure("step", n_sub_steps, error)
        ending: Ending
        truncated_by: TruncatedBy = ""
        if failure is not None:
            ending = "failed"
            self.close()  # What it left behind may be half done: the next one gets a fresh one.
        elif terminated:
            ending = "terminated"
        else:
            ending, truncated_by = "truncated", "env" if truncated else "runner"
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
            env_times=env_times if is_structured else None,
            n_steps=n_steps,
            columns=columns,
            events=events,
            statistics=measured.numbers,
            zero_statistics=measured.zero_without_events,
            episode_return=episode_return,
            seconds=seconds,
            timing=EpisodeTiming(seconds, env_seconds, policy_seconds) if is_timed else None,
            n_nan=0 if handed_over is None else handed_over.n_nan,
            failure=failure,
            part_end=part_end,
            handed_over=handed_over,
        )
        return (
            episode
            if reward_failure is None
            else break_off(episode, reward_failure, with_action=True)
        )


def _has_kpis(env: StructuredEnv) -> bool:
    """Return whether anything in a stack has KPIs, so that the others are not asked."""
    while isinstance(env, Wrapper):
        if type(env).kpis is not Wrapper.kpis:
            return True
        env = env.env
    return type(env).kpis is not StructuredEnv.kpis


def break_off(episode: Episode, failure: Failure, *, with_action: bool) -> Episode:
    """Return the episode without all that came after a failure that was noticed only later.

    Args:
        episode: was played on.
        failure: that of which the episode would have ended, after ``failure.step`` steps. They
            are not fewer than were handed over in parts.
        with_action: whether the policy had acted once more by then.
    """
    step, first_step, handed_over = failure.step, episode.first_step, episode.handed_over
    n_kept = step - first_step
    rewards, env_times, n_steps = episode.rewards[:n_kept], episode.env_times, step
    if env_times is not None:
        n_steps = env_times[n_kept] if n_kept < len(env_times) else episode.n_steps
        env_times = env_times[:n_kept]
    columns: dict[StepKey, StepColumns] = {}
    for key, part in episode.columns.items():
        columns[key] = part.until(step, with_action=with_action, first_step=first_step)
    # Events know their time and not their sub-step: those of a step that was begun are all kept.
    is_begun = bool(env_times) and env_times is not None and env_times[-1] == n_steps
    events_end = max(n_steps + is_begun, 1)
    events = [
        (time, event)
        for time, event in episode.events
        if time < events_end and not isinstance(event, Kpi)
    ]
    measured, events, _ = _measured(events, step, n_steps, handed_over)
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
        episode_return=_return(rewards.tolist(), handed_over),
        failure=failure,
    )


def _return(rewards: Sequence[float], handed_over: HandedOver | None) -> float:
    """Sum rewards, correctly rounded, so that no order of summation can show."""
    before = () if handed_over is None else handed_over.rewards
    try:
        return math.fsum(itertools.chain(before, rewards) if before else rewards)
    except (OverflowError, ValueError):  # Infinities of both signs, or beyond the largest float.
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.sum(np.array([*before, *rewards], dtype=np.float64)))
    except TypeError:
        return math.nan


def _reward_column(rewards: Sequence[Any]) -> NDArray[np.float64]:
    """Return rewards as an array; raises ``TypeError`` or ``OverflowError`` if they cannot be."""
    if not _NUMBER_TYPES.issuperset(map(type, rewards)):
        raise TypeError
    return np.array(rewards, dtype=np.float64)


def _reward_failure(step: int, wrong: Any) -> Failure:
    """Tell of the first reward that is not a number, or not one that fits 64 bits."""
    message = f"the reward is {_describe(wrong)}, expected a number (float(...) it)"
    return Failure("step", step, "ContractError", message, "", is_contract_violation=True)


def _is_number(reward: Any) -> bool:
    is_too_large = type(reward) is int and abs(reward) > sys.float_info.max
    return type(reward) in _NUMBER_TYPES and not is_too_large


def _measured(
    events: list[tuple[int, Event]],
    n_sub_steps: int,
    n_steps: int,
    handed_over: HandedOver | None,
) -> tuple[Measurement, list[tuple[int, Event]], Failure | None]:
    """Measure the statistics of events. What cannot be measured fails the episode."""
    of_episode, counts = events, None
    if handed_over is not None:
        of_episode, counts = [*handed_over.events, *events], handed_over.event_counts
    if not of_episode and not counts:
        return _NOTHING_MEASURED, events, None
    try:
        return measure_events(of_episode, counts, n_steps), events, None
    except Exception as error:
        for time, event in events:
            if not isinstance(event, Event):
                wrong = ContractError(
                    f"{_describe(event)} is among the events of step {time}, expected an Event"
                )
                return _NOTHING_MEASURED, [], _failure("step", n_sub_steps, wrong)
        return _NOTHING_MEASURED, events, _failure("step", n_sub_steps, error)


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
) -> Iterator[EpisodePart | Episode]:
    """Play specs until there are no more, and yield the episodes as they end.

    Long ones are preceded by their parts. What was handed over of an episode that had to be begun
    again has another ``token`` in its parts' ids than the episode says in the end.

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
            episode = yield from _play_alone(lanes[0], policy, spec, deterministic)
            if episode is None or lanes[0].has_to_repeat():
                episode = yield from _play_alone(lanes[0], policy, spec, deterministic)
            yield _played(episode)
    else:
        yield from _play_together(lanes, policy, next_spec, deterministic, warn)


def _play_alone(
    lane: Lane, policy: StructuredPolicy, spec: EpisodeSpec, deterministic: bool
) -> Generator[EpisodePart, None, Episode | None]:
    turns = lane.play(spec)
    act, send = policy.act, turns.send
    take_events = policy.take_events if policy.emits_events else None
    try:
        observation: Any = next(turns)
        try:
            memory = policy.start_episode(spec.agent_seed)
        except BaseException as error:
            if is_from_outside(error):
                raise
            turns.throw(policy_failed(error))
        while True:
            # Only what the policy raises: what comes out of the episode itself is not its fault.
            try:
                action = act(observation, lane.actor, memory, deterministic)
                if take_events is not None:
                    lane.add_events(take_events(memory))
            except BaseException as error:
                if is_from_outside(error):
                    raise
                turns.throw(policy_failed(error))
            observation = send(action)
            if observation is None:
                yield lane.part
                observation = next(turns)
    except StopIteration as end:
        episode: Episode | None = end.value
        return episode


def policy_failed(error: BaseException) -> BaseException:
    """Return what is thrown into an episode whose policy raised an error."""
    failed = _PolicyFailed()
    failed.__cause__ = error
    return failed


def _played(episode: Episode | None) -> Episode:
    assert episode is not None, "only the first play that uses global generators is broken off"
    return episode


@dataclass
class _Turn:
    """An episode that waits for its next action."""

    lane: Lane
    spec: EpisodeSpec
    turns: Generator[Observation | None, Action, Episode | None]
    observation: Any
    memory: Any


def _play_together(
    lanes: Sequence[Lane],
    policy: StructuredPolicy,
    next_spec: Callable[[bool], EpisodeSpec | None],
    deterministic: bool,
    warn: Callable[[str], None],
) -> Iterator[EpisodePart | Episode]:
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
                yield _played(end.value)
                continue
            try:
                playing.append(
                    _Turn(lane, spec, turns, observation, policy.start_episode(spec.agent_seed))
                )
            except BaseException as error:
                if is_from_outside(error):
                    raise
                turns.close()
                yield _played((yield from _play_alone(lane, policy, spec, deterministic)))
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
            if policy.emits_events:
                for turn in playing:
                    turn.lane.add_events(policy.take_events(turn.memory))
        except BaseException as error:
            if is_from_outside(error):
                raise
            # One of them is to blame, and the others must not suffer. Played again from their
            # seeds, each alone, exactly those fail that have to.
            for turn in playing:
                turn.turns.close()
            is_to_blame = False
            for turn in playing:
                episode = _played(
                    (yield from _play_alone(turn.lane, policy, turn.spec, deterministic))
                )
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
                if turn.observation is None:
                    yield turn.lane.part
                    turn.observation = next(turn.turns)
                going_on.append(turn)
            except StopIteration as end:
                free.append(turn.lane)
                yield _played(end.value)
        playing = going_on
