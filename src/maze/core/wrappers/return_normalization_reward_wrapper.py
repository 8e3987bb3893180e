"""Rewards in units of the spread of the returns.

With them, critics of different tasks have targets of the same size, so that the same learning
rate serves all of them.
"""

from __future__ import annotations

import math

import numpy as np

from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError
from maze.core.wrappers.checks import finite_number, positive_count
from maze.core.wrappers.sampling import SAMPLING_SEED, sample_steps
from maze.core.wrappers.wrapper import RewardWrapper


class ReturnNormalizationRewardWrapper(RewardWrapper):
    """Divides each reward by the standard deviation of the discounted return.

        reward / sqrt(return_variance + epsilon)

    The variance is that of the running sums

        R[t] = gamma * R[t - 1] + r[t],    R[-1] = 0 in each episode

    over structured steps t, whose reward is that of all their sub-steps. It is one number that
    never changes: given, or estimated when the wrapper is constructed, from episodes with random
    actions and fixed seeds. So the reward of an episode does not depend on the episodes before
    it, as it does where the variance is updated in each step. Random actions may earn much less
    than a trained policy: what is read from ``return_variance`` once can be given in the config.

    Args:
        env: the environment inside. Without a ``return_variance``, steps are played in it here.
        gamma: discount per structured step, in [0, 1].
        epsilon: added to the variance, at least 0.
        return_variance: in squared units of the reward, at least 0; ``None``: it is estimated.
        n_samples: structured steps that are played for the estimate. Each process that plays
            episodes makes it anew.
        sampling_seed: of the episodes that are played for the estimate.

    Raises:
        ConfigError: If an argument is out of range, or if all returns that were sampled are the
            same, so that they have no spread to divide by.

    Source: reward scaling in Engstrom et al., Implementation Matters in Deep Policy Gradients
    (ICLR 2020), appendix A.2; ``gymnasium.wrappers.NormalizeReward`` updates it in each step.
    """

    return_variance: float
    """The variance of the discounted return, in squared units of the reward inside."""

    def __init__(
        self,
        env: StructuredEnv,
        gamma: float = 0.99,
        epsilon: float = 1e-8,
        return_variance: float | None = None,
        n_samples: int = 1000,
        sampling_seed: int = SAMPLING_SEED,
    ) -> None:
        super().__init__(env)
        self.gamma = finite_number(gamma, "gamma", of=self)
        self.epsilon = finite_number(epsilon, "epsilon", of=self)
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(
                f"'gamma' of ReturnNormalizationRewardWrapper has to be in [0, 1], got {gamma!r}."
            )
        n_samples = positive_count(n_samples, "n_samples", of=self)
        if return_variance is None:
            self.return_variance = estimate_return_variance(
                env, self.gamma, n_samples, sampling_seed
            )
            if self.return_variance == 0.0 or not math.isfinite(self.return_variance):
                raise ConfigError(
                    f"the returns of {n_samples} steps with random actions have the variance"
                    f" {self.return_variance}, which rewards cannot be divided by. Give"
                    " 'return_variance', or more 'n_samples' if rewards are rare."
                )
        else:
            self.return_variance = finite_number(return_variance, "return_variance", of=self)
        for name in ("epsilon", "return_variance"):
            if getattr(self, name) < 0.0:
                raise ConfigError(
                    f"'{name}' of ReturnNormalizationRewardWrapper has to be at least 0, got"
                    f" {getattr(self, name)!r}."
                )
        if self.return_variance + self.epsilon == 0.0:
            raise ConfigError(
                "'return_variance' and 'epsilon' of ReturnNormalizationRewardWrapper are both 0:"
                " rewards cannot be divided by 0."
            )
        self._divisor = math.sqrt(self.return_variance + self.epsilon)

    def reward(self, reward: float) -> float:
        """Return ``reward / sqrt(return_variance + epsilon)``."""
        return reward / self._divisor


def estimate_return_variance(
    env: StructuredEnv, gamma: float, n_samples: int, seed: int = SAMPLING_SEED
) -> float:
    """Return the variance of the discounted return with random actions.

    Args:
        env: steps are played in it; reset it afterwards.
        gamma: discount per structured step.
        n_samples: structured steps, each of which gives one value of the running sum.
        seed: what is played is a function of it.

    Returns:
        The mean squared deviation from the mean, so with ``n_samples`` in the denominator.
    """
    returns: list[float] = []
    discounted = reward = 0.0
    for step in sample_steps(env, n_samples, seed=seed):
        reward += step.reward
        if step.completes_step:
            discounted = gamma * discounted + reward
            returns.append(discounted)
            reward = 0.0
        if step.is_last:
            discounted = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.var(returns))
