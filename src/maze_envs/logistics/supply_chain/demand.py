"""What the customer wants in each period.

A demand remembers nothing: all that is random comes from the generator of the episode, and the
same seed gives the same demand whatever the stages order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from maze.core.errors import ConfigError, did_you_mean
from maze.core.factory import Factory
from maze_envs.logistics.supply_chain.checks import check_counts, check_numbers


class Demand(ABC):
    """Says what the customer wants."""

    @abstractmethod
    def units(self, period: int, rng: np.random.Generator) -> int:
        """Return the demand of a period, at least 0.

        Args:
            period: from 0; asked once each, in order.
            rng: of the episode.
        """


class ConstantDemand(Demand):
    """The same in each period: for known answers.

    Args:
        level: units per period, a whole number of at least 0.
    """

    def __init__(self, level: int = 4) -> None:
        check_counts(self, 0, level=level)
        self.level = level

    def units(self, period: int, rng: np.random.Generator) -> int:
        """Return the level."""
        return self.level


class StepDemand(Demand):
    """The beer game's: low in the beginning, then once and for all higher.

    Args:
        before: units per period in the first periods.
        after: units per period from then on.
        change_at: the first period with the new level; the classic game changes in its fifth.

    Source: Sterman, Modeling managerial behavior: misperceptions of feedback in a dynamic decision
    making experiment, Management Science 35(3), 1989.
    """

    def __init__(self, before: int = 4, after: int = 8, change_at: int = 4) -> None:
        check_counts(self, 0, before=before, after=after, change_at=change_at)
        self.before = before
        self.after = after
        self.change_at = change_at

    def units(self, period: int, rng: np.random.Generator) -> int:
        """Return one of the two levels."""
        return self.before if period < self.change_at else self.after


class PoissonDemand(Demand):
    """Many customers who come by chance, independent of each other.

    Args:
        mean: units per period, at least 0; the variance is the same number.
    """

    def __init__(self, mean: float = 4.0) -> None:
        check_numbers(self, 0.0, mean=mean)
        self.mean = mean

    def units(self, period: int, rng: np.random.Generator) -> int:
        """Draw from the Poisson distribution."""
        return int(rng.poisson(self.mean))


class SeasonalDemand(Demand):
    """Poisson demand whose mean goes up and down as a sine.

    Args:
        mean: units per period, over a whole season, at least 0.
        amplitude: how far the mean goes up and down, as a share of it, in [0, 1].
        n_periods: length of a season, at least 1.
    """

    def __init__(self, mean: float = 4.0, amplitude: float = 0.5, n_periods: int = 26) -> None:
        check_numbers(self, 0.0, mean=mean)
        check_numbers(self, 0.0, 1.0, amplitude=amplitude)
        check_counts(self, 1, n_periods=n_periods)
        self.mean = mean
        self.amplitude = amplitude
        self.n_periods = n_periods

    def units(self, period: int, rng: np.random.Generator) -> int:
        """Draw from the Poisson distribution of that time of the season."""
        wave = math.sin(2.0 * math.pi * (period % self.n_periods) / self.n_periods)
        return int(rng.poisson(self.mean * (1.0 + self.amplitude * wave)))


BY_NAME: Mapping[str, type[Demand]] = {
    "constant": ConstantDemand,
    "step": StepDemand,
    "poisson": PoissonDemand,
    "seasonal": SeasonalDemand,
}


def make_demand(demand: Demand | str | Mapping[str, Any]) -> Demand:
    """Return a demand.

    Args:
        demand: its name, for one with its default options; a config; or the object itself.

    Raises:
        ConfigError: If there is none of that name, or the config makes none.
    """
    if isinstance(demand, str):
        if demand not in BY_NAME:
            raise ConfigError(
                f"'env.demand' has to be one of {', '.join(BY_NAME)}, or a config with _target_,"
                f" got {demand!r}.{did_you_mean(demand, BY_NAME)}"
            )
        return BY_NAME[demand]()
    return Factory(Demand, "env.demand").build(demand)
