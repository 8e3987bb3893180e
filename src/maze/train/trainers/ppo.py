"""Proximal policy optimisation: several passes over each segment, held near the old policy.

    ratio = pi_new(a | o) / pi_old(a | o)
    loss  = -min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A)

Source: Schulman et al., Proximal Policy Optimization Algorithms (2017), eq. 7; details as in Huang
et al., The 37 Implementation Details of PPO (2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from maze.train.trainers.actor_critic import ActorCritic, Batch, Experience
from maze.train.trainers.algorithm import INFINITY, check_counts, check_options


@dataclass(kw_only=True, eq=False)
class PPO(ActorCritic):
    """Proximal policy optimisation."""

    n_rollout_steps: int = 128
    learning_rate: float = 1e-3
    gamma: float = 0.995
    gae_lambda: float = 0.97
    entropy_coef: float = 0.01
    batch_size: int = 256
    """Decisions that are learnt from at once."""
    n_optimization_epochs: int = 10
    """Passes over each segment."""
    clip_range: float = 0.2
    """How far the ratio may move the loss, above 0."""
    target_kl: float | None = 0.02
    """Passes end when the policy has moved so far from the old one (in nats, mean over a pass).
    ``None``: they do not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, batch_size=2, n_optimization_epochs=1)
        check_options(self, clip_range=(1e-6, INFINITY))
        if self.target_kl is not None:
            check_options(self, target_kl=(1e-12, INFINITY))

    def _policy_loss(self, ratio_log: Tensor, batch: Batch) -> Tensor:
        ratio, advantage = torch.exp(ratio_log), batch.advantage
        clipped = torch.clamp(ratio, 1 - self.clip_range, 1 + self.clip_range)
        return -torch.minimum(ratio * advantage, clipped * advantage)

    def _learn(self, experience: Mapping[str, Experience], learns_policy: bool) -> dict[str, float]:
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
