"""Behavioural cloning: learn from recorded decisions to decide likewise.

    loss = -log pi(a | o) - entropy_coef * H(pi(. | o))

over the decisions (o, a) of a recording; with ``box_loss: squared_error``, heads of ``Box`` actions
have the squared distance of their mean from the recorded action in place of the first term.

Source: Pomerleau, ALVINN: An Autonomous Land Vehicle in a Neural Network (1989); in the form of
maximum likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maze.core.env.structured_env import ActorID, StepKey
from maze.core.errors import ConfigError
from maze.datasets.recordings import Recordings, Rows
from maze.train.collect import Credit
from maze.train.flat_parameters import FlatParameters
from maze.train.models.blocks import MASKED
from maze.train.models.model import Model
from maze.train.observations import Tensors
from maze.train.trainers.algorithm import (
    INFINITY,
    Algorithm,
    AlgorithmState,
    Update,
    check_counts,
    check_options,
)
from maze.train.workers import Workers

_FIELDS = ("observations", "actions", "agent_id")
_BOX_LOSSES = ("likelihood", "squared_error")
_N_BATCHES = 8
"""Steps of the optimiser in one update, so that an update is worth a row of the log."""

_Told: TypeAlias = dict[str, tuple[float, int]]
"""By name of a metric, its sum over decisions, and how many they are."""


@dataclass
class Decisions:
    """Observations and what was decided on them, of one network."""

    observations: Tensors
    codes: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.codes.values())))


@dataclass(kw_only=True, eq=False)
class Cloning(Algorithm):
    """What learning from decisions takes, wherever they come from."""

    batch_size: int = 256
    """Decisions that are learnt from at once."""
    learning_rate: float = 1e-3
    """Of Adam."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    weight_decay: float = 0.0
    """Of Adam (decoupled, as in AdamW)."""
    max_grad_norm: float = 0.5
    """The gradient is scaled down to it; 0: not."""
    box_loss: str = "likelihood"
    """For heads of ``Box`` actions: ``likelihood``, which learns the deviation as well, or
    ``squared_error`` of the mean, which leaves it as it is."""
    credit: Credit = "auto"
    """See ``maze.train.collect.Credit``; of no consequence here."""
    shown: ClassVar[Sequence[str]] = (
        *("loss", "accuracy", "action_error"),
        *("validation_accuracy", "validation_loss"),
    )

    def __post_init__(self) -> None:
        check_counts(self, batch_size=1)
        check_options(
            self,
            learning_rate=(0, 10),
            entropy_coef=(0, INFINITY),
            weight_decay=(0, INFINITY),
            max_grad_norm=(0, INFINITY),
        )
        if self.box_loss not in _BOX_LOSSES:
            raise ConfigError(
                f"'algorithm.box_loss' has to be one of {', '.join(_BOX_LOSSES)}, got"
                f" {self.box_loss!r}"
            )

    def start(self, model: Model, rng: np.random.Generator, device: str, n_steps: int) -> None:
        """Take hold of the model."""
        self._model, self._rng, self._device, self._n_steps = model, rng, device, n_steps
        self._parameters = FlatParameters([model.policies])
        self._optimizer = torch.optim.AdamW(
            [self._parameters.vector],
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def state(self) -> AlgorithmState:
        """Return the optimiser's averages."""
        tensors = {
            f"adam.{name}": value
            for name, value in self._optimizer.state.get(self._parameters.vector, {}).items()
        }
        return AlgorithmState(tensors, {})

    def restore(self, state: AlgorithmState) -> None:
        """Take up what ``state`` returned."""
        averages = {
            name.removeprefix("adam."): value.clone()
            for name, value in state.tensors.items()
            if name.startswith("adam.")
        }
        if averages:
            self._optimizer.state[self._parameters.vector] = averages

    def _learn(self, decisions: Mapping[str, Decisions]) -> dict[str, float]:
        """Make a step of the optimiser; return metrics."""
        self._model.train()
        n = sum(len(one) for one in decisions.values())
        told: list[_Told] = []
        total: Tensor | None = None
        for name, one in decisions.items():
            metrics, losses = self._judge(name, one)
            told.append(metrics)
            total = losses.sum() if total is None else total + losses.sum()
        assert total is not None
        self._parameters.zero_grad()
        (total / n).backward()
        grad_norm = self._parameters.clip_grad(self.max_grad_norm)
        self._optimizer.step()
        return {**self._means(told), "grad_norm": float(grad_norm)}

    def _judge(self, name: str, decisions: Decisions) -> tuple[_Told, Tensor]:
        """Compare what a network would do with what was done.

        Returns:
            Sum over the decisions and their number by name of a metric, and the loss of each.
        """
        model = self._model
        network = model.networks[name]
        logits, _ = model.outputs(name, decisions.observations)
        losses = torch.zeros(len(decisions), device=logits.device)
        likelihood = torch.zeros(len(decisions), device=logits.device)
        right: Tensor | None = None
        error: Tensor | None = None
        for head in network.heads:
            of_head, codes = logits[:, head.logits], decisions.codes[head.name]
            log_prob = head.distribution.log_prob(of_head, codes)
            likelihood = likelihood + log_prob
            if head.mask is not None:
                _check_allowed(head.name, head.mask, log_prob)
            if head.distribution.is_continuous and self.box_loss == "squared_error":
                losses = losses + head.distribution.squared_error(of_head, codes)
            else:
                losses = losses - log_prob
            chosen = head.distribution.mode(of_head.detach().cpu().numpy())
            if head.distribution.is_continuous:
                taken = np.stack(head.distribution.to_env(chosen))
                given = np.stack(head.distribution.to_env(codes.cpu().numpy()))
                distance = np.abs(taken.astype(np.float64) - given).reshape(len(taken), -1)
                here = torch.from_numpy(distance.mean(1))
                error = here if error is None else error + here
            else:
                same = torch.from_numpy((chosen == codes.cpu().numpy()).all(axis=1))
                right = same if right is None else right & same
        entropy = model.entropy(name, logits)
        if self.entropy_coef:
            losses = losses - self.entropy_coef * entropy
        told = {"loss": losses.detach().sum(), "entropy": entropy.detach().sum()}
        if right is not None:
            told["accuracy"] = told[f"accuracy_{name}"] = right.double().sum()
        if error is not None:
            told["action_error"] = error.sum()
        n = len(decisions)
        return {metric: (float(value), n) for metric, value in told.items()}, losses

    def _metric_names(self) -> list[str]:
        """Return the names of what is told of decisions."""
        networks = self._model.networks
        names = ["loss", "entropy"]
        discrete = [
            name
            for name, network in networks.items()
            if any(not head.distribution.is_continuous for head in network.heads)
        ]
        if discrete:
            names.append("accuracy")
        if len(networks) > 1:
            names += [f"accuracy_{name}" for name in discrete]
        if any(head.distribution.is_continuous for one in networks.values() for head in one.heads):
            names.append("action_error")
        return names

    def _means(self, told: Sequence[_Told]) -> dict[str, float]:
        means: dict[str, float] = {}
        for name in self._metric_names():
            parts = [one[name] for one in told if name in one]
            n = sum(n for _, n in parts)
            means[name] = sum(value for value, _ in parts) / n if n else math.nan
        return means


@dataclass(kw_only=True, eq=False)
class BC(Cloning):
    """Behavioural cloning of recorded decisions."""

    uses_dataset: ClassVar[bool] = True

    n_lanes = 0
    validation_share: float = 0.1
    """Of the episodes, drawn by chance: they are not learnt from, and looked at with each
    evaluation. 0: none."""
    rows_in_memory: int = 65_536
    """Decisions that are mixed with each other, at least."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, rows_in_memory=1)
        check_options(self, validation_share=(0, 0.99))

    def take_dataset(self, recordings: Recordings) -> None:
        """Take the recordings to learn from; called before ``start``."""
        self._recordings = recordings

    def start(self, model: Model, rng: np.random.Generator, device: str, n_steps: int) -> None:
        """Take hold of the model, and split the recordings."""
        super().start(model, rng, device, n_steps)
        seed = int(rng.integers(2**31))
        self._order_seed = int(rng.integers(2**31))
        self._learnt, self._held_back = self._recordings.split(self.validation_share, seed)
        self._epoch = self._position = 0
        self._batches: Iterator[Mapping[StepKey, Rows]] | None = None

    def update(self, workers: Workers, n_steps_done: int) -> Update:
        """Learn from some batches."""
        told: list[dict[str, float]] = []
        n = 0
        for _ in range(_N_BATCHES):
            decisions = self._decisions(self._next())
            told.append(self._learn(decisions))
            n += sum(len(one) for one in decisions.values())
            if n_steps_done + n >= self._n_steps:
                break
        return Update(n, (), {**mean_metrics(told), "epoch": self._epoch})

    @property
    def validation_names(self) -> Sequence[str]:
        """Names of what ``validate`` returns."""
        if self._held_back is None:
            return ()
        return [f"validation_{name}" for name in self._metric_names()]

    def validate(self) -> dict[str, float]:
        """Return loss, accuracy and entropy of the episodes that are not learnt from."""
        if self._held_back is None:
            return {}
        self._model.eval()
        told: list[_Told] = []
        with torch.no_grad():
            for rows in self._held_back.batches(
                4096, _FIELDS, shuffle=False, rows_in_memory=self.rows_in_memory
            ):
                told += [self._judge(name, one)[0] for name, one in self._decisions(rows).items()]
        return {f"validation_{name}": value for name, value in self._means(told).items()}

    def state(self) -> AlgorithmState:
        """Return the optimiser's averages, and how far the pass over the recordings is."""
        numbers = {"epoch": self._epoch, "position": self._position}
        return AlgorithmState(super().state().tensors, numbers)

    def restore(self, state: AlgorithmState) -> None:
        """Take up what ``state`` returned."""
        super().restore(state)
        self._epoch = int(state.numbers["epoch"])
        n_before = int(state.numbers["position"])
        self._batches, self._position = self._pass(), 0
        for _ in range(n_before):
            self._next()

    def _pass(self) -> Iterator[Mapping[StepKey, Rows]]:
        seed = np.random.SeedSequence([self._order_seed, self._epoch]).generate_state(1)[0]
        return self._learnt.batches(
            self.batch_size, _FIELDS, seed=int(seed), rows_in_memory=self.rows_in_memory
        )

    def _next(self) -> Mapping[StepKey, Rows]:
        if self._batches is None:
            self._batches = self._pass()
        rows = next(self._batches, None)
        if rows is None:
            self._epoch, self._position = self._epoch + 1, 0
            self._batches = self._pass()
            rows = next(self._batches, None)
            if rows is None:
                raise ConfigError("the recordings hold no decision to learn from")
        self._position += 1
        return rows

    def _decisions(self, rows: Mapping[StepKey, Rows]) -> dict[str, Decisions]:
        return decisions_of(self._model, rows, self._device)


def decisions_of(
    model: Model, rows: Mapping[StepKey, Rows], device: str = "cpu"
) -> dict[str, Decisions]:
    """Return recorded decisions as what networks take, by network."""
    found: dict[str, Decisions] = {}
    for key, of_key in rows.items():
        agents = of_key.values["agent_id"]
        names = {
            agent: model.network_of(ActorID(key, agent)) for agent in np.unique(agents).tolist()
        }
        for name in dict.fromkeys(names.values()):
            part = of_key
            if len(set(names.values())) > 1:
                of_name = [agent for agent, other in names.items() if other == name]
                part = of_key.take(np.flatnonzero(np.isin(agents, of_name)))
            network = model.networks[name]
            observations = network.encoder.tensors(
                network.encoder.arrays(part.values["observations"]), device
            )
            codes: dict[str, Tensor] = {}
            for head in network.heads:
                actions: NDArray[Any] = part.values["actions"][head.name]
                code = head.distribution.from_env(actions)
                codes[head.name] = torch.from_numpy(np.ascontiguousarray(code)).to(device)
            found[name] = Decisions(observations, codes)
    return found


def mean_metrics(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over some steps, of those in which it is a number."""
    means: dict[str, float] = {}
    for name in dict.fromkeys(name for one in told for name in one):
        values = [one[name] for one in told if one.get(name, math.nan) == one.get(name, math.nan)]
        means[name] = sum(values) / len(values) if values else math.nan
    return means


def _check_allowed(head: str, mask: str, log_prob: Tensor) -> None:
    if bool((log_prob < MASKED / 2).any()):
        raise ConfigError(
            f"a recorded action '{head}' is one that the mask '{mask}' does not allow: it was"
            " recorded in another environment, or with another mask"
        )
