"""The supply chain as an environment, made from plain values: what config files name.

==============  ===========================================================================
state           ``SupplyChainState``: stock, backlog, orders and goods under way of each stage
step key        ``order``, with the stages 0 (retailer) to n_stages - 1 (factory) as agents; with
                ``one_planner`` there is the step key 0 with one agent
observation     what a stage has in its own books (``PositionObservation``), or the books of all
                stages (``ChainObservation``); float32
action          ``order``: whole units, ``Discrete(max_order + 1)``; of a planner, one number for
                each stage, ``MultiDiscrete``
reward          minus the period's holding and backlog costs, all stages together; each stage's own
                cost is its share of it (``actor_rewards``)
initial state   the same in all episodes: as if ``initial_flow`` had been wanted forever
termination     never; truncated after ``max_episode_steps`` periods
==============  ===========================================================================

The rules, step by step, with an example, are in ``core_env``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maze.core.env.maze_env import MazeEnv
from maze.core.env.renderer import Renderer
from maze.core.env.reward import RewardAggregator
from maze.core.env.structured_env import StructuredEnv
from maze.core.wrappers.time_limit_wrapper import TimeLimitWrapper
from maze_envs.logistics.supply_chain.conversions import (
    ChainObservation,
    OrderAction,
    OrdersAction,
    PositionObservation,
)
from maze_envs.logistics.supply_chain.core_env import (
    PlannerCoreEnv,
    Rules,
    SupplyChainCoreEnv,
)
from maze_envs.logistics.supply_chain.demand import Demand, make_demand
from maze_envs.logistics.supply_chain.renderer import SupplyChainRenderer
from maze_envs.logistics.supply_chain.reward import CostReward
from maze_envs.logistics.supply_chain.state import SupplyChainState

RewardSource = RewardAggregator[SupplyChainState] | Mapping[str, Any]
RendererSource = Renderer[SupplyChainState, Any] | Mapping[str, Any]


def supply_chain_env(
    n_stages: int = 4,
    demand: Demand | str | Mapping[str, Any] = "poisson",
    order_lead_time: int = 2,
    shipment_lead_time: int = 2,
    production_lead_time: int = 3,
    initial_inventory: int = 12,
    initial_flow: int = 4,
    holding_cost: float = 0.5,
    backlog_cost: float = 1.0,
    closures: float = 0.0,
    max_order: int = 30,
    max_episode_steps: int = 52,
    one_planner: bool = False,
    reward: RewardSource | None = None,
    renderer: RendererSource | None = None,
    render_mode: str | None = None,
) -> StructuredEnv:
    """Return a supply chain.

    Args:
        n_stages: from retailer to factory, at least 2.
        demand: of the customer: ``constant``, ``step``, ``poisson``, ``seasonal``, or a config or
            object of another.
        order_lead_time: periods until an order is read by the stage upstream, at least 1.
        shipment_lead_time: periods until goods arrive downstream, at least 1.
        production_lead_time: periods from the factory's order to finished goods, at least 1.
        initial_inventory: of each stage, in units.
        initial_flow: units in each place under way in the beginning.
        holding_cost: for each unit in stock at the end of a period.
        backlog_cost: for each unit owed at the end of a period.
        closures: probability that a stage is closed in a period, so that it does not order.
        max_order: the largest order of a stage in a period, in units, at least 1.
        max_episode_steps: periods of an episode. 0: it goes on forever.
        one_planner: whether a planner orders for all stages at once, instead of each for itself.
        reward: an object or a config. ``None``: ``CostReward()``.
        renderer: an object or a config. ``None``: ``SupplyChainRenderer()``.
        render_mode: ``human``, ``rgb_array`` or ``None``.

    Raises:
        ConfigError: If an option cannot be used.
    """
    rules = Rules(
        n_stages=n_stages,
        order_lead_time=order_lead_time,
        shipment_lead_time=shipment_lead_time,
        production_lead_time=production_lead_time,
        initial_inventory=initial_inventory,
        initial_flow=initial_flow,
        holding_cost=holding_cost,
        backlog_cost=backlog_cost,
        closures=closures,
    )
    made_demand = make_demand(demand)
    parts: dict[str, Any] = {
        "reward": CostReward() if reward is None else reward,
        "renderer": SupplyChainRenderer() if renderer is None else renderer,
        "render_mode": render_mode,
    }
    env: StructuredEnv
    if one_planner:
        env = MazeEnv(
            PlannerCoreEnv(rules, made_demand),
            ChainObservation(rules),
            OrdersAction(n_stages, max_order),
            **parts,
        )
    else:
        env = MazeEnv(
            SupplyChainCoreEnv(rules, made_demand),
            PositionObservation(rules),
            OrderAction(max_order),
            **parts,
        )
    return TimeLimitWrapper(env, max_episode_steps) if max_episode_steps else env
