"""What PPO and A2C share: a segment of experience, its advantages, and a pass over its rows.

workers.collect --> Segment --critic--> values --GAE--> advantages
                                                           |
                  rows in batches --> _policy_loss + value loss - entropy --> one step of Adam
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maze.core.errors import ConfigError
from maze.train.advantages import explained_variance, generalized_advantages
from maze.train.collect import CUT, Credit, Segment, check_credit
from maze.train.flat_parameters import FlatParameters
from maze.train.models.model import Model
from maze.train.observations import Tensors
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


@dataclass
class Experience:
    """What one network has to learn from; the first dimension is the row."""

    observations: Tensors
    codes: dict[str, Tensor]
    first: tuple[str, Tensor] | None
    """Network and rows of the first decisions, for critics that need them."""
    decisions: NDArray[np.int64]
    """Which decisions of the segment the rows are."""
    log_prob: Tensor
    advantage: Tensor
    value_target: Tensor
    learns: NDArray[np.int64]
    """Rows that are learnt from: those that are not cut."""


@dataclass
class Batch:
    """Rows of one network that are learnt from together."""

    network: str
    observations: Tensors
    codes: Mapping[str, Tensor]
    first: tuple[str, Tensors] | None
    log_prob: Tensor
    """When the actions were chosen."""
    advantage: Tensor
    value_target: Tensor


@dataclass(kw_only=True, eq=False)
class ActorCritic(Algorithm):
    """Base of algorithms that learn a policy and values from segments."""

    uses_critic: ClassVar[bool] = True

    n_lanes: int = 16
    """Environments that are played side by side."""
    n_rollout_steps: int
    """Structured steps in each of them between updates."""
    learning_rate: float
    """Of Adam."""
    anneal_learning_rate: bool = False
    """Whether it goes down to 0 by the end of the training."""
    gamma: float
    """Discount per structured step, in [0, 1]."""
    gae_lambda: float
    """In [0, 1], see ``generalized_advantages``."""
    entropy_coef: float
    """Weight of the entropy bonus."""
    value_loss_coef: float = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: float = 0.5
    """The gradient is scaled down to it; 0: not."""
    normalize_advantages: bool = True
    """Whether the advantages of a batch get mean 0 and deviation 1."""
    critic_burn_in_updates: int = 0
    """Updates at the start in which the critic alone learns."""
    adam_epsilon: float = 1e-5
    """Of Adam."""
    credit: Credit = "auto"
    """See ``maze.train.collect.Credit``."""

    def __post_init__(self) -> None:
        check_credit(self.credit)
        check_counts(self, n_lanes=1, n_rollout_steps=1, critic_burn_in_updates=0)
        check_options(
            self,
            learning_rate=(0, 10),
            gamma=(0, 1),
            gae_lambda=(0, 1),
            entropy_coef=(0, INFINITY),
            value_loss_coef=(0, INFINITY),
            max_grad_norm=(0, INFINITY),
            adam_epsilon=(0, 1),
        )
        check_flags(self, "anneal_learning_rate", "normalize_advantages")

    def start(self, model: Model, rng: np.random.Generator, device: str, n_steps: int) -> None:
        """Take hold of the model."""
        self._model, self._rng, self._device, self._n_steps = model, rng, device, n_steps
        self._n_updates = 0
        # The policy's first: their vector is what workers are sent.
        self._parameters = FlatParameters([model.policies, model.critics])
        self._optimizer = torch.optim.Adam(
            [self._parameters.vector], lr=self.learning_rate, eps=self.adam_epsilon, fused=True
        )

    def update(self, workers: Workers, n_steps_done: int) -> Update:
        """Collect a segment, and learn from it."""
        segment = workers.collect(self.n_rollout_steps)
        share_left = 1.0
        if self.anneal_learning_rate:
            share_left = max(0.0, 1 - n_steps_done / max(self._n_steps, 1))
            self._optimizer.param_groups[0]["lr"] = self.learning_rate * share_left
        self._model.train()
        experience, metrics = self._prepare(segment)
        learns_policy = self._n_updates >= self.critic_burn_in_updates
        metrics.update(self._learn(experience, learns_policy))
        metrics["learning_rate"] = self.learning_rate * share_left
        self._n_updates += 1
        return Update(segment.n_steps, segment.episodes, metrics)

    def state(self) -> AlgorithmState:
        """Return the optimiser's averages and the number of updates."""
        tensors = {
            f"adam.{name}": value
            for name, value in self._optimizer.state.get(self._parameters.vector, {}).items()
        }
        return AlgorithmState(tensors, {"n_updates": self._n_updates})

    def restore(self, state: AlgorithmState) -> None:
        """Take up what ``state`` returned."""
        self._n_updates = int(state.numbers["n_updates"])
        self._optimizer.state[self._parameters.vector] = {
            name.removeprefix("adam."): value.clone() for name, value in state.tensors.items()
        }

    @abstractmethod
    def _learn(self, experience: Mapping[str, Experience], learns_policy: bool) -> dict[str, float]:
        """Learn from a segment; return metrics."""

    @abstractmethod
    def _policy_loss(self, ratio_log: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each row.

        Args:
            ratio_log: log-probability of the actions now, minus that when they were chosen.
            batch: of one network.
        """

    def _prepare(self, segment: Segment) -> tuple[dict[str, Experience], dict[str, float]]:
        """Compute values, advantages and log-probabilities of a segment."""
        model = self._model
        experience: dict[str, Experience] = {}
        values = np.zeros(len(segment.row), np.float32)
        entropies: list[float] = []
        needs_first = model.critic_kind != "step"
        # Rows in the order of the decisions, which does not depend on who has played which lane.
        of_networks = {
            name: np.flatnonzero(segment.network == number)
            for number, name in enumerate(segment.networks)
            if name in segment.rows
        }
        tensors = {
            name: model.networks[name].encoder.tensors(
                {
                    entry: array[segment.row[decisions]]
                    for entry, array in segment.rows[name].observations.items()
                },
                self._device,
            )
            for name, decisions in of_networks.items()
        }
        for name, decisions in of_networks.items():
            codes = {
                head: torch.from_numpy(of_head[segment.row[decisions]]).to(self._device)
                for head, of_head in segment.rows[name].codes.items()
            }
            first = None
            if needs_first and name != segment.networks[0]:
                first = (
                    segment.networks[0],
                    torch.from_numpy(_first_rows(segment, decisions)).to(self._device),
                )
            with torch.no_grad():
                logits, shown = model.outputs(name, tensors[name])
                log_prob = model.log_prob(name, logits, codes)
                entropies.append(float(model.entropy(name, logits).mean()))
                of_first = None
                if first is not None:
                    of_first = first[0], _take(tensors[first[0]], first[1])
                values[decisions] = model.values(name, shown, of_first).cpu().numpy()
            experience[name] = Experience(
                observations=tensors[name],
                codes=codes,
                first=first,
                decisions=decisions,
                log_prob=log_prob,
                advantage=log_prob,
                value_target=log_prob,
                learns=np.flatnonzero(segment.follows[decisions] != CUT),
            )
        advantage, target = generalized_advantages(
            segment.reward, values, segment.time, segment.follows, self.gamma, self.gae_lambda
        )
        learns = segment.follows != CUT
        metrics = {
            "value_mean": float(values[learns].mean()),
            "explained_variance": explained_variance(values[learns], target[learns]),
            "entropy": float(np.mean(entropies)),
        }
        for of_network in experience.values():
            of_network.advantage = torch.from_numpy(advantage[of_network.decisions]).to(
                self._device
            )
            of_network.value_target = torch.from_numpy(target[of_network.decisions]).to(
                self._device
            )
        return experience, metrics

    def _batches(
        self, experience: Mapping[str, Experience], batch_size: int | None
    ) -> Iterator[list[Batch]]:
        """Yield all rows once, shuffled, in batches over all networks.

        Args:
            experience: by network.
            batch_size: rows of a batch; ``None``: all of them, in one batch.
        """
        orders = {name: self._rng.permutation(one.learns) for name, one in experience.items()}
        n_rows = sum(len(order) for order in orders.values())
        n_batches = 1 if batch_size is None else max(1, round(n_rows / batch_size))
        # As tensors, and at once: each would be converted otherwise.
        parts = {
            name: torch.from_numpy(order).to(self._device).tensor_split(n_batches)
            for name, order in orders.items()
        }
        for i in range(n_batches):
            yield [
                self._batch(name, experience, parts[name][i])
                for name in experience
                if len(parts[name][i])
            ]

    def _batch(self, name: str, experience: Mapping[str, Experience], rows: Tensor) -> Batch:
        one = experience[name]
        first = None
        if one.first is not None:
            network, of_all = one.first
            first = network, _take(experience[network].observations, of_all[rows])
        return Batch(
            network=name,
            observations=_take(one.observations, rows),
            codes=_take(one.codes, rows),
            first=first,
            log_prob=one.log_prob.index_select(0, rows),
            advantage=one.advantage.index_select(0, rows),
            value_target=one.value_target.index_select(0, rows),
        )

    def _step(self, batches: list[Batch], learns_policy: bool) -> dict[str, Tensor]:
        """Take one step of the optimiser; return what is to be logged, without gradients."""
        model = self._model
        n_rows = sum(len(batch.advantage) for batch in batches)
        if self.normalize_advantages and n_rows > 1:
            together = _joined([batch.advantage for batch in batches])
            std, mean = torch.std_mean(together)
            for batch in batches:
                batch.advantage = (batch.advantage - mean) / (std + 1e-8)
        policy_losses: list[Tensor] = []
        value_losses: list[Tensor] = []
        entropies: list[Tensor] = []
        ratios: list[Tensor] = []
        for batch in batches:
            name = batch.network
            logits, shown = model.outputs(name, batch.observations)
            log_prob, entropy_of = model.log_prob_and_entropy(name, logits, batch.codes)
            ratio_log = log_prob - batch.log_prob
            policy_losses.append(self._policy_loss(ratio_log, batch))
            entropies.append(entropy_of)
            values = model.values(name, shown, batch.first)
            value_losses.append((values - batch.value_target).square())
            ratios.append(ratio_log.detach())
        policy_loss = _joined(policy_losses).mean()
        value_loss, entropy = _joined(value_losses).mean(), _joined(entropies).mean()
        loss = self.value_loss_coef * value_loss
        if learns_policy:
            loss = loss + policy_loss - self.entropy_coef * entropy
        self._parameters.zero_grad()
        loss.backward()
        norm = self._parameters.clip_grad(self.max_grad_norm)
        self._optimizer.step()
        return {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "grad_norm": norm,
            "ratio_log": _joined(ratios),
        }


def _first_rows(segment: Segment, decisions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which of the first network's decisions began the same structured steps."""
    networks = segment.first_network[decisions]
    if (networks != 0).any():
        raise ConfigError(
            "a shared or delta critic is for environments whose structured steps all begin with"
            f" the same kind of decision, that of '{segment.networks[0]}'; here one began with"
            f" '{segment.networks[int(networks.max())]}'. Use critic=step."
        )
    rows_of_first = segment.row[segment.network == 0]
    position = np.empty(rows_of_first.max() + 1, np.int64)
    position[rows_of_first] = np.arange(len(rows_of_first))
    return position[segment.first_row[decisions]]


def _take(tensors: Mapping[str, Any], rows: Tensor) -> dict[str, Tensor]:
    return {name: values.index_select(0, rows) for name, values in tensors.items()}


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
