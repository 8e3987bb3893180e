"""Tiny environments that show one property each, for any test that needs them."""

from __future__ import annotations

import copy
import ctypes
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from maze.core.env.structured_env import Action, ActorID, Observation, StepKey, StructuredEnv
from maze.core.errors import ConfigError
from maze.core.events.event import Event, EventStatistic


@dataclass(frozen=True)
class Placed(Event):
    """A piece was placed."""

    size: float


class TwoStepEnv(StructuredEnv):
    """Two sub-steps a step: select one of four pieces, then place it.

    The reward is 0 for the selection and the piece's size for the placement; sizes are drawn anew
    after each placement. Ends after ``n_steps`` structured steps.
    """

    def __init__(self, n_steps: int = 3) -> None:
        self.n_steps = n_steps
        self.observation_spaces = {
            "select": spaces.Dict({"sizes": spaces.Box(0.0, 1.0, (4,), np.float32)}),
            "place": spaces.Dict(
                {"size": spaces.Box(0.0, 1.0, (1,), np.float32), "piece": spaces.Discrete(4)}
            ),
        }
        self.action_spaces = {
            "select": spaces.Dict({"piece": spaces.Discrete(4)}),
            "place": spaces.Dict(
                {
                    "position": spaces.Box(-1.0, 1.0, (2,), np.float32),
                    "rotation": spaces.Discrete(2),
                }
            ),
        }
        self.agent_counts = {"select": 1, "place": 1}
        self.events = []
        self._time = 0
        self._piece: int | None = None
        self._sizes = np.zeros(4, dtype=np.float32)

    def actor_id(self) -> ActorID:
        return ActorID("select" if self._piece is None else "place", 0)

    def env_time(self) -> int:
        return self._time

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)  # seeds np_random
        self._time, self._piece = 0, None
        self._draw_sizes()
        return self._observe(), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if self._piece is None:
            self._piece = int(action["piece"])
            return self._observe(), 0.0, False, False, {}
        size = float(self._sizes[self._piece])
        self.events.append(Placed(size))
        self._time, self._piece = self._time + 1, None
        self._draw_sizes()
        return self._observe(), size, self._time >= self.n_steps, False, {}

    def _draw_sizes(self) -> None:
        self._sizes = self.np_random.random(4, dtype=np.float32)

    def _observe(self) -> Observation:
        if self._piece is None:
            return {"sizes": self._sizes.copy()}
        return {"size": self._sizes[self._piece : self._piece + 1].copy(), "piece": self._piece}


class CountingEnv(gym.Env[Any, Any]):
    """A Gymnasium environment that observes, and is rewarded with, the number of steps taken."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space: spaces.Space[Any] = spaces.Box(0.0, np.inf, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self, n_steps: int | None = None, render_mode: str | None = None) -> None:
        self.n_steps = n_steps
        self.render_mode = render_mode
        self.count = 0
        self.actions: list[Any] = []
        self.options: dict[str, Any] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.actions, self.options = 0, [], options
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        self.actions.append(action)
        return self._observe(), float(self.count), self.count == self.n_steps, False, {}

    def render(self) -> Any:
        return np.full((2, 2, 3), self.count, dtype=np.uint8)

    def _observe(self) -> Any:
        return np.array([self.count], dtype=np.float32)


class EchoEnv(gym.Env[Any, Any]):
    """A Gymnasium environment with any two spaces, whose observations are samples."""

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.last_action: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.last_action = action
        return self.observation_space.sample(), 0.0, False, False, {}


class WalkEnv(gym.Env[Any, Any]):
    """Random observations and rewards, from the seed and the actions; ends after ``n_steps``."""

    observation_space: spaces.Space[Any] = spaces.Box(0.0, 100.0, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(3)

    def __init__(self, n_steps: int = 5) -> None:
        self.n_steps = n_steps
        self.seed: int | None = None
        self.count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.count = seed, 0
        return self.np_random.random(2, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.count += 1
        observation = self.np_random.random(2, dtype=np.float32) + np.float32(action)
        reward = float(observation.sum()) * (1 + int(action))
        return observation, reward, self.count >= self.n_steps, False, {}


RESET = -1
"""Stands for the reset where a number of steps taken is asked for."""


class FaultyEnv(WalkEnv):
    """Calls ``fault`` before the step with the given number, in the episodes with some env seeds.

    Step 0 is the first one; ``RESET`` is the reset.
    """

    def __init__(
        self, fault: Callable[[], None], seeds: Collection[int], step: int = 2, n_steps: int = 5
    ) -> None:
        super().__init__(n_steps)
        self.fault, self.seeds, self.faulty_step = fault, seeds, step

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if self.faulty_step == RESET and seed in self.seeds:
            self.fault()
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.count == self.faulty_step and self.seed in self.seeds:
            self.fault()
        return super().step(action)


class FailsNowAndThenEnv(WalkEnv):
    """Breaks in the third step of one episode in ``every``."""

    def __init__(self, every: int = 50) -> None:
        super().__init__()
        self.every = every

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert self.seed is not None
        if self.count == 2 and self.seed % self.every == 0:
            raise_error()
        return super().step(action)


class FailsToBuildEnv(WalkEnv):
    """Cannot be built the second time in a process, and breaks in episodes with some env seeds."""

    n_built = 0

    def __init__(self, seeds: Collection[int]) -> None:
        super().__init__()
        self.seeds = seeds
        type(self).n_built += 1
        if self.n_built == 2:
            raise ValueError("the port is still taken")

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.seed in self.seeds:
            raise ValueError("connection lost")
        return super().step(action)


# Faults.


def raise_error() -> None:
    raise ValueError("the pole broke")


def exit_python() -> None:
    sys.exit("no licence")


def exit_process() -> None:
    os._exit(3)


def kill_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


class TakesTwoArgumentsError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("one and two")


def raise_error_with_odd_constructor() -> None:
    raise TakesTwoArgumentsError(1, 2)


def raise_local_error() -> None:
    class LocalError(Exception):
        def __reduce__(self) -> Any:
            raise RuntimeError("this cannot be pickled")

    raise LocalError("from a class inside of a function", (lambda: 0))


def raise_error_that_cannot_be_shown() -> None:
    class SpeechlessError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    raise SpeechlessError


@dataclass(frozen=True)
class WaitToBeKilled:
    """The first process to come here leaves its id in a file and waits; others pass."""

    directory: Path

    def __call__(self) -> None:
        try:
            with (self.directory / "waiting").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return
        time.sleep(60)


@dataclass(frozen=True)
class KillOnce:
    """Kills the first process that comes here with the same name; others pass."""

    directory: Path
    name: str

    def __call__(self) -> None:
        try:
            (self.directory / self.name).touch(exist_ok=False)
        except FileExistsError:
            return
        kill_process()


class KilledOnceEnv(WalkEnv):
    """Its process is killed in each of some episodes, the first time that they are played."""

    def __init__(self, directory: Path, seeds: Collection[int]) -> None:
        super().__init__()
        self.directory, self.seeds = directory, seeds

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.count == 3 and self.seed in self.seeds:
            KillOnce(self.directory, f"killed_in_{self.seed}")()
        return super().step(action)


class TellsMuchEnv(CountingEnv):
    """Returns an info of two megabytes with each step."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *result, _ = super().step(action)
        return (*result, {"picture": np.ones(2**21, np.uint8)})


class RegistersProcessEnv(FaultyEnv):
    """Leaves a file named after its process in a directory."""

    def __init__(self, directory: Path, seeds: Collection[int]) -> None:
        super().__init__(WaitToBeKilled(directory), seeds)
        (directory / f"process_{os.getpid()}").touch()


# Environments for the laws.


class GlobalGeneratorsEnv(WalkEnv):
    """Draws from the global generators of Python and numpy, and not from its own."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.count += 1
        return self._draw(), random.random(), np.random.random() < 0.2, self.count >= 20, {}

    def _draw(self) -> Any:
        return np.array([random.random(), np.random.random()], dtype=np.float32)


class ReusedBufferEnv(CountingEnv):
    """Hands out the same array each time, and wipes it before the next step."""

    def __init__(self, n_steps: int = 4) -> None:
        super().__init__(n_steps)
        self._buffer = np.zeros(1, dtype=np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._buffer.fill(-1.0)
        return super().step(action)

    def _observe(self) -> Any:
        self._buffer[0] = self.count
        return self._buffer


class RememberingEchoEnv(EchoEnv):
    """An ``EchoEnv`` of ``n_steps`` that remembers what it handed out and was given."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        n_steps: int = 3,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.n_steps = n_steps
        self.episodes: list[tuple[list[Any], list[Any]]] = []
        """Observations and actions of each episode."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed)
        self.episodes.append(([copy.deepcopy(observation)], []))
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observations, actions = self.episodes[-1]
        actions.append(copy.deepcopy(action))
        observation, reward, _, _, info = super().step(action)
        observations.append(copy.deepcopy(observation))
        return observation, reward, len(actions) >= self.n_steps, False, info


@dataclass(frozen=True)
class Turn:
    """A sub-step of a ``ScriptedEnv``."""

    actor: ActorID
    reward: float
    n_events: int
    ends_step: bool


class ScriptedEnv(StructuredEnv):
    """A structured environment that follows a script, and remembers what happened.

    After the last turn it is the first one's actor who would have acted.
    """

    def __init__(
        self,
        observation_spaces: Mapping[StepKey, spaces.Dict],
        action_spaces: Mapping[StepKey, spaces.Dict],
        script: Sequence[Turn],
        is_truncated: bool,
    ) -> None:
        self.observation_spaces, self.action_spaces = observation_spaces, action_spaces
        self.agent_counts = dict.fromkeys(observation_spaces, -1)
        self.events = []
        self.script, self.is_truncated = script, is_truncated
        self.observed: list[tuple[ActorID, int, Observation]] = []
        """Of the last episode: who saw it, when, what."""
        self.acted: list[Action] = []
        self._time = 0

    def actor_id(self) -> ActorID:
        return self.script[len(self.acted) % len(self.script)].actor

    def env_time(self) -> int:
        return self._time

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        self.observed, self.acted, self._time = [], [], 0
        for space in self.observation_spaces.values():
            space.seed(seed)
        return self._observe(), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        turn = self.script[len(self.acted)]
        self.acted.append(copy.deepcopy(action))
        self.events.extend(Placed(float(i)) for i in range(turn.n_events))
        self._time += turn.ends_step
        is_last = len(self.acted) == len(self.script)
        return (
            self._observe(),
            turn.reward,
            is_last and not self.is_truncated,
            is_last and self.is_truncated,
            {},
        )

    def _observe(self) -> Observation:
        observation: Observation = self.observation_space.sample()
        self.observed.append((self.actor_id(), self._time, copy.deepcopy(observation)))
        return observation


# Environments that violate the interface, and others that are hard to handle.


class ViolatingEnv(WalkEnv):
    """Follows the interface but for the third step (or the reset) of one episode."""

    def __init__(self, spoil: Any, place: str = "step", bad_seed: int = 4) -> None:
        super().__init__()
        self.spoil, self.place, self.bad_seed = spoil, place, bad_seed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        result = super().reset(seed=seed)
        is_bad = self.place == "reset" and seed == self.bad_seed
        return self._spoiled(result) if is_bad else result

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        result = super().step(action)
        is_bad = self.place == "step" and self.seed == self.bad_seed and self.count == 3
        return self._spoiled(result) if is_bad else result

    def _spoiled(self, result: tuple[Any, ...]) -> Any:
        return self.spoil(*result)


class ViolatingDictEnv(ViolatingEnv):
    observation_space = spaces.Dict(
        {"a": spaces.Box(0.0, 100.0, (2,), np.float32), "b": spaces.Discrete(3)}
    )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = WalkEnv.reset(self, seed=seed)
        return {"a": observation, "b": 1}, info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, *rest = WalkEnv.step(self, action)
        result = ({"a": observation, "b": 1}, *rest)
        is_bad = self.seed == self.bad_seed and self.count == 3
        return self._spoiled(result) if is_bad else result


class ViolatingUnboundedEnv(ViolatingEnv):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class HoldsLockEnv(CountingEnv):
    """Cannot be copied."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(n_steps=3, render_mode=render_mode)
        self.lock = threading.Lock()


class NoSecondWorkerEnv(FaultyEnv):
    """Kills its process in an episode; only one process can build it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(kill_process, {8})
        try:
            (directory / "lock").touch(exist_ok=False)
        except FileExistsError:
            raise ValueError("only one may run") from None


@dataclass(frozen=True)
class Divided(Event):
    """Its statistic is the inverse of the sum, which is not there for zero."""

    by: float

    statistics = (EventStatistic("inverse", lambda values: 1.0 / sum(values), "by"),)


class EventfulEnv(TwoStepEnv):
    """Puts something into the list of events, at each placement of the episode of one env seed."""

    def __init__(self, event: Any, seed: int) -> None:
        super().__init__()
        self.event, self.bad_seed, self.seed = event, seed, -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self.seed = -1 if seed is None else seed
        return super().reset(seed=seed)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if self._piece is not None and self.seed == self.bad_seed:
            self.events.append(self.event)
        return super().step(action)


class TextRewardEnv(TwoStepEnv):
    """Rewards its second placement with a text."""

    def step(self, action: Action) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        is_bad = self._time == 2 and self._piece is None
        return observation, "much" if is_bad else reward, terminated, truncated, info


def raise_config_error() -> None:
    raise ConfigError("set the port")


def raise_error_in_half_characters() -> None:
    raise ValueError("half a smile: \ud83d")
