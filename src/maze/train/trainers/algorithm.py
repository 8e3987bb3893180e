"""What a training runner expects of an algorithm.

An algorithm holds its options from its construction, and all that it learns in the model and in
``state``. It has no loop: the runner calls ``update`` until enough steps were played, evaluates,
logs and writes checkpoints in between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from maze.core.errors import ConfigError
from maze.core.rollout.job import WrapperSource
from maze.datasets.recordings import Recordings
from maze.train.collect import Credit, PlayedEpisode
from maze.train.models.model import Model
from maze.train.workers import Workers

INFINITY = float("inf")


@dataclass(frozen=True)
class Update:
    """What came of one update."""

    n_steps: int
    """Structured steps that were played for it."""
    episodes: Sequence[PlayedEpisode]
    """That ended in it."""
    metrics: Mapping[str, float]
    """To be logged, the same names each time."""


@dataclass
class AlgorithmState:
    """All that an algorithm has to remember for going on, but for the model."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By name."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """Values of JSON."""


class Algorithm(ABC):
    """Improves the policy of a model.

    A subclass is a short file: a dataclass of options, ``update`` from top to bottom.
    """

    n_lanes: int
    """Environments that it collects in; 0 if it plays whole episodes only."""
    credit: Credit
    """Whose decisions make a chain."""
    uses_critic: ClassVar[bool] = False
    """Whether it needs ``model.critics``."""
    n_action_critics: ClassVar[int] = 0
    """How many critics of actions it needs."""
    uses_dataset: ClassVar[bool] = False
    """Whether it learns from recordings: then ``take_dataset`` is called before ``start``."""
    shown: ClassVar[Sequence[str]] = ()
    """Metrics that are printed during a training, as far as there are such."""

    def take_dataset(self, recordings: Recordings) -> None:
        """Take the recordings to learn from, in the form that the environment gives."""
        raise NotImplementedError(f"{type(self).__name__} does not learn from recordings")

    def lane_wrappers(self, wrappers: WrapperSource) -> WrapperSource:
        """Return what is put around the environments that are played in, given the training's."""
        return wrappers

    @property
    def validation_names(self) -> Sequence[str]:
        """Names of what ``validate`` returns."""
        return ()

    def validate(self) -> Mapping[str, float]:
        """Look at what is not learnt from; called with each evaluation.

        Returns:
            Metrics, to be logged. Where no episodes are played for evaluation, the weights with
            the lowest ``validation_loss`` are kept.
        """
        return {}

    @abstractmethod
    def start(self, model: Model, rng: np.random.Generator, device: str, n_steps: int) -> None:
        """Take hold of the model. Called once, before all else.

        Args:
            model: whose parameters are learnt.
            rng: for all that is random in learning; the runner keeps it.
            device: where the model is.
            n_steps: that are going to be played in all, for schedules.
        """

    @abstractmethod
    def update(self, workers: Workers, n_steps_done: int) -> Update:
        """Play a bit, and learn from it.

        Args:
            workers: play.
            n_steps_done: structured steps that were played before.
        """

    @abstractmethod
    def state(self) -> AlgorithmState:
        """Return what to remember."""

    @abstractmethod
    def restore(self, state: AlgorithmState) -> None:
        """Take up what ``state`` returned."""


def check_options(owner: object, **limits: tuple[float, float]) -> None:
    """Refuse options that are no numbers, or lie outside their range.

    Args:
        owner: whose attributes they are.
        limits: smallest and largest value, by name.
    """
    for name, (low, high) in limits.items():
        value = getattr(owner, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            bounds = f"from {low:g}" if high == INFINITY else f"from {low:g} to {high:g}"
            raise ConfigError(f"'algorithm.{name}' has to be a number {bounds}, got {value!r}")


def check_flags(owner: object, *names: str) -> None:
    """Refuse options that are neither true nor false."""
    for name in names:
        if not isinstance(getattr(owner, name), bool):
            raise ConfigError(
                f"'algorithm.{name}' has to be true or false, got {getattr(owner, name)!r}"
            )


def check_counts(owner: object, **smallest: int) -> None:
    """Refuse options that are no whole numbers, or are too small."""
    for name, least in smallest.items():
        value = getattr(owner, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(
                f"'algorithm.{name}' has to be a whole number from {least}, got {value!r}"
            )
