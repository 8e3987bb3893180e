"""The state of a supply chain, and the actions that change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

N_PERIODS_KEPT = 52
"""How much of the past a state holds, for drawings."""


@dataclass(frozen=True)
class Stage:
    """One company of the chain. All numbers are units of the only product there is."""

    inventory: int
    """In stock."""
    backlog: int
    """Ordered from this stage and not yet shipped by it."""
    incoming_order: int
    """Ordered from this stage in the last period, by the stage downstream or the customer."""
    received: int
    """Goods that arrived in the last period."""
    shipped: int
    """Goods that left in the last period."""
    orders_under_way: tuple[int, ...]
    """Its own orders that the stage upstream has not got yet, the oldest first. The factory, which
    orders from nobody, has none."""
    goods_under_way: tuple[int, ...]
    """Shipped to it (or, at the factory, in production) and not yet there; what arrives next is
    first."""


class Period(NamedTuple):
    """What is kept of a period that is over."""

    demand: int
    """Of the customer."""
    orders: tuple[int, ...]
    """Of each stage; 0 where it was closed."""
    cost: float
    """Of all stages."""


@dataclass(frozen=True)
class SupplyChainState:
    """The chain between two periods, or in the middle of one: while the stages order."""

    time: int
    """Periods that are over."""
    stages: tuple[Stage, ...]
    """From the retailer (0), who is next to the customer, to the factory."""
    open_stages: tuple[int, ...]
    """Who orders in this period, in this order."""
    orders: tuple[int, ...] = ()
    """Ordered in this period so far, by the first of them."""
    history: tuple[Period, ...] = ()
    """The last ``N_PERIODS_KEPT`` periods, the latest one last."""

    def on_order(self, stage: int) -> int:
        """Return what a stage has ordered in earlier periods and has not received."""
        own = self.stages[stage]
        owed = self.stages[stage + 1].backlog if stage + 1 < len(self.stages) else 0
        return sum(own.orders_under_way) + owed + sum(own.goods_under_way)


@dataclass(frozen=True)
class Order:
    """One stage's order of one period."""

    units: int
    """At least 0."""

    def __post_init__(self) -> None:
        if self.units < 0:
            raise ValueError(f"an order has at least 0 units, got {self.units}")


@dataclass(frozen=True)
class Orders:
    """The orders of all stages in one period, by a planner who sees the whole chain."""

    units: tuple[int, ...]
    """For each stage, at least 0. What is ordered for a closed stage is not placed."""

    def __post_init__(self) -> None:
        if min(self.units) < 0:
            raise ValueError(f"an order has at least 0 units, got {self.units}")


def stage_names(n_stages: int) -> tuple[str, ...]:
    """Return what stages are called in event logs: agent id and name, such as ``0_retailer``."""
    between = ("wholesaler", *("distributor",) * n_stages)[: n_stages - 2]
    return tuple(f"{i}_{name}" for i, name in enumerate(("retailer", *between, "factory")))
