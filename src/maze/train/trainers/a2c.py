"""Advantage actor-critic: one step along the policy gradient for each segment.

    loss = -log pi(a | o) * A

Source: Mnih et al., Asynchronous Methods for Deep Reinforcement Learning (2016), in its synchronous
form.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from maze.train.collect import Credit
from maze.train.trainers.actor_critic import ActorCritic, Batch, _Experience


class A2C(ActorCritic):
    """Advantage actor-critic. All arguments are described in ``ActorCritic``."""

    def __init__(
        self,
        n_lanes: int = 16,
        n_rollout_steps: int = 16,
        learning_rate: float = 2e-3,
        anneal_learning_rate: bool = False,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        entropy_coef: float = 0.005,
        value_loss_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        normalize_advantages: bool = True,
        critic_burn_in_updates: int = 0,
        adam_epsilon: float = 1e-5,
        credit: Credit = "auto",
    ) -> None:
        super().__init__(
            n_lanes=n_lanes,
            n_rollout_steps=n_rollout_steps,
            learning_rate=learning_rate,
            anneal_learning_rate=anneal_learning_rate,
            gamma=gamma,
            gae_lambda=gae_lambda,
            entropy_coef=entropy_coef,
            value_loss_coef=value_loss_coef,
            max_grad_norm=max_grad_norm,
            normalize_advantages=normalize_advantages,
            critic_burn_in_updates=critic_burn_in_updates,
            adam_epsilon=adam_epsilon,
            credit=credit,
        )

    def _policy_loss(self, ratio_log: Tensor, batch: Batch) -> Tensor:
        # The gradient is that of the log-probability; the constant in it makes no difference.
        return -ratio_log * batch.advantage

    def _learn(
        self, experience: Mapping[str, _Experience], learns_policy: bool
    ) -> dict[str, float]:
        (batches,) = self._batches(experience, None)
        told = self._step(batches, learns_policy)
        return {name: float(told[name]) for name in ("policy_loss", "value_loss", "grad_norm")}
