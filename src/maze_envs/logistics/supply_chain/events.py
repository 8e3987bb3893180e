"""What happens in a supply chain, and what is measured on it.

Stages are told apart by agent id and name, such as ``0_retailer``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from maze.core.events.event import Event, EventStatistic


def standard_deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of all values, with their number in the denominator."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return math.fsum(values) / len(values)


@dataclass(frozen=True)
class Demanded(Event):
    """The customer wanted something of the retailer."""

    units: int
    at_once: int
    """Of these, what left in the same period; the backlog goes first."""

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("mean", mean, "units"),
        EventStatistic("std", standard_deviation, "units"),
        EventStatistic("at_once", mean, "at_once"),
    )


@dataclass(frozen=True)
class Ordered(Event):
    """A stage placed its order of a period. A closed one places none."""

    stage: str
    units: int

    # Periods in which a stage was closed count as orders of 0.
    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("std", standard_deviation, "units", group_by="stage", per_step=sum),
    )


@dataclass(frozen=True)
class Produced(Event):
    """The factory finished goods."""

    units: int

    # Over an episode, the same as what the factory ordered some periods earlier.
    statistics: ClassVar[tuple[EventStatistic, ...]] = ()


@dataclass(frozen=True)
class Shipped(Event):
    """Goods left a stage; the retailer's go to the customer and are there at once."""

    stage: str
    units: int

    # In the long run the same for all stages, so that it is logged and not summarised.
    statistics: ClassVar[tuple[EventStatistic, ...]] = ()


@dataclass(frozen=True)
class Paid(Event):
    """A stage paid for what it has in stock and for what it owes, at the end of a period."""

    stage: str
    inventory: int
    """Units in stock."""
    backlog: int
    """Units owed."""
    holding_cost: float
    backlog_cost: float

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("holding", sum, "holding_cost", group_by="stage"),
        EventStatistic("backlog", sum, "backlog_cost", group_by="stage"),
    )
