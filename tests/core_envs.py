"""Simulations that show what a ``MazeEnv`` makes of them: small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from maze.core.env.conversion import ActionConversion, ObservationConversion
from maze.core.env.core_env import CoreEnv
from maze.core.env.maze_env import MazeEnv
from maze.core.env.renderer import LastStep, Renderer
from maze.core.env.reward import RewardAggregator
from maze.core.env.structured_env import UNKNOWN_COUNT, ActorID, EpisodeSummary
from maze.core.events.event import Event, EventStatistic

# A tank: rain falls by chance, and each step some of the water is sold.


@dataclass(frozen=True)
class Rained(Event):
    """Water came in."""

    litres: int

    statistics: ClassVar[tuple[EventStatistic, ...]] = (EventStatistic("sum", sum, "litres"),)


@dataclass(frozen=True)
class Sold(Event):
    """Water was sold."""

    litres: int

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("sum", sum, "litres"),
        EventStatistic("best", max, "litres"),
    )


@dataclass(frozen=True)
class Tank:
    """The state."""

    litres: int
    n_steps: int = 0


class TankCoreEnv(CoreEnv[Tank, int]):
    """Rain of 0 to 3 litres in the reset and in each step; a tank takes nine litres."""

    def reset(self, rng: np.random.Generator) -> Tank:
        self._rng = rng
        self.state = Tank(self._rain())
        return self.state

    def step(self, action: int) -> tuple[Tank, bool, bool]:
        litres = min(action, self.state.litres)
        self.events.append(Sold(litres))
        full = min(self.state.litres - litres + self._rain(), 9)
        self.state = Tank(full, self.state.n_steps + 1)
        return self.state, full == 9, self.state.n_steps == 20

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        fallen = summary.statistics.get("Rained.sum", 0.0)
        return {
            "sold_share": summary.statistics["Sold.sum"] / fallen if fallen else 0.0,
            "left": float(self.state.litres),
        }

    def _rain(self) -> int:
        litres = int(self._rng.integers(4))
        if litres:
            self.events.append(Rained(litres))
        return litres


class TankObservation(ObservationConversion[Tank]):
    def space(self) -> spaces.Dict:
        return spaces.Dict(
            {
                "litres": spaces.Box(0.0, 9.0, (1,), np.float32),
                "allowed": spaces.MultiBinary(4),
            }
        )

    def maze_to_space(self, state: Tank, actor: ActorID) -> dict[str, Any]:
        return {
            "litres": np.array([state.litres], np.float32),
            "allowed": (np.arange(4) <= state.litres).astype(np.int8),
        }

    def action_masks(self) -> Mapping[str, str]:
        return {"sell": "allowed"}


class TankAction(ActionConversion[Tank, int]):
    def space(self) -> spaces.Dict:
        return spaces.Dict({"sell": spaces.Discrete(4)})

    def space_to_maze(self, action: dict[str, Any], state: Tank, actor: ActorID) -> int:
        return int(action["sell"])

    def noop_action(self) -> dict[str, Any]:
        return {"sell": 0}


class TankReward(RewardAggregator[Tank]):
    """A coin for each litre that was sold or fell."""

    def __init__(self, price: float = 1.0) -> None:
        self.price = price

    def reward(self, events: Sequence[Event], state: Tank) -> float:
        return self.price * sum(e.litres for e in events if isinstance(e, Rained | Sold))


class TankRenderer(Renderer[Tank, int]):
    figure_size = (1.0, 0.5)

    def draw(self, figure: Any, state: Tank, last: LastStep | None) -> None:
        sold = "" if last is None else f"-{last.action}"
        figure.text(0.1, 0.4, f"{state.litres}{sold}")


def tank_env(**options: Any) -> MazeEnv[Tank, int]:
    options = {"reward": TankReward(), "renderer": TankRenderer(), **options}
    return MazeEnv(TankCoreEnv(), TankObservation(), TankAction(), **options)


# A market with sellers who come and go, each of whom names a price after the scout has looked.


@dataclass(frozen=True)
class Asked(Event):
    """A seller named a price."""

    seller: int
    price: int

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("sum", sum, "price", group_by="seller"),
        EventStatistic("prices", len, group_by=("seller", "price")),
        EventStatistic("dearest", max, "price", per_step=sum),
        EventStatistic("busiest", max, per_step=len),
    )


@dataclass(frozen=True)
class Market:
    """The state: in day n there are n + 1 sellers, numbered on from those of the day before."""

    day: int = 0
    sellers: tuple[int, ...] = (0,)
    queue: tuple[int, ...] | None = None
    """Who has to name a price yet; ``None`` if the scout has to look first."""


class MarketCoreEnv(CoreEnv[Market, int]):
    """Three days. The scout sees nothing and only opens the market."""

    agent_counts: Mapping[str | int, int] = MappingProxyType({"scout": 1, "seller": UNKNOWN_COUNT})

    def reset(self, rng: np.random.Generator) -> Market:
        self.state = Market()
        return self.state

    def step(self, action: int) -> tuple[Market, bool, bool]:
        state = self.state
        if state.queue is None:
            self.state = replace(state, queue=state.sellers)
        else:
            seller, *others = state.queue
            self.events.append(Asked(seller, action))
            self.state = replace(state, queue=tuple(others))
            if not others:
                first = state.sellers[-1] + 1
                day = state.day + 1
                self.state = Market(day, tuple(range(first, first + day + 1)))
        return self.state, self.state.day == 3, False

    def actor_id(self) -> ActorID:
        queue = self.state.queue
        return ActorID("scout", 0) if queue is None else ActorID("seller", queue[0])

    def is_actor_done(self) -> bool:
        return self.state.queue is not None and len(self.state.queue) < len(self.state.sellers)

    def env_time(self) -> int:
        return self.state.day


class DayObservation(ObservationConversion[Market]):
    def space(self) -> spaces.Dict:
        return spaces.Dict({"day": spaces.Discrete(4)})

    def maze_to_space(self, state: Market, actor: ActorID) -> dict[str, Any]:
        return {"day": state.day}


class PriceAction(ActionConversion[Market, int]):
    def space(self) -> spaces.Dict:
        return spaces.Dict({"price": spaces.Discrete(5)})

    def space_to_maze(self, action: dict[str, Any], state: Market, actor: ActorID) -> int:
        return int(action["price"])


class MarketReward(RewardAggregator[Market]):
    """All prices together; each seller gets what he asked for."""

    def reward(self, events: Sequence[Event], state: Market) -> float:
        return float(sum(event.price for event in events if isinstance(event, Asked)))

    def actor_rewards(
        self, events: Sequence[Event], state: Market, actors: Sequence[ActorID]
    ) -> Sequence[float]:
        asked = {event.seller: float(event.price) for event in events if isinstance(event, Asked)}
        return [asked[agent_id] if step_key == "seller" else 0.0 for step_key, agent_id in actors]


def market_env() -> MazeEnv[Market, int]:
    return MazeEnv(MarketCoreEnv(), DayObservation(), PriceAction(), MarketReward())
