"""Rewards in another unit.

Learning is easier with rewards of about one, and sums of rewards are easier to compare between
environments of the same scale.
"""

from __future__ import annotations

from maze.core.env.structured_env import StructuredEnv
from maze.core.wrappers.checks import finite_number
from maze.core.wrappers.wrapper import RewardWrapper


class RewardScalingWrapper(RewardWrapper):
    """Multiplies each reward by a constant.

    Args:
        env: the environment inside.
        scale: the factor, any finite number.

    Raises:
        ConfigError: If ``scale`` is not a finite number.
    """

    def __init__(self, env: StructuredEnv, scale: float) -> None:
        super().__init__(env)
        self.scale = finite_number(scale, "scale", of=self)

    def reward(self, reward: float) -> float:
        """Return ``reward * scale``."""
        return reward * self.scale
