"""Evolution strategies: weights are disturbed, and go where the returns were better.

    for pairs of noise +e, -e:  play an episode with weights + sigma * e and one with - sigma * e
    ranks of the returns, centred to [-0.5, 0.5]:  u
    gradient = sum over pairs of (u(+e) - u(-e)) * e / (2 * n_pairs * sigma)

Noise is known by its seed, so that workers are sent a number instead of a vector. Both episodes of
a pair meet the same environment.

Source: Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning
(2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from maze.core.episode import EpisodeSpec
from maze.core.seeding import SEED_BITS
from maze.train.collect import Credit, PlayedEpisode
from maze.train.flat_parameters import FlatParameters
from maze.train.models.model import Model
from maze.train.trainers.algorithm import (
    INFINITY,
    Algorithm,
    AlgorithmState,
    Update,
    check_counts,
    check_flags,
    check_options,
)
from maze.train.worker import Trial, noise_of
from maze.train.workers import Workers


@dataclass(kw_only=True, eq=False)
class ES(Algorithm):
    """Evolution strategies with antithetic noise and Adam."""

    n_lanes: ClassVar[int] = 0  # type: ignore[misc]  # It plays whole episodes.
    credit: ClassVar[Credit] = "joint"  # type: ignore[misc]

    n_pairs: int = 20
    """Pairs of disturbed weights for each update."""
    n_episodes_per_trial: int = 1
    """Episodes that each of them plays."""
    noise_std: float = 0.1
    """Sigma, the deviation of the noise."""
    learning_rate: float = 0.03
    """Of Adam."""
    l2_penalty: float = 0.005
    """Weights are drawn to 0 by so much."""
    deterministic: bool = True
    """Whether trials take the most likely actions."""

    def __post_init__(self) -> None:
        check_counts(self, n_pairs=1, n_episodes_per_trial=1)
        check_options(
            self, noise_std=(1e-9, INFINITY), learning_rate=(0, 10), l2_penalty=(0, INFINITY)
        )
        check_flags(self, "deterministic")

    def start(self, model: Model, rng: np.random.Generator, device: str, n_steps: int) -> None:
        """Take hold of the model."""
        self._model, self._rng = model, rng
        self._parameters = FlatParameters([model.policies])
        self._optimizer = torch.optim.Adam([self._parameters.vector], lr=self.learning_rate)

    def update(self, workers: Workers, n_steps_done: int) -> Update:
        """Try out disturbed weights, and take a step."""
        vector = self._parameters.vector
        seeds = self._rng.integers(2**SEED_BITS, size=(self.n_pairs, 3)).tolist()
        trials: list[Trial] = []
        for noise_seed, env_seed, agent_seed in seeds:
            specs = [
                EpisodeSpec(i, (env_seed + i) % 2**SEED_BITS, (agent_seed + i) % 2**SEED_BITS)
                for i in range(self.n_episodes_per_trial)
            ]
            trials += [
                Trial(noise_seed, scale, specs, self.deterministic)
                for scale in (self.noise_std, -self.noise_std)
            ]
        tried = workers.try_out(trials)
        returns = np.array([np.mean(one.returns) for one in tried])
        weights = centred_ranks(returns).reshape(self.n_pairs, 2)
        gradient = np.zeros(vector.numel(), np.float32)
        for (noise_seed, _, _), (plus, minus) in zip(seeds, weights, strict=True):
            gradient += np.float32(plus - minus) * noise_of(noise_seed, len(gradient))
        gradient /= 2 * self.n_pairs * self.noise_std
        assert vector.grad is not None
        with torch.no_grad():
            # Adam goes down, returns are to go up.
            vector.grad.copy_(
                self.l2_penalty * vector - torch.from_numpy(gradient).to(vector.device)
            )
        self._optimizer.step()
        n_steps = sum(one.n_steps for one in tried)
        episodes = [PlayedEpisode(value, 0, "trial", {}) for one in tried for value in one.returns]
        return Update(
            n_steps,
            episodes,
            {
                "return_std": float(returns.std()),
                "gradient_norm": float(np.linalg.norm(gradient)),
                "weight_norm": float(vector.detach().norm()),
            },
        )

    def state(self) -> AlgorithmState:
        """Return the optimiser's averages."""
        averages = self._optimizer.state.get(self._parameters.vector, {})
        return AlgorithmState({f"adam.{name}": value for name, value in averages.items()})

    def restore(self, state: AlgorithmState) -> None:
        """Take up what ``state`` returned."""
        self._optimizer.state[self._parameters.vector] = {
            name.removeprefix("adam."): value.clone() for name, value in state.tensors.items()
        }


def centred_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks, stretched to [-0.5, 0.5]; equal values share the mean of their ranks."""
    if len(values) == 1:
        return np.zeros(1)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts + 1) / 2
    ranks: NDArray[np.float64] = mean_rank[inverse] / (len(values) - 1) - 0.5
    return ranks
