"""Advantage actor-critic: one step along the policy gradient for each segment.

    loss = -log pi(a | o) * A

Source: Mnih et al., Asynchronous Methods for Deep Reinforcement Learning (2016), in its synchronous
form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from maze.train.trainers.actor_critic import ActorCritic, Batch, Experience


@dataclass(kw_only=True, eq=False)
class A2C(ActorCritic):
    """Advantage actor-critic."""

    n_rollout_steps: int = 16
    learning_rate: float = 2e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    entropy_coef: float = 0.005

    def _policy_loss(self, ratio_log: Tensor, batch: Batch) -> Tensor:
        # The gradient is that of the log-probability; the constant in it makes no difference.
        return -ratio_log * batch.advantage

    def _learn(self, experience: Mapping[str, Experience], learns_policy: bool) -> dict[str, float]:
        (batches,) = self._batches(experience, None)
        told = self._step(batches, learns_policy)
        return {name: float(told[name]) for name in ("policy_loss", "value_loss", "grad_norm")}
