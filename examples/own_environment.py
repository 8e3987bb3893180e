"""An environment with two kinds of decision, and events that become statistics.

In each structured step one of three waiting parcels is chosen (step key ``choose``), then the van
that takes it (``load``). Each kind of decision has its own spaces and its own policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

import maze
from maze.core.agent.flat_policies import FlatPolicies
from maze.core.agent.policy import FlatPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StructuredEnv
from maze.core.events.event import Event, EventStatistic

N_WAITING, N_VANS, CAPACITY = 3, 2, 5.0


@dataclass(frozen=True)
class Loaded(Event):
    """A parcel went into a van."""

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("count"),
        EventStatistic("weight", sum, attribute="weight", group_by="van"),
    )

    van: int
    weight: float
    """Of the parcel, in hundredweight."""


@dataclass(frozen=True)
class Refused(Event):
    """A parcel was too heavy for what was left of a van's capacity; it ends the episode."""

    van: int
    weight: float


class ParcelsEnv(StructuredEnv):
    """Load parcels into vans until one does not fit. The reward is the weight loaded."""

    def __init__(self) -> None:
        weights = spaces.Box(0.0, 1.0, (N_WAITING,), np.float32)
        left = spaces.Box(0.0, CAPACITY, (N_VANS,), np.float32)
        weight = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.observation_spaces = {
            "choose": spaces.Dict({"weights": weights, "left": left}),
            "load": spaces.Dict({"weight": weight, "left": left}),
        }
        self.action_spaces = {
            "choose": spaces.Dict({"parcel": spaces.Discrete(N_WAITING)}),
            "load": spaces.Dict({"van": spaces.Discrete(N_VANS)}),
        }
        self.agent_counts = {"choose": 1, "load": 1}
        self.events = []

    def actor_id(self) -> ActorID:
        return ActorID("choose" if self._chosen is None else "load", 0)

    def env_time(self) -> int:
        return self._time

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)  # seeds self.np_random
        self._time = 0
        self._chosen: int | None = None
        self._weights = self.np_random.random(N_WAITING, dtype=np.float32)
        self._left = np.full(N_VANS, CAPACITY, dtype=np.float32)
        return self._observe(), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if self._chosen is None:
            self._chosen = int(action["parcel"])
            return self._observe(), 0.0, False, False, {}
        van, weight = int(action["van"]), self._weights[self._chosen]
        fits = bool(weight <= self._left[van])
        if fits:
            self._left[van] -= weight
            self._weights[self._chosen] = self.np_random.random(dtype=np.float32)
        self.events.append((Loaded if fits else Refused)(van, float(weight)))
        self._chosen = None
        self._time += 1
        return self._observe(), float(weight) * fits, not fits, False, {}

    def _observe(self) -> Observation:
        # The arrays may be handed out again and again: what is recorded is copied.
        if self._chosen is None:
            return {"weights": self._weights, "left": self._left}
        return {"weight": self._weights[self._chosen : self._chosen + 1], "left": self._left}


class Lightest(FlatPolicy):
    """Take the lightest parcel."""

    def act(self, observation: Observation, memory: Any, deterministic: bool) -> Action:
        return {"parcel": int(np.argmin(observation["weights"]))}


class TightestVan(FlatPolicy):
    """Take the fullest van into which the parcel fits."""

    def act(self, observation: Observation, memory: Any, deterministic: bool) -> Action:
        left = np.where(observation["left"] >= observation["weight"], observation["left"], np.inf)
        return {"van": int(np.argmin(left))}


def main() -> None:
    policy = FlatPolicies({"choose": Lightest(), "load": TightestVan()})
    for agent in (None, policy):
        # ParcelsEnv is called in each process to make an environment.
        print(maze.rollout(ParcelsEnv, agent, n_episodes=200, n_processes=2, seed=1))
        print()


if __name__ == "__main__":
    main()
