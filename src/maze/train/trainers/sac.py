"""Soft actor-critic: off-policy, with a bonus for entropy whose weight is learnt.

    y        = r + discount * (min over target critics Q'(o', a') - alpha log pi(a' | o')),  a' ~ pi
    critics:   (Q(o, a) - y)^2
    policy:    alpha log pi(a | o) - min Q(o, a),  a ~ pi through its noise
    alpha:     -log alpha * (log pi(a | o) + target entropy)

Source: Haarnoja et al., Soft Actor-Critic Algorithms and Applications (2019). For discrete heads,
actions are relaxed (Jang, Gu & Poole, 2017).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maze.core.errors import ConfigError
from maze.train.collect import Credit, check_credit
from maze.train.flat_parameters import FlatParameters
from maze.train.models.model import Model
from maze.train.observations import Tensors
from maze.train.replay_buffer import ReplayBuffer, Transitions
from maze.train.trainers.algorithm import (
    INFINITY,
    Algorithm,
    AlgorithmState,
    Update,
    check_counts,
    check_flags,
    check_options,
)
from maze.train.workers import Workers


@dataclass(kw_only=True, eq=False)
class SAC(Algorithm):
    """Soft actor-critic with two critics."""

    n_action_critics: ClassVar[int] = 2

    n_lanes: int = 4
    """Environments that are played side by side."""
    n_rollout_steps: int = 1
    """Structured steps in each of them between updates. With several agents, more than one: the
    last decision of each is learnt from only when its next is known."""
    n_batches: int = 4
    """Steps of the optimisers for each update."""
    batch_size: int = 256
    """Transitions of each."""
    buffer_size: int = 1_000_000
    """Transitions that are kept."""
    initial_steps: int = 2_000
    """Structured steps that are played before anything is learnt."""
    learning_rate: float = 1e-3
    """Of Adam, for policy and critics."""
    alpha_learning_rate: float = 1e-3
    """Of Adam, for the weight of the entropy."""
    gamma: float = 0.99
    """Discount per structured step, in [0, 1]."""
    tau: float = 0.005
    """By how much target critics follow the critics after each batch, in (0, 1]."""
    initial_alpha: float = 0.2
    """Weight of the entropy at the start."""
    tune_alpha: bool = True
    """Whether it is learnt."""
    target_entropy_scale: float = 1.0
    """The target of the entropy is -1 for each number of a ``Box`` head, and half of the largest
    entropy for a discrete one, times this."""
    max_grad_norm: float = 0.0
    """Gradients are scaled down to it; 0: not."""
    checkpoint_replay: bool = True
    """Whether checkpoints hold the transitions, so that a resumed training is the same; without,
    it begins with an empty buffer."""
    credit: Credit = "auto"
    """See ``maze.train.collect.Credit``."""

    def __post_init__(self) -> None:
        check_credit(self.credit)
        counts = ("n_lanes", "n_rollout_steps", "n_batches", "batch_size", "buffer_size")
        check_counts(self, **dict.fromkeys(counts, 1), initial_steps=0)
        check_options(
            self,
            learning_rate=(0, 10),
            alpha_learning_rate=(0, 10),
            gamma=(0, 1),
            tau=(1e-9, 1),
            initial_alpha=(1e-9, INFINITY),
            target_entropy_scale=(0, INFINITY),
            max_grad_norm=(0, INFINITY),
        )
        check_flags(self, "tune_alpha", "checkpoint_replay")

    def start(self, model: Model, rng: np.random.Generator, device: str, n_steps: int) -> None:
        """Take hold of the model."""
        several = any(n != 1 for n in model.specs.agent_counts.values())
        by_agent = self.credit == "agents" or (self.credit == "auto" and several)
        if by_agent and self.n_rollout_steps < 2:
            raise ConfigError(
                "with several agents, what follows a decision is known only when the agent decides"
                " again: use algorithm.n_rollout_steps=8 or so (and as many times"
                " algorithm.n_batches), or algorithm.credit=joint"
            )
        for network in model.networks.values():
            for head in network.heads:
                zeros = np.zeros((1, head.distribution.n_code), head.distribution.code_dtype)
                head.distribution.features(torch.from_numpy(zeros))  # Refuses what cannot be.
        self._model, self._rng, self._device = model, rng, device
        self._critics = model.action_critics
        self._targets = copy.deepcopy(model.action_critics)
        self._policy_parameters = FlatParameters([model.policies])
        self._critic_parameters = FlatParameters([self._critics])
        self._target_parameters = FlatParameters([self._targets])
        self._names = list(model.networks)
        self._log_alpha = torch.full(
            (len(self._names),), math.log(self.initial_alpha), device=device, requires_grad=True
        )
        self._optimizers = {
            "policy": torch.optim.Adam(
                [self._policy_parameters.vector], lr=self.learning_rate, fused=True
            ),
            "critic": torch.optim.Adam(
                [self._critic_parameters.vector], lr=self.learning_rate, fused=True
            ),
            "alpha": torch.optim.Adam([self._log_alpha], lr=self.alpha_learning_rate),
        }
        self._target_entropy = [self._target_entropy_of(name) for name in self._names]
        self._buffer = ReplayBuffer(self.buffer_size, self.gamma)
        self._metrics = dict.fromkeys(
            ("critic_loss", "policy_loss", "entropy", "alpha", "value_mean"), math.nan
        )

    def update(self, workers: Workers, n_steps_done: int) -> Update:
        """Play a bit, and learn from what was ever played."""
        segment = workers.collect(self.n_rollout_steps)
        self._buffer.add(segment)
        if n_steps_done + segment.n_steps > self.initial_steps and len(self._buffer):
            self._model.train()
            for _ in range(self.n_batches):
                self._metrics = self._learn(self._buffer.sample(self._rng, self.batch_size))
        metrics = {**self._metrics, "buffer": float(len(self._buffer))}
        return Update(segment.n_steps, segment.episodes, metrics)

    def _learn(self, batch: Mapping[tuple[str, str], Transitions]) -> dict[str, float]:
        n = sum(len(one.reward) for one in batch.values())
        alpha = self._log_alpha.detach().exp()
        critics: Any = self._critics
        targets: Any = self._targets
        critic_loss: Any = 0.0
        shown: dict[str, list[Tensors]] = {}
        value_sum = 0.0
        for (name, following), one in batch.items():
            network = self._model.networks[name]
            observations = network.encoder.tensors(one.observations, self._device)
            shown.setdefault(name, []).append(observations)
            after = self._model.networks[following].encoder.tensors(
                one.next_observations, self._device
            )
            features = torch.cat(
                [
                    head.distribution.features(
                        torch.from_numpy(one.codes[head.name]).to(self._device)
                    )
                    for head in network.heads
                ],
                1,
            )
            with torch.no_grad():
                chosen, log_prob = self._act(following, after)
                value = torch.stack([c(after, chosen) for c in targets[following]])
                soft = value.amin(0) - alpha[self._names.index(following)] * log_prob
                target = self._tensor(one.reward) + self._tensor(one.discount) * soft
                value_sum += float(soft.sum())
            for critic in critics[name]:
                critic_loss = critic_loss + (critic(observations, features) - target).square().sum()
        critic_loss = critic_loss / n
        self._critic_parameters.zero_grad()
        critic_loss.backward()
        self._critic_parameters.clip_grad(self.max_grad_norm)
        self._optimizers["critic"].step()

        policy_loss: Any = 0.0
        alpha_loss: Any = 0.0
        entropy = 0.0
        for name, parts in shown.items():
            together = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            index = self._names.index(name)
            chosen, log_prob = self._act(name, together)
            value = torch.stack([c(together, chosen) for c in critics[name]]).amin(0)
            policy_loss = policy_loss + (alpha[index] * log_prob - value).sum()
            surplus = log_prob.detach() + self._target_entropy[index]
            alpha_loss = alpha_loss - (self._log_alpha[index] * surplus).sum()
            entropy -= float(log_prob.detach().sum())
        policy_loss = policy_loss / n
        self._policy_parameters.zero_grad()
        policy_loss.backward()
        self._policy_parameters.clip_grad(self.max_grad_norm)
        self._optimizers["policy"].step()
        if self.tune_alpha:
            self._optimizers["alpha"].zero_grad()
            (alpha_loss / n).backward()
            self._optimizers["alpha"].step()
        with torch.no_grad():
            self._target_parameters.vector.lerp_(self._critic_parameters.vector, self.tau)
        return {
            "critic_loss": float(critic_loss.detach()),
            "policy_loss": float(policy_loss.detach()),
            "entropy": entropy / n,
            "alpha": float(alpha.mean()),
            "value_mean": value_sum / n,
        }

    def state(self) -> AlgorithmState:
        """Return critics, their targets, the optimisers' averages and the transitions."""
        tensors = {
            "targets": self._target_parameters.vector.detach(),
            "log_alpha": self._log_alpha.detach(),
        }
        for name, optimizer in self._optimizers.items():
            (parameter,) = optimizer.param_groups[0]["params"]
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}.{key}"] = value
        if self.checkpoint_replay:
            tensors |= {f"replay.{key}": value for key, value in self._buffer.tensors().items()}
        return AlgorithmState(tensors, {})

    def restore(self, state: AlgorithmState) -> None:
        """Take up what ``state`` returned."""
        with torch.no_grad():
            self._target_parameters.vector.copy_(state.tensors["targets"])
            self._log_alpha.copy_(state.tensors["log_alpha"])
        for name, optimizer in self._optimizers.items():
            (parameter,) = optimizer.param_groups[0]["params"]
            averages = {
                key.removeprefix(f"{name}."): value.clone()
                for key, value in state.tensors.items()
                if key.startswith(f"{name}.")
            }
            if averages:
                optimizer.state[parameter] = averages
        self._buffer.restore(
            {
                key.removeprefix("replay."): value
                for key, value in state.tensors.items()
                if key.startswith("replay.")
            }
        )

    def _act(self, name: str, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """Return features of sampled actions, and their log-probabilities."""
        logits, _ = self._model.outputs(name, tensors)
        noise = self._rng.random(tuple(logits.shape), dtype=np.float32).clip(1e-6, 1 - 1e-6)
        drawn = torch.from_numpy(noise).to(self._device)
        parts = [
            head.distribution.rsample(logits[:, head.logits], drawn[:, head.logits])
            for head in self._model.networks[name].heads
        ]
        if len(parts) == 1:
            return parts[0]
        features, log_probs = zip(*parts, strict=True)
        return torch.cat(features, 1), torch.stack(log_probs).sum(0)

    def _tensor(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _target_entropy_of(self, name: str) -> float:
        target = 0.0
        for head in self._model.networks[name].heads:
            distribution = head.distribution
            if distribution.is_continuous:
                target -= distribution.n_code
            else:
                target += 0.5 * math.log(distribution.n_logits)
        return self.target_entropy_scale * target
