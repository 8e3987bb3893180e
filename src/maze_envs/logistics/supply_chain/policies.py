"""How to order: what theory says, and what people do.

Both policies work for stages that order for themselves and for a planner, since a planner sees the
same numbers, with a row for each stage.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.agent.flat_policies import FlatPolicies
from maze.core.agent.policy import FlatPolicy
from maze.core.env.structured_env import Action, Observation, StepKey
from maze.core.errors import ConfigError
from maze_envs.logistics.supply_chain.checks import check_numbers


class OrderPolicy(FlatPolicy):
    """Orders whole units, as near to what a subclass wants as the action space allows.

    Args:
        action_space: of a stage or of a planner.

    Raises:
        ConfigError: If it is that of another environment.
    """

    def __init__(self, action_space: spaces.Dict) -> None:
        space = action_space.get("order")
        if isinstance(space, spaces.Discrete):
            self._max_order: Any = int(space.n) - 1
            self._is_planner = False
        elif isinstance(space, spaces.MultiDiscrete):
            self._max_order = space.nvec - 1
            self._is_planner = True
        else:
            raise ConfigError(
                f"{type(self).__name__} plays supply chains, whose action has an entry 'order' that"
                f" is Discrete or MultiDiscrete, got {action_space}. Choose env=supply_chain or"
                " env=supply_chain_flat, or another policy."
            )

    def act(self, observation: Observation, memory: Any, deterministic: bool) -> Action:
        """Return the order of a stage, or those of all stages."""
        wanted = self._wanted(observation, memory)
        orders = np.clip(np.rint(wanted), 0, self._max_order).astype(np.int64)
        return {"order": orders if self._is_planner else int(orders[0])}

    @abstractmethod
    def _wanted(self, observation: Observation, memory: Any) -> NDArray[np.float64]:
        """Return the orders as if everything could be ordered: shape (1,), or (n_stages,)."""


class BaseStockPolicy(OrderPolicy):
    """Orders up to a level: what is in stock and on order, less what is owed, is filled up to it.

        level = m L + z s sqrt(L),    z = the quantile ``service_level`` of the normal distribution

    for a demand of mean m and standard deviation s per period that is independent between periods,
    and a lead time of L periods. What is ordered now arrives in the L-th period from now, so the
    level has to last for the demand of L periods (the period between two orders is among them).
    Without the delays of others and with normal demand, ``service_level`` is the probability that
    a stage owes nothing after a period, and the cheapest one is b / (b + h), for backlog cost b and
    holding cost h. In a chain a stage also waits for what the one upstream has not got, so that a
    higher one is cheaper.

    Args:
        action_space: of a stage or of a planner.
        demand_mean: of the customer, in units per period, at least 0.
        demand_std: of the customer, at least 0. ``None``: the square root of the mean, as for
            Poisson demand.
        service_level: in (0, 1).
        levels: order-up-to levels of the stages, the retailer's first, instead of the formula's.

    Raises:
        ConfigError: If an option cannot be used.

    Source: Snyder & Shen, Fundamentals of Supply Chain Theory (2nd ed., 2019), chapter 4:
    base-stock levels under the normal approximation of the demand during the lead time.
    """

    def __init__(
        self,
        action_space: spaces.Dict,
        demand_mean: float = 4.0,
        demand_std: float | None = None,
        service_level: float = 0.8,
        levels: Sequence[float] | None = None,
    ) -> None:
        super().__init__(action_space)
        check_numbers(self, 0.0, demand_mean=demand_mean)
        std = demand_mean**0.5 if demand_std is None else demand_std
        check_numbers(self, 0.0, demand_std=std)
        check_numbers(self, 0.0, 1.0, service_level=service_level)
        if service_level in (0.0, 1.0):
            raise ConfigError(
                "'service_level' of BaseStockPolicy has to lie between 0 and 1, both excluded, got"
                f" {service_level}: no stock is large enough for each demand"
            )
        self._mean = demand_mean
        self._safety = NormalDist().inv_cdf(service_level) * std
        self._levels = None if levels is None else np.array(levels, np.float64)

    def level(self, observation: Observation) -> NDArray[np.float64]:
        """Return the order-up-to level, shape (1,) or (n_stages,)."""
        lead_time = observation["lead_time"].astype(np.float64)
        if self._levels is None:
            formula: NDArray[np.float64] = self._mean * lead_time + self._safety * np.sqrt(
                lead_time
            )
            return formula
        return self._levels if self._is_planner else self._levels @ observation["stage"][:, None]

    def _wanted(self, observation: Observation, memory: Any) -> NDArray[np.float64]:
        has = observation["inventory"] + observation["on_order"] - observation["backlog"]
        wanted: NDArray[np.float64] = self.level(observation) - has
        return wanted


class StermanPolicy(OrderPolicy):
    """Orders as people do in the beer game: anchored on what they expect, then adjusted.

        order    = expected + stock_adjustment (desired_stock - stock - supply_line_weight on_order)
        expected = smoothing incoming_order + (1 - smoothing) expected before

    where the stock is net of the backlog. People give too little weight to what they have ordered
    already: they order it again, and a small change of the demand becomes a large one upstream, the
    bullwhip effect. With a weight of 1 there would be none of that.

    Args:
        action_space: of a stage or of a planner.
        smoothing: weight of the last incoming order in what is expected, in [0, 1].
        stock_adjustment: share of the gap that is ordered in a period, in [0, 1].
        supply_line_weight: in [0, 1].
        desired_stock: in units, at least 0; includes what is desired on order, by its weight.

    Source: Sterman, Modeling managerial behavior: misperceptions of feedback in a dynamic decision
    making experiment, Management Science 35(3), 1989; the defaults are the means of the parameters
    that he estimated for his players.
    """

    def __init__(
        self,
        action_space: spaces.Dict,
        smoothing: float = 0.36,
        stock_adjustment: float = 0.26,
        supply_line_weight: float = 0.34,
        desired_stock: float = 17.0,
    ) -> None:
        super().__init__(action_space)
        check_numbers(
            self,
            0.0,
            1.0,
            smoothing=smoothing,
            stock_adjustment=stock_adjustment,
            supply_line_weight=supply_line_weight,
        )
        check_numbers(self, 0.0, desired_stock=desired_stock)
        self._smoothing = smoothing
        self._adjustment = stock_adjustment
        self._weight = supply_line_weight
        self._desired = desired_stock

    def start_episode(self, seed: int) -> dict[int, NDArray[np.float64]]:
        """Return what is expected, by stage; a planner's are together."""
        return {}

    def _wanted(
        self, observation: Observation, memory: dict[int, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        stage = -1 if self._is_planner else int(np.argmax(observation["stage"]))
        incoming = observation["incoming_order"].astype(np.float64)
        before = memory.get(stage, incoming)
        expected = memory[stage] = self._smoothing * incoming + (1.0 - self._smoothing) * before
        stock = observation["inventory"] - observation["backlog"]
        gap = self._desired - stock - self._weight * observation["on_order"]
        wanted: NDArray[np.float64] = expected + self._adjustment * gap
        return wanted


def base_stock_policy(
    action_spaces: Mapping[StepKey, spaces.Dict],
    demand_mean: float = 4.0,
    demand_std: float | None = None,
    service_level: float = 0.8,
    levels: Sequence[float] | None = None,
) -> FlatPolicies:
    """Return a ``BaseStockPolicy``, which has these options, for either variant of the chain."""
    return FlatPolicies(
        {
            step_key: BaseStockPolicy(space, demand_mean, demand_std, service_level, levels)
            for step_key, space in action_spaces.items()
        }
    )


def sterman_policy(
    action_spaces: Mapping[StepKey, spaces.Dict],
    smoothing: float = 0.36,
    stock_adjustment: float = 0.26,
    supply_line_weight: float = 0.34,
    desired_stock: float = 17.0,
) -> FlatPolicies:
    """Return a ``StermanPolicy``, which has these options, for either variant of the chain."""
    return FlatPolicies(
        {
            step_key: StermanPolicy(
                space, smoothing, stock_adjustment, supply_line_weight, desired_stock
            )
            for step_key, space in action_spaces.items()
        }
    )
