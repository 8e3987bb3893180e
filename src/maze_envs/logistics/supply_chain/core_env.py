"""The rules of a supply chain in series, known as the beer game.

    customer <-- retailer (0) <-- wholesaler (1) <-- distributor (2) <-- factory (3)

Orders go up the chain and goods come down, both with delay. In each period every stage decides,
one after the other, what it orders from the next one upstream; the factory decides what it
produces. Nobody sees what others order in this period. When the last one has ordered, the period
takes its course:

    1 order    The orders are sent. One sent at time t is read in the period that ends at time
               t + order_lead_time. The factory's order goes straight into production.
    2 receive  Each stage receives the goods that arrive. Those shipped in the period that ended at
               time t arrive in the one that ends at t + shipment_lead_time; goods that the factory
               ordered at time t in the one that ends at t + production_lead_time.
    3 read     Each stage reads the order that reached it; the retailer reads the customer's demand.
    4 ship     Each stage ships what it has, at most what it read and what it still owes. What it
               cannot ship stays in its backlog, and none is ever lost.
    5 count    Each unit in stock costs holding_cost, each unit owed backlog_cost.

So with the classic lead times of 2 + 2 periods, and 3 for production, what a stage orders at time
t is at its disposal in the period that ends at t + 4 (the factory: t + 3), if the stage upstream
has it. These are the steps of Sterman's board game, where a week begins with receiving goods and
ends with ordering: what is a period here goes from the order of one week to that of the next.

An example with two stages, 12 units in stock, 4 in each place under way, and a demand of 10:

    time  what                   retailer                            factory
          has, owes              12, 0                               12, 0
     0    orders, goods on way   (4), (4, 4)                         -, (4, 4)
          orders                 9                                   5
          receives, reads        4, 10                               4, 4
          ships                  10                                  4
          has, owes, pays        6, 0, 3.0                           12, 0, 6.0
     1    orders, goods on way   (9), (4, 4)                         -, (4, 5)
          orders                 10                                  6
          receives, reads        4, 10                               4, 9
          ships                  10                                  9
          has, owes, pays        0, 0, 0.0                           7, 0, 3.5
     2    orders, goods on way   (10), (4, 9)                        -, (5, 6)
          orders                 11                                  7
          receives, reads        4, 10                               5, 10
          ships                  4                                   10
          has, owes, pays        0, 6, 6.0                           2, 0, 1.0
     3    orders, goods on way   (11), (9, 10)                       -, (6, 7)

Source: Sterman, Modeling managerial behavior: misperceptions of feedback in a dynamic decision
making experiment, Management Science 35(3), 1989, pages 321 to 339.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maze.core.env.core_env import ActionT, CoreEnv
from maze.core.env.structured_env import (
    UNKNOWN_COUNT,
    ActorID,
    EpisodeSummary,
    StepKey,
)
from maze_envs.logistics.supply_chain.checks import check_counts, check_numbers
from maze_envs.logistics.supply_chain.demand import Demand
from maze_envs.logistics.supply_chain.events import (
    Demanded,
    Ordered,
    Paid,
    Produced,
    Shipped,
)
from maze_envs.logistics.supply_chain.state import (
    N_PERIODS_KEPT,
    Order,
    Orders,
    Period,
    Stage,
    SupplyChainState,
    stage_names,
)


@dataclass(frozen=True)
class Rules:
    """How long the chain is, how slow, how dear, and how it begins."""

    n_stages: int = 4
    """At least 2: a retailer and a factory."""
    order_lead_time: int = 2
    """Periods, at least 1."""
    shipment_lead_time: int = 2
    """Periods, at least 1."""
    production_lead_time: int = 3
    """Periods from the factory's order to finished goods, at least 1."""
    initial_inventory: int = 12
    """Of each stage."""
    initial_flow: int = 4
    """Units in each place where orders or goods are under way in the beginning."""
    holding_cost: float = 0.5
    """For each unit in stock at the end of a period."""
    backlog_cost: float = 1.0
    """For each unit owed at the end of a period, by any stage."""
    closures: float = 0.0
    """Probability that a stage is closed in a period, independent of all else. It orders nothing
    then; goods still come and go. If chance would close all, one of them is open."""

    def __post_init__(self) -> None:
        check_counts(self, 2, n_stages=self.n_stages)
        check_counts(
            self,
            1,
            order_lead_time=self.order_lead_time,
            shipment_lead_time=self.shipment_lead_time,
            production_lead_time=self.production_lead_time,
        )
        check_counts(
            self, 0, initial_inventory=self.initial_inventory, initial_flow=self.initial_flow
        )
        check_numbers(self, 0.0, holding_cost=self.holding_cost, backlog_cost=self.backlog_cost)
        check_numbers(self, 0.0, 1.0, closures=self.closures)

    @property
    def lead_times(self) -> tuple[int, ...]:
        """Periods from a stage's order to its goods, if the stage upstream has them."""
        lead_time = self.order_lead_time + self.shipment_lead_time
        return (*[lead_time] * (self.n_stages - 1), self.production_lead_time)

    def first_stages(self) -> tuple[Stage, ...]:
        """Return the stages as an episode begins."""
        flow = self.initial_flow
        first = Stage(
            inventory=self.initial_inventory,
            backlog=0,
            incoming_order=flow,
            received=flow,
            shipped=flow,
            orders_under_way=(flow,) * (self.order_lead_time - 1),
            goods_under_way=(flow,) * self.shipment_lead_time,
        )
        factory = replace(
            first,
            orders_under_way=(),
            goods_under_way=(flow,) * (self.production_lead_time - 1),
        )
        return (*[first] * (self.n_stages - 1), factory)

    def stages_after(
        self, stages: Sequence[Stage], orders: Sequence[int], demand: int
    ) -> tuple[Stage, ...]:
        """Return the stages after a period: all but the costs.

        Args:
            stages: before it.
            orders: of each stage.
            demand: of the customer.
        """
        last = self.n_stages - 1
        # 1 order. What is sent last is read last; with a lead time of 1 it is read at once.
        sent = [
            (*stage.orders_under_way, order) for stage, order in zip(stages, orders, strict=True)
        ]
        coming = [stage.goods_under_way for stage in stages]
        coming[last] = (*coming[last], orders[last])
        # 2 receive, 3 read.
        received = [goods[0] for goods in coming]
        read = [demand, *(of_downstream[0] for of_downstream in sent[:last])]
        # 4 ship.
        in_stock = [stage.inventory + n for stage, n in zip(stages, received, strict=True)]
        due = [stage.backlog + n for stage, n in zip(stages, read, strict=True)]
        shipped = list(map(min, in_stock, due))
        return tuple(
            Stage(
                inventory=in_stock[i] - shipped[i],
                backlog=due[i] - shipped[i],
                incoming_order=read[i],
                received=received[i],
                shipped=shipped[i],
                orders_under_way=sent[i][1:] if i < last else (),
                goods_under_way=(*coming[i][1:], shipped[i + 1]) if i < last else coming[i][1:],
            )
            for i in range(self.n_stages)
        )

    def open_stages(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Draw which stages are open in a period: at least one; all of them without closures."""
        if not self.closures:
            return tuple(range(self.n_stages))
        is_open = rng.random(self.n_stages) >= self.closures
        if not is_open.any():
            return (int(rng.integers(self.n_stages)),)
        return tuple(np.flatnonzero(is_open).tolist())


class ChainCoreEnv(CoreEnv[SupplyChainState, ActionT]):
    """What is the same whoever orders. An episode has no end of its own.

    Args:
        rules: of the chain.
        demand: of the customer.
    """

    def __init__(self, rules: Rules, demand: Demand) -> None:
        super().__init__()
        self.rules = rules
        self.demand = demand
        self._names = stage_names(rules.n_stages)

    def reset(self, rng: np.random.Generator) -> SupplyChainState:
        """Start an episode."""
        self._rng = rng
        self.state = SupplyChainState(
            time=0, stages=self.rules.first_stages(), open_stages=self.rules.open_stages(rng)
        )
        return self.state

    def env_time(self) -> int:
        """Return the number of periods that are over."""
        return self.state.time

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        """Return what is looked at first.

        ``cost_per_period``: of all stages. ``fill_rate``: the share of the demand that was met in
        the period in which it came. ``bullwhip_ratio``: the variance of the factory's orders over
        that of the demand, so how much the chain amplifies; above 1 is bad. The last two are left
        out where they are not defined: where nothing was wanted, and where demand did not vary.
        """
        statistics = summary.statistics
        if not self.state.time:
            return {}
        costs = sum(number for name, number in statistics.items() if name.startswith("Paid."))
        kpis = {"cost_per_period": costs / self.state.time}
        if wanted := statistics["Demanded.mean"]:
            kpis["fill_rate"] = statistics["Demanded.at_once"] / wanted
        if deviation := statistics["Demanded.std"]:
            of_factory = statistics.get(f"Ordered.std/{self._names[-1]}", 0.0)
            kpis["bullwhip_ratio"] = (of_factory / deviation) ** 2
        return kpis

    def _place(self, stage: int, units: int) -> None:
        self.events.append(Ordered(self._names[stage], units))

    def _play_period(self, placed: Mapping[int, int]) -> SupplyChainState:
        """Return the state after the period, given the orders of the stages that were open."""
        rules, before = self.rules, self.state
        demand = self.demand.units(before.time, self._rng)
        orders = tuple([placed.get(i, 0) for i in range(rules.n_stages)])
        stages = rules.stages_after(before.stages, orders, demand)
        retailer, owed = stages[0], before.stages[0].backlog
        emit = self.events.append
        emit(Demanded(demand, at_once=max(retailer.shipped - owed, 0)))
        emit(Produced(stages[-1].received))
        cost = 0.0
        for name, stage in zip(self._names, stages, strict=True):
            emit(Shipped(name, stage.shipped))
            holding = rules.holding_cost * stage.inventory
            owing = rules.backlog_cost * stage.backlog
            emit(Paid(name, stage.inventory, stage.backlog, holding, owing))
            cost += holding + owing
        return SupplyChainState(
            time=before.time + 1,
            stages=stages,
            open_stages=rules.open_stages(self._rng),
            history=(*before.history[1 - N_PERIODS_KEPT :], Period(demand, orders, cost)),
        )


class SupplyChainCoreEnv(ChainCoreEnv[Order]):
    """Each stage orders for itself: the step key is ``order``, the agent id that of the stage."""

    def __init__(self, rules: Rules, demand: Demand) -> None:
        super().__init__(rules, demand)
        # How many act in a period is up to chance then.
        n_agents = UNKNOWN_COUNT if rules.closures else rules.n_stages
        self.agent_counts: Mapping[StepKey, int] = {"order": n_agents}

    def step(self, action: Order) -> tuple[SupplyChainState, bool, bool]:
        """Place the next stage's order. With the last one the period takes its course."""
        state = self.state
        orders = (*state.orders, action.units)
        self._place(state.open_stages[len(state.orders)], action.units)
        if len(orders) < len(state.open_stages):
            self.state = replace(state, orders=orders)
        else:
            self.state = self._play_period(dict(zip(state.open_stages, orders, strict=True)))
        return self.state, False, False

    def actor_id(self) -> ActorID:
        """Return which stage orders next."""
        return ActorID("order", self.state.open_stages[len(self.state.orders)])


class PlannerCoreEnv(ChainCoreEnv[Orders]):
    """A planner orders for all stages at once: a single actor, and each step is a period."""

    def step(self, action: Orders) -> tuple[SupplyChainState, bool, bool]:
        """Place the orders of all stages that are open, and let the period take its course."""
        placed = {stage: action.units[stage] for stage in self.state.open_stages}
        for stage, units in placed.items():
            self._place(stage, units)
        self.state = self._play_period(placed)
        return self.state, False, False
