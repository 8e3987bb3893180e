"""The other direction of control: somebody else's system asks a policy for its next action.

    deployment = AgentDeployment(policy, env, wrappers)
    action = deployment.act(state)                          # begins an episode
    action = deployment.act(state, reward)                  # what the last action led to
    ...
    deployment.act(state, reward, terminated=True)          # None: the episode is over

Behind it is the episode loop of every rollout, with the same wrappers, events, statistics and
recording. The environment is there for its spaces and conversions alone: in its place is one whose
outcomes are those that ``act`` is given.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np
from gymnasium import spaces

from maze.core.env.core_env import CoreEnv
from maze.core.env.maze_env import MazeEnv
from maze.core.env.reward import RewardAggregator
from maze.core.env.structured_env import (
    Action,
    ActorID,
    EpisodeSummary,
    Observation,
    StructuredEnv,
)
from maze.core.env.supplied_env import Kpis, Outcome, SuppliedEnv, kpis_of
from maze.core.episode import Episode, EpisodeBatch, EpisodePart, EpisodeRow, EpisodeSpec
from maze.core.errors import ConfigError, ContractError, MazeError
from maze.core.events.event import Event
from maze.core.rollout.checks import CheckOptions, EpisodeChecks
from maze.core.rollout.encoding import BatchEncoder, EncoderOptions
from maze.core.rollout.job import EnvRecipe, EnvSource, PolicySource, WrapperSource, build_policy
from maze.core.rollout.play import Lane, PlayOptions, policy_failed
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.rollout_runner import as_plain, names_of, versions
from maze.core.seeding import Seeding
from maze.core.sinks.ledger_sink import LedgerSink
from maze.core.statistics.run_statistics import RunStatistics
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.wrapper import (
    ActionWrapper,
    ObservationWrapper,
    RewardWrapper,
    Wrapper,
    put_around,
)

_KNOWN_STEPS = (Wrapper.step, ObservationWrapper.step, RewardWrapper.step, ActionWrapper.step)
_KNOWN_RESETS = (Wrapper.reset, ObservationWrapper.reset)
_N_PLANNED = 256


class DeploymentClosedError(MazeError):
    """The deployment was closed, or its episode was given up."""


class AgentDeployment:
    """A policy that is asked for actions from outside.

    Args:
        policy: a policy, a config with ``_target_``, or a function from observation to action.
        env: what it acts in; see ``EnvSource``. It is never reset or stepped; its spaces,
            conversions, reward and wrappers are used.
        wrappers: as in a rollout.
        output_dir: where episodes are recorded, as a rollout does it. ``None``: nowhere.
        seeding: seeds of the episodes, or one base seed for all; ``None``: drawn by chance.
        deterministic: whether the policy takes its most likely action.
        max_episode_steps: structured steps after which an episode is cut off; 0: none.

    Raises:
        ConfigError: If something of this cannot be used.
        OutputError: If the directory cannot be written.

    One object serves any number of episodes, one after the other, from any thread (one at a time).
    It needs no thread of its own, unless a wrapper does more with an action than to change it,
    such as playing it several times.
    """

    def __init__(
        self,
        policy: PolicySource,
        env: EnvSource,
        wrappers: WrapperSource = None,
        *,
        output_dir: str | Path | None = None,
        seeding: Seeding | int | None = None,
        deterministic: bool = True,
        max_episode_steps: int = 0,
    ) -> None:
        if not isinstance(seeding, Seeding):
            seeding = Seeding(seeding, seeding)
        self._seeding = seeding.resolved()
        self._deterministic = deterministic
        self._began = perf_counter()
        recipe = EnvRecipe(env, wrappers)
        stack = recipe.take_given() or recipe.build()
        base = _base(stack)
        self._door = _door(base, self._take)
        around = put_around(stack, base, self._door.env)
        self.policy = build_policy(policy, around)
        self._needs_thread = needs_thread(around)
        # The global random generators are the caller's: they are left alone.
        self._lane = Lane(
            lambda: around, PlayOptions(max_episode_steps), given=around, shares_process=True
        )
        self._env = self._lane.open()
        self._specs: list[EpisodeSpec] = []
        self._n_begun = 0
        self._is_closed = False
        self._play: _Play | None = None
        self._next: Outcome | None = None
        config = {
            "runner": {
                "_target_": "maze.core.rollout.sequential_rollout_runner.SequentialRolloutRunner",
                "max_episode_steps": max_episode_steps,
                "deterministic": deterministic,
            },
            "env": as_plain(env),
            "policy": as_plain("random" if policy is None else policy),
            "wrappers": as_plain(wrappers or {}),
            "seeding": {
                name: None if value is None else as_plain(value)
                for name, value in vars(self._seeding).items()
            },
            "deployment": True,
        }
        directory = None if output_dir is None else Path(output_dir)
        self._recorder = _Recorder(self._env, self._lane.part_steps, config, directory)
        self._lane.check_part = self._recorder.checks.check_part

    @property
    def uses_thread(self) -> bool:
        """Whether there is a thread in which the wrappers run."""
        return self._needs_thread

    @property
    def is_in_episode(self) -> bool:
        """Whether the next call of ``act`` goes on with an episode."""
        return self._play is not None

    @property
    def last_episode(self) -> EpisodeRow | None:
        """The row of the episode that has ended last."""
        return self._recorder.last

    def act(
        self,
        state: Any,
        reward: float | None = None,
        terminated: bool = False,
        truncated: bool = False,
        info: Mapping[str, Any] | None = None,
        *,
        events: Sequence[Event] = (),
        actor_id: ActorID | tuple[Any, int] | None = None,
        env_time: int | None = None,
        kpis: Kpis | None = None,
        actor_rewards: Sequence[float] | None = None,
    ) -> Any:
        """Tell what the last action led to, and return the next action.

        The first call, and the first one after an episode has ended, begins an episode: its state
        is that after a reset, and ``reward``, ``terminated`` and ``truncated`` do not count.

        Args:
            state: of a simulation (``MazeEnv``), its state; of a Gymnasium environment, its
                observation; of another ``StructuredEnv``, the observation as a dictionary.
            reward: that followed. ``None``: a ``MazeEnv`` computes it from the events, for others
                it is 0.
            terminated: whether the task has ended.
            truncated: whether it was cut off.
            info: as an environment's.
            events: that happened in the step (or in the reset).
            actor_id: who acts next; needed where there are several actors.
            env_time: structured steps completed; likewise.
            kpis: key figures of the episode, with the call that ends it; or what computes them of
                an ``EpisodeSummary``, such as ``simulation.kpis``.
            actor_rewards: how the reward of a completed structured step is shared.

        Returns:
            The action in the terms of the state: a simulation's action, a Gymnasium action, or a
            dictionary. ``None`` if the episode is over; the next call begins another one.

        Raises:
            DeploymentClosedError: If it was closed.
            ContractError: If the state is not of the space, or policy or wrappers failed: the
                episode is recorded as failed.
        """
        if self._is_closed:
            raise DeploymentClosedError("this deployment was closed: make a new AgentDeployment")
        outcome = self._door.outcome(
            state,
            reward,
            terminated,
            truncated,
            info,
            events,
            self._actor(actor_id),
            self._time(env_time),
            kpis,
            actor_rewards,
        )
        if self._play is None:
            spec = self._spec(self._n_begun)
            self._n_begun += 1
            kind = _ThreadPlay if self._needs_thread else _Play
            self._play = kind(self, spec)
        came_of_it = self._play.go_on(outcome)
        if not isinstance(came_of_it, Episode):
            return self._door.outside(came_of_it)
        self._play = None
        self._recorder.add(came_of_it)
        if came_of_it.failure is not None:
            failure = came_of_it.failure
            raise ContractError(
                f"episode {came_of_it.spec.index} has failed: {failure}\n{failure.traceback}"
            )
        return None

    def give_up(self) -> None:
        """End the episode without saying what its last action led to: it is recorded as failed."""
        if self._play is not None:
            episode = self._play.give_up()
            self._play = None
            if episode is not None:
                self._recorder.add(episode)

    def close(self) -> RolloutResult:
        """End the deployment, and return its statistics, as of a rollout.

        An episode that has not ended is recorded as failed.
        """
        self.give_up()
        self._is_closed = True
        return self._recorder.close(perf_counter() - self._began)

    def __enter__(self) -> AgentDeployment:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        exception_traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        if not self._is_closed:
            self.close()

    def _spec(self, index: int) -> EpisodeSpec:
        while index >= len(self._specs):
            n = max(_N_PLANNED, 2 * len(self._specs))
            plan = self._seeding.plan(n)
            if len(plan) <= index:
                raise ConfigError(f"there are explicit seeds for {len(plan)} episodes, and no more")
            self._specs = list(plan)
        return self._specs[index]

    def _actor(self, actor: ActorID | tuple[Any, int] | None) -> ActorID:
        if actor is None:
            if not self._door.env.is_flat:
                raise ContractError(
                    "the environment has several actors: say with actor_id=ActorID(step_key,"
                    f" agent_id) who acts next (step keys: {list(self._env.agent_counts)})"
                )
            return ActorID(next(iter(self._door.env.agent_counts)), 0)
        checked = ActorID(*actor)
        if checked.step_key not in self._door.env.agent_counts:
            raise ContractError(
                f"there is no step key {checked.step_key!r}, but"
                f" {list(self._door.env.agent_counts)}"
            )
        return checked

    def _time(self, env_time: int | None) -> int:
        if env_time is None and not self._door.env.is_flat:
            raise ContractError(
                "the environment has sub-steps: say with env_time=... how many structured steps"
                " are completed"
            )
        return 0 if env_time is None else int(env_time)

    def _take(self, action: Action | None) -> Outcome:
        """Return what came of an action, to the environment that stands in for the real one."""
        assert self._play is not None
        return self._play.outcome_of(action)


class _Play:
    """An episode, in the caller's thread: each piece of the loop runs when it can."""

    def __init__(self, deployment: AgentDeployment, spec: EpisodeSpec) -> None:
        self._deployment, self._spec = deployment, spec
        self._lane, self._policy = deployment._lane, deployment.policy
        self._turns: Generator[Any, Action, Episode | None] = self._lane.play(spec)
        self._memory: Any = None
        self._outcome: Outcome | None = None
        self._action: Action | None = None

    def outcome_of(self, action: Action | None) -> Outcome:
        assert self._outcome is not None
        return self._outcome

    def go_on(self, outcome: Outcome) -> Any:
        """Return the action for the innermost environment, or the episode if it has ended."""
        self._outcome = outcome
        try:
            if self._action is None:
                observation = next(self._turns)
                self._begin_policy()
            else:
                observation = self._turns.send(self._action)
            if observation is None:
                self._deployment._recorder.add_part(self._lane.part)
                observation = next(self._turns)
            self._action = self._decide(observation)
        except StopIteration as end:
            return _ended(end.value)
        return _inner_action(self._deployment._env, self._action)

    def give_up(self) -> Episode | None:
        """End the episode as a failed one."""
        return _thrown(self._turns, DeploymentClosedError("given up before the episode had ended"))

    def _begin_policy(self) -> None:
        try:
            self._memory = self._policy.start_episode(self._spec.agent_seed)
        except Exception as error:
            self._turns.throw(policy_failed(error))

    def _decide(self, observation: Observation) -> Action:
        policy = self._policy
        before = perf_counter()
        try:
            action = policy.act(
                observation, self._lane.actor, self._memory, self._deployment._deterministic
            )
            if policy.emits_events:
                self._lane.add_events(policy.take_events(self._memory))
        except Exception as error:
            self._turns.throw(policy_failed(error))
            raise AssertionError("an episode goes on after its policy has failed") from error
        self._lane.policy_seconds += perf_counter() - before
        return action


class _ThreadPlay(_Play):
    """An episode in a thread of its own, which waits in the innermost environment."""

    def __init__(self, deployment: AgentDeployment, spec: EpisodeSpec) -> None:
        super().__init__(deployment, spec)
        self._given: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="maze-deployment", daemon=True)
        self._has_begun = False

    def outcome_of(self, action: Action | None) -> Outcome:
        if self._has_begun:
            self._told.put(("action", action))
        self._has_begun = True
        outcome = self._given.get()
        if outcome is None:
            raise DeploymentClosedError("given up before the episode had ended")
        return outcome

    def go_on(self, outcome: Outcome) -> Any:
        self._given.put(outcome)
        if not self._thread.is_alive():
            self._thread.start()
        kind, value = self._told.get()
        if kind == "error":
            raise value
        if kind == "episode":
            self._thread.join()
        return value

    def give_up(self) -> Episode | None:
        self._given.put(None)
        kind, value = self._told.get()
        self._thread.join()
        return value if kind == "episode" else None

    def _run(self) -> None:
        try:
            observation = next(self._turns)
            self._begin_policy()
            while True:
                if observation is None:
                    self._deployment._recorder.add_part(self._lane.part)
                    observation = next(self._turns)
                observation = self._turns.send(self._decide(observation))
        except StopIteration as end:
            self._told.put(("episode", _ended(end.value)))
        except BaseException as error:
            self._told.put(("error", error))


class _Recorder:
    """Checks, encodes, counts and writes what was played."""

    def __init__(
        self,
        env: StructuredEnv,
        part_steps: int,
        config: Mapping[str, Any],
        directory: Path | None,
    ) -> None:
        self._config, self._directory = config, directory
        self.checks = EpisodeChecks(env.observation_spaces, env.action_spaces, CheckOptions())
        recorded = directory is not None
        self._encoder = BatchEncoder(
            env,
            EncoderOptions(recorded, recorded),
            part_steps,
            {"config": config, "versions": versions()},
        )
        self._ledger = LedgerSink(directory, config, n_episodes=0, versions=versions())
        self._ledger.open()
        self._statistics = RunStatistics()
        self._result: RolloutResult | None = None
        self.last: EpisodeRow | None = None

    def add_part(self, part: EpisodePart) -> None:
        self._write(self._encoder.encode_part(part))

    def add(self, episode: Episode) -> None:
        (checked,) = self.checks.check([episode])
        self._encoder.add(checked)
        timings = () if episode.timing is None else (episode.timing,)
        batch = replace(self._encoder.flush(), timings=timings)
        self._write(batch)
        self.last = batch.rows[0]

    def _write(self, batch: EpisodeBatch) -> None:
        self._ledger.write(batch)
        self._statistics.add(batch)

    def close(self, seconds: float) -> RolloutResult:
        if self._result is not None:
            return self._result
        ledger, statistics = self._ledger, self._statistics
        with contextlib.ExitStack() as stack:
            stack.callback(ledger.release)
            ledger.ask_for(statistics.n_episodes)
            ledger.close()
            env_name, policy_name = names_of(self._config)
            seeding = self._config["seeding"]
            self._result = RolloutResult(
                statistics=statistics.summaries(),
                endings=statistics.endings,
                n_truncated_by_runner=statistics.n_truncated_by_runner,
                n_nan=statistics.n_nan,
                n_requested=statistics.n_episodes,
                n_done=statistics.n_episodes,
                n_steps=statistics.n_steps,
                wall_seconds=seconds,
                time_split=statistics.time_split(),
                n_processes=1,
                env_base_seed=seeding["env_base_seed"],
                agent_base_seed=seeding["agent_base_seed"],
                episodes=ledger.episode_table(),
                output_directory=self._directory,
                failures=statistics.failures,
                env_name=env_name,
                policy_name=policy_name,
            )
            ledger.finish(self._result.to_json_dict())
        return self._result


def needs_thread(env: StructuredEnv) -> bool:
    """Return whether a wrapper does more than to change an action and what comes of it."""
    while isinstance(env, Wrapper):
        kind = type(env)
        if not env.plays_each_action_once and (
            kind.step not in _KNOWN_STEPS or kind.reset not in _KNOWN_RESETS
        ):
            return True
        env = env.env
    return False


def _base(env: StructuredEnv) -> StructuredEnv:
    while isinstance(env, Wrapper):
        env = env.env
    return env


def _inner_action(env: StructuredEnv, action: Action) -> Action:
    """Return what of an action arrives at the innermost environment."""
    while isinstance(env, Wrapper):
        if isinstance(env, ActionWrapper):
            action = env.action(action)
        env = env.env
    if isinstance(env, MazeEnv):
        actor = env.actor_id()
        return env.actions[actor.step_key].space_to_maze(action, env.state, actor)  # type: ignore[no-any-return]
    return action


def _ended(episode: Episode | None) -> Episode:
    assert episode is not None, "a deployment's episode is never played again"
    return episode


def _thrown(turns: Generator[Any, Any, Episode | None], error: Exception) -> Episode | None:
    try:
        turns.throw(error)
    except StopIteration as end:
        episode: Episode | None = end.value
        return episode
    except DeploymentClosedError:
        return None  # It had not begun.
    return None


class _Door:
    """Between what a caller speaks of and what an environment speaks of."""

    env: StructuredEnv
    """Takes the place of the real one."""

    def outcome(
        self,
        state: Any,
        reward: float | None,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any] | None,
        events: Sequence[Event],
        actor: ActorID,
        env_time: int,
        kpis: Kpis | None,
        actor_rewards: Sequence[float] | None,
    ) -> Outcome:
        """Return what the environment is supplied with."""
        return Outcome(
            self.inside(state),
            0.0 if reward is None else reward,
            terminated,
            truncated,
            info,
            actor,
            env_time,
            tuple(events),
            kpis,
            actor_rewards,
        )

    def inside(self, state: Any) -> Any:
        """Return the observation of a state."""
        return state

    def outside(self, action: Any) -> Any:
        """Return the action as the caller knows it."""
        return action


class _StructuredDoor(_Door):
    def __init__(self, base: StructuredEnv, take: Any) -> None:
        env = SuppliedEnv(
            base.observation_spaces, base.action_spaces, base.agent_counts, base.action_masks, take
        )
        self.env = env


class _GymDoor(_StructuredDoor):
    """The values of a Gymnasium environment, without the dictionaries around them."""

    def __init__(self, base: GymMazeEnv, take: Any) -> None:
        super().__init__(base, take)
        self._wraps_observation = not isinstance(base.gym_env.observation_space, spaces.Dict)
        self._wraps_action = not isinstance(base.gym_env.action_space, spaces.Dict)

    def inside(self, state: Any) -> Any:
        return {"observation": state} if self._wraps_observation else state

    def outside(self, action: Any) -> Any:
        return action["action"] if self._wraps_action else action


class _MazeDoor(_Door):
    """States and actions of a simulation."""

    def __init__(self, base: MazeEnv[Any, Any], take: Any) -> None:
        env = copy.deepcopy(base)
        env.render_mode = None
        core_env = _SuppliedCoreEnv(base.core_env, take)
        env.core_env = core_env
        env.reward = _SuppliedReward(env.reward, core_env)
        self.env = env

    def outcome(self, state: Any, reward: float | None, *arguments: Any) -> Outcome:
        outcome = super().outcome(state, reward, *arguments)
        return outcome if reward is not None else outcome._replace(reward=np.nan)


class _SuppliedCoreEnv(CoreEnv[Any, Any]):
    """A simulation whose states are supplied."""

    def __init__(self, like: CoreEnv[Any, Any], take: Any) -> None:
        super().__init__()
        self.agent_counts = like.agent_counts
        self._take = take
        self.last = Outcome({})

    def reset(self, rng: np.random.Generator) -> Any:
        return self._taken(None).observation

    def step(self, action: Any) -> tuple[Any, bool, bool]:
        outcome = self._taken(action)
        return outcome.observation, outcome.terminated, outcome.truncated

    def _taken(self, action: Any) -> Outcome:
        self.last = self._take(action)
        self.events.extend(self.last.events)
        return self.last

    def actor_id(self) -> ActorID:
        return self.last.actor

    def env_time(self) -> int:
        return self.last.env_time

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        return kpis_of(self.last, summary)


class _SuppliedReward(RewardAggregator[Any]):
    """The reward that was supplied, or else the environment's own."""

    def __init__(self, own: RewardAggregator[Any], core_env: _SuppliedCoreEnv) -> None:
        self._own, self._core_env = own, core_env

    def reward(self, events: Sequence[Event], state: Any) -> float:
        given = self._core_env.last.reward
        return given if given == given else self._own.reward(events, state)

    def actor_rewards(
        self, events: Sequence[Event], state: Any, actors: Sequence[ActorID]
    ) -> Sequence[float] | None:
        given = self._core_env.last.actor_rewards
        return self._own.actor_rewards(events, state, actors) if given is None else given


def _door(base: StructuredEnv, take: Any) -> _Door:
    if isinstance(base, MazeEnv):
        return _MazeDoor(base, take)
    if isinstance(base, GymMazeEnv):
        return _GymDoor(base, take)
    return _StructuredDoor(base, take)
