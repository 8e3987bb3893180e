"""Tiny environments that show one property each, for any test that needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from maze.core.env.structured_env import Action, ActorID, Observation, StructuredEnv
from maze.core.events.event import Event


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
