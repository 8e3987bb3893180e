"""A room to be heated, as a plain Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Celsius = NDArray[np.float32]


class ThermostatEnv(gym.Env[Celsius, np.int64]):
    """Keep a room at a temperature; each step is a minute.

    Observation: difference to the target in degrees, shape (1,). Action: 0 heating off, 1 on.
    Reward: minus the difference's size. Ends (truncated) after ``n_minutes``.

    Args:
        target: in degrees Celsius.
        outside: temperature of the surroundings, in degrees Celsius.
        n_minutes: length of an episode.
    """

    def __init__(self, target: float = 21.0, outside: float = 5.0, n_minutes: int = 120) -> None:
        self.target, self.outside, self.n_minutes = target, outside, n_minutes
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Celsius, dict[str, Any]]:
        super().reset(seed=seed)
        self._minute = 0
        self._temperature = self.np_random.uniform(self.outside, self.target)
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Celsius, float, bool, bool, dict[str, Any]]:
        self._minute += 1
        draught = self.np_random.normal(0.0, 0.05)
        self._temperature += 0.02 * (self.outside - self._temperature) + 0.6 * action + draught
        reward = -abs(self._temperature - self.target)
        return self._observe(), float(reward), False, self._minute >= self.n_minutes, {}

    def _observe(self) -> Celsius:
        return np.array([self._temperature - self.target], dtype=np.float32)
