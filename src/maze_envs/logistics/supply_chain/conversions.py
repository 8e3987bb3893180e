"""What stages and planners see of a supply chain, and how they say what they order.

Both see the same numbers: a stage its own, a planner those of all stages, one row for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.conversion import ActionConversion, ObservationConversion
from maze.core.env.structured_env import Action, ActorID, Observation
from maze_envs.logistics.supply_chain.checks import check_counts
from maze_envs.logistics.supply_chain.core_env import Rules
from maze_envs.logistics.supply_chain.state import Order, Orders, SupplyChainState


class PositionObservation(ObservationConversion[SupplyChainState]):
    """What a stage knows: its own books.

    All are float32 and at least 0, in units, of shape (1,) unless told otherwise:

    - ``inventory``, ``backlog``: in stock and owed, after the last period;
    - ``incoming_order``: what was ordered from it in the last period;
    - ``in_transit``, shape (w,): goods on their way to it by the periods until they arrive, the
      next ones first; w is the largest number there is for any stage, filled up with 0;
    - ``on_order``: ordered and not received, wherever it is: in an order that is under way, in the
      backlog upstream, or in transit;
    - ``lead_time``: periods from its order to the goods, if the stage upstream has them;
    - ``stage``, shape (n_stages,): a 1 at the place of the stage, 0 elsewhere.

    Args:
        rules: of the chain.
    """

    def __init__(self, rules: Rules) -> None:
        self._rows = _Rows(rules)
        self._one_hot = np.eye(rules.n_stages, dtype=np.float32)

    def space(self) -> spaces.Dict:
        """Return the space."""
        n_stages = len(self._one_hot)
        stage = spaces.Box(0.0, 1.0, (n_stages,), np.float32)
        return spaces.Dict({**self._rows.spaces(()), "stage": stage})

    def maze_to_space(self, state: SupplyChainState, actor: ActorID) -> Observation:
        """Return what the actor's stage sees."""
        stage = actor.agent_id
        return {**self._rows.of([stage], state, ()), "stage": self._one_hot[stage].copy()}


class ChainObservation(ObservationConversion[SupplyChainState]):
    """What a planner knows: the books of all stages.

    The entries of ``PositionObservation`` but for ``stage``, with a row for each stage: shape
    (n_stages,), and (n_stages, w) for ``in_transit``. Besides:

    - ``is_open``, int8 of shape (n_stages,): whether the stage can order in this period.

    Args:
        rules: of the chain.
    """

    def __init__(self, rules: Rules) -> None:
        self._rows = _Rows(rules)
        self._n_stages = rules.n_stages

    def space(self) -> spaces.Dict:
        """Return the space."""
        n_stages = self._n_stages
        is_open = spaces.MultiBinary(n_stages)
        return spaces.Dict({**self._rows.spaces((n_stages,)), "is_open": is_open})

    def maze_to_space(self, state: SupplyChainState, actor: ActorID) -> Observation:
        """Return what the planner sees."""
        n_stages = self._n_stages
        is_open = np.zeros(n_stages, np.int8)
        is_open[list(state.open_stages)] = 1
        return {**self._rows.of(range(n_stages), state, (n_stages,)), "is_open": is_open}


class _Rows:
    """The numbers that are known of a stage, for one or for all of them."""

    def __init__(self, rules: Rules) -> None:
        self._lead_times = rules.lead_times
        self._width = max(rules.shipment_lead_time, rules.production_lead_time - 1)

    def spaces(self, rows: tuple[int, ...]) -> dict[str, spaces.Space[object]]:
        """Return the spaces, with the shape of the rows in front: (n_stages,), or () for one."""
        names = ("inventory", "backlog", "incoming_order", "on_order", "lead_time")
        boxes = {name: spaces.Box(0.0, np.inf, rows or (1,), np.float32) for name in names}
        in_transit = spaces.Box(0.0, np.inf, (*rows, self._width), np.float32)
        return {**boxes, "in_transit": in_transit}

    def of(
        self, stages: Sequence[int], state: SupplyChainState, rows: tuple[int, ...]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the numbers of some stages."""
        of_stages = [state.stages[i] for i in stages]
        in_transit = np.zeros((len(of_stages), self._width), np.float32)
        for row, stage in zip(in_transit, of_stages, strict=True):
            row[: len(stage.goods_under_way)] = stage.goods_under_way
        return {
            "inventory": np.array([stage.inventory for stage in of_stages], np.float32),
            "backlog": np.array([stage.backlog for stage in of_stages], np.float32),
            "incoming_order": np.array([stage.incoming_order for stage in of_stages], np.float32),
            "on_order": np.array([state.on_order(i) for i in stages], np.float32),
            "lead_time": np.array([self._lead_times[i] for i in stages], np.float32),
            "in_transit": in_transit.reshape((*rows, self._width)),
        }


class OrderAction(ActionConversion[SupplyChainState, Order]):
    """A stage's order, ``order``: a whole number from 0 to the largest that can be placed.

    Args:
        max_order: the largest, at least 1.
    """

    def __init__(self, max_order: int) -> None:
        check_counts(self, 1, max_order=max_order)
        self.max_order = max_order

    def space(self) -> spaces.Dict:
        """Return the space."""
        return spaces.Dict({"order": spaces.Discrete(self.max_order + 1)})

    def space_to_maze(self, action: Action, state: SupplyChainState, actor: ActorID) -> Order:
        """Return the order."""
        return Order(int(action["order"]))

    def maze_to_space(self, action: Order, state: SupplyChainState, actor: ActorID) -> Action:
        """Return the order as a value of the space."""
        return {"order": action.units}

    def noop_action(self) -> Action:
        """Return the order of nothing."""
        return {"order": 0}


class OrdersAction(ActionConversion[SupplyChainState, Orders]):
    """The orders of all stages, ``order``: a whole number for each. Closed stages' do not count.

    Args:
        n_stages: of the chain.
        max_order: the largest that a stage can place, at least 1.
    """

    def __init__(self, n_stages: int, max_order: int) -> None:
        check_counts(self, 1, max_order=max_order)
        self.n_stages = n_stages
        self.max_order = max_order

    def space(self) -> spaces.Dict:
        """Return the space."""
        return spaces.Dict({"order": spaces.MultiDiscrete([self.max_order + 1] * self.n_stages)})

    def space_to_maze(self, action: Action, state: SupplyChainState, actor: ActorID) -> Orders:
        """Return the orders."""
        return Orders(tuple(action["order"].tolist()))

    def maze_to_space(self, action: Orders, state: SupplyChainState, actor: ActorID) -> Action:
        """Return the orders as a value of the space."""
        return {"order": np.array(action.units, np.int64)}

    def noop_action(self) -> Action:
        """Return the orders of nothing."""
        return {"order": np.zeros(self.n_stages, np.int64)}
