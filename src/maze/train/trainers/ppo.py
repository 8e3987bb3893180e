"""Proximal policy optimisation: several passes over each segment, held near the old policy.

    ratio = pi_new(a | o) / pi_old(a | o)
    loss  = -min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A)

Source: Schulman et al., Proximal Policy Optimization Algorithms (2017), eq. 7; details as in Huang
et al., The 37 Implementation Details of PPO (2022).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from maze.core.errors import ConfigError
from maze.train.collect import Credit
from maze.train.trainers.actor_critic import INFINITY, ActorCritic, Batch, _Experience
from maze.train.trainers.algorithm import check_counts, check_options


class PPO(ActorCritic):
    """Proximal policy optimisation.

    Args:
        n_lanes: see ``ActorCritic``, as all that are not described here.
        n_rollout_steps: see there.
        batch_size: decisions that are learnt from at once.
        n_optimization_epochs: passes over each segment.
        clip_range: how far the ratio may move the loss, above 0.
        target_kl: passes end when the policy has moved so far from the old one (in nats, mean over
            a batch). ``None``: they do not.
        learning_rate: see there.
        anneal_learning_rate: see there.
        gamma: see there.
        gae_lambda: see there.
        entropy_coef: see there.
        value_loss_coef: see there.
        max_grad_norm: see there.
        normalize_advantages: in each batch; see there.
        critic_burn_in_updates: see there.
        adam_epsilon: see there.
        credit: see there.
    """

    def __init__(
        self,
        n_lanes: int = 16,
        n_rollout_steps: int = 128,
        batch_size: int = 256,
        n_optimization_epochs: int = 10,
        clip_range: float = 0.2,
        target_kl: float | None = 0.02,
        learning_rate: float = 1e-3,
        anneal_learning_rate: bool = False,
        gamma: float = 0.995,
        gae_lambda: float = 0.97,
        entropy_coef: float = 0.01,
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
        self.batch_size, self.n_optimization_epochs = batch_size, n_optimization_epochs
        self.clip_range, self.target_kl = clip_range, target_kl
        check_counts(self, batch_size=2, n_optimization_epochs=1)
        check_options(self, clip_range=(1e-6, INFINITY))
        if target_kl is not None and not target_kl > 0:
            raise ConfigError(
                f"'algorithm.target_kl' has to be a number above 0, or null, got {target_kl!r}"
            )

    def _policy_loss(self, ratio_log: Tensor, batch: Batch) -> Tensor:
        ratio, advantage = torch.exp(ratio_log), batch.advantage
        clipped = torch.clamp(ratio, 1 - self.clip_range, 1 + self.clip_range)
        return -torch.minimum(ratio * advantage, clipped * advantage)

    def _learn(
        self, experience: Mapping[str, _Experience], learns_policy: bool
    ) -> dict[str, float]:
        losses: list[Tensor] = []
        n_epochs, kl, clipped = 0, 0.0, 0.0
        for _ in range(self.n_optimization_epochs):
            n_epochs += 1
            ratios: list[Tensor] = []
            for batches in self._batches(experience, self.batch_size):
                told = self._step(batches, learns_policy)
                ratios.append(told["ratio_log"])
                losses.append(
                    torch.stack([told["policy_loss"], told["value_loss"], told["grad_norm"]])
                )
            ratio_log = torch.cat(ratios)
            ratio = ratio_log.exp()
            # Low variance and never negative: Schulman, Approximating KL Divergence (2020).
            kl = float((ratio - 1 - ratio_log).mean())
            clipped = float(((ratio - 1).abs() > self.clip_range).float().mean())
            if self.target_kl is not None and kl > self.target_kl:
                break
        policy_loss, value_loss, grad_norm = torch.stack(losses).mean(0).tolist()
        return {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "grad_norm": grad_norm,
            "kl": kl,
            "clipped": clipped,
            "optimization_epochs": float(n_epochs),
        }
