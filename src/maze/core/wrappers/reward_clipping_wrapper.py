"""Rewards within bounds, so that rare large ones do not dominate learning."""

from __future__ import annotations

import math

from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError
from maze.core.wrappers.checks import number
from maze.core.wrappers.wrapper import RewardWrapper


class RewardClippingWrapper(RewardWrapper):
    """Moves each reward that lies outside of an interval to the interval's nearer end.

    Args:
        env: the environment inside.
        min_val: the least reward, in the environment's own unit; minus infinity for no bound.
        max_val: the largest reward, at least ``min_val``; infinity for no bound.

    Raises:
        ConfigError: If a bound is not a number or ``min_val`` is larger than ``max_val``.
    """

    def __init__(self, env: StructuredEnv, min_val: float, max_val: float) -> None:
        super().__init__(env)
        self.min_val = number(min_val, "min_val", of=self)
        self.max_val = number(max_val, "max_val", of=self)
        if math.isnan(self.min_val) or math.isnan(self.max_val) or self.min_val > self.max_val:
            raise ConfigError(
                f"RewardClippingWrapper needs min_val <= max_val, got min_val={min_val!r} and"
                f" max_val={max_val!r}."
            )

    def reward(self, reward: float) -> float:
        """Return the reward, or the bound that it passed. A NaN stays a NaN."""
        # The reward comes first: max and min keep their first argument when nothing compares,
        # and a NaN that became a bound would hide the environment's fault.
        return min(max(reward, self.min_val), self.max_val)
