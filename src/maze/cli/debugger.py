"""Stops in Python's debugger before one call of the environment or the policy.

It stops in a small frame of its own, in which the call is the next thing to be done and its
arguments are local variables: ``s`` steps into it. Frames of Maze's core are passed over, so that
what one gets into is the environment or the policy itself.
"""

from __future__ import annotations

import pdb
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from maze.cli.messages import print_lines
from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StructuredEnv
from maze.core.episode import EpisodeRow
from maze.core.errors import ConfigError, OutputError, SpaceError
from maze.core.events.event import Event
from maze.core.rollout.replay import n_recorded_actions, recorded_row
from maze.core.rollout.run_directory import RunDirectory
from maze.core.wrappers.wrapper import StepResult, Wrapper

_PASSED_OVER = ("maze.core.*",)


@dataclass(frozen=True)
class Stop:
    """The call before which to stop."""

    call: Literal["reset", "step", "start_episode", "act"]
    """Of the environment (the first two) or the policy."""
    step: int = 0
    """The sub-step, from 0."""

    def __str__(self) -> str:
        at = f" of step {self.step}" if self.call in ("step", "act") else ""
        whose = "env" if self.call in ("reset", "step") else "policy"
        return f"{whose}.{self.call}{at}"


def stop_before_failure(run: RunDirectory, episode_index: int) -> Stop:
    """Return the call in which an episode failed.

    Raises:
        ConfigError: If it did not fail, or not in a call that can be stopped before.
    """
    row = recorded_row(run, episode_index)
    failure = row.failure
    if failure is None:
        raise ConfigError(
            f"episode {episode_index} did not fail: say where to stop with --step N, counted from 0"
        )
    if failure.place == "construction":
        raise ConfigError(
            f"episode {episode_index} failed when its environment was built"
            f" ({failure.exception_type}: {failure.message}), which --pdb cannot stop before"
        )
    if failure.place == "reset" or (failure.place == "worker" and failure.step == 0):
        return Stop("reset")
    if failure.place == "policy":
        if failure.step == 0 and "start_episode" in failure.traceback:
            return Stop("start_episode")
        return Stop("act", failure.step)
    return Stop("step", _failed_step(run, row))


def _failed_step(run: RunDirectory, row: EpisodeRow) -> int:
    """Return which call of ``env.step`` failed.

    What it returned may have been found wrong only when it was over, and the step counts as
    completed then. The number of actions tells.
    """
    failure = row.failure
    assert failure is not None
    if failure.place == "worker":
        return failure.step
    try:
        n_actions = n_recorded_actions(run.trajectory(row.episode_index))
    except OutputError:
        n_actions = failure.step + (failure.exception_type != SpaceError.__name__)
    return max(n_actions - 1, 0)


class Debugger:
    """Python's debugger, that stops once; for ``replay_episode``."""

    def __init__(self, stop: Stop) -> None:
        self.where = stop
        self.has_stopped = False

    def around_env(self, env: StructuredEnv) -> StructuredEnv:
        """Put what stops around an environment."""
        return _StoppingEnv(env, self)

    def around_policy(self, policy: StructuredPolicy) -> StructuredPolicy:
        """Put what stops around a policy."""
        return _StoppingPolicy(policy, self)

    def call(self, frame: Callable[..., Any], names: str, *arguments: Any) -> Any:
        """Stop in a frame of ours, which makes the call, and return what it returns."""
        self.has_stopped = True
        print_lines(
            [
                f"stopped before {self.where}: s steps into it, c goes on, q quits.",
                f"There are: {names}",
            ]
        )
        debugger = _Pdb(skip=_PASSED_OVER)
        handler = signal.getsignal(signal.SIGINT)
        try:
            result = debugger.runcall(frame, *arguments)
        finally:
            signal.signal(signal.SIGINT, handler)  # "c" sets one that stops again.
        if debugger.was_quit:
            raise KeyboardInterrupt
        return result


class _Pdb(pdb.Pdb):
    was_quit = False

    def set_quit(self) -> None:
        self.was_quit = True
        super().set_quit()


class _StoppingEnv(Wrapper):
    def __init__(self, env: StructuredEnv, debugger: Debugger) -> None:
        super().__init__(env)
        self._debugger = debugger
        self._step = 0
        self._observation: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        result: Any
        if self._debugger.where.call == "reset":
            result = self._debugger.call(_reset, "env, seed", self.env, seed)
        else:
            result = self._inner_reset(seed=seed, options=options)
        self._step, self._observation = 0, _first(result)
        return result  # type: ignore[no-any-return]

    def step(self, action: Action) -> StepResult:
        step, self._step = self._step, self._step + 1
        result: Any
        if self._debugger.where == Stop("step", step):
            names = "env, observation, action, step"
            observation = self._observation
            result = self._debugger.call(_step, names, self.env, observation, action, step)
        else:
            result = self._inner_step(action)
        self._observation = _first(result)
        return result  # type: ignore[no-any-return]


class _StoppingPolicy(StructuredPolicy):
    def __init__(self, policy: StructuredPolicy, debugger: Debugger) -> None:
        self._policy = policy
        self._debugger = debugger
        self._step = 0
        self.emits_events = policy.emits_events

    def take_events(self, memory: Any) -> Sequence[Event]:
        return self._policy.take_events(memory)

    def start_episode(self, seed: int) -> Any:
        self._step = 0
        if self._debugger.where.call == "start_episode":
            return self._debugger.call(_start_episode, "policy, seed", self._policy, seed)
        return self._policy.start_episode(seed)

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        step, self._step = self._step, self._step + 1
        arguments = self._policy, observation, actor, memory, deterministic
        if self._debugger.where == Stop("act", step):
            names = "policy, observation, actor, memory, deterministic, step"
            action: Action = self._debugger.call(_act, names, *arguments, step)
            return action
        return self._policy.act(*arguments[1:])


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) and result else None


# The frames. Their local variables are for whoever looks at them.


def _reset(env: StructuredEnv, seed: int | None) -> Any:
    return env.reset(seed=seed)


def _step(env: StructuredEnv, observation: Observation, action: Action, step: int) -> Any:
    return env.step(action)


def _start_episode(policy: StructuredPolicy, seed: int) -> Any:
    return policy.start_episode(seed)


def _act(
    policy: StructuredPolicy,
    observation: Observation,
    actor: ActorID,
    memory: Any,
    deterministic: bool,
    step: int,
) -> Any:
    return policy.act(observation, actor, memory, deterministic)
