"""The simulation behind an environment: its rules and its state, and nothing of spaces.

A decision problem is easiest to write, and to trust, in its own terms: a state with orders and
pieces, an action that says which piece is cut. A ``CoreEnv`` is just that. ``MazeEnv`` makes an
environment of it, with an observation and an action conversion for each kind of step, a reward
and a renderer, each of which can be exchanged without touching the rules.

    agent --action--> ActionConversion --MazeAction--> CoreEnv --MazeState--> ObservationConversion
                                                          |                        |
                                                        events --> reward      observation --> agent
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from maze.core.env.structured_env import ActorID, EpisodeSummary, StepKey
from maze.core.events.event import Event

MazeState: TypeAlias = Any
"""The state of a simulation, in its own terms: best a frozen dataclass. It is a value: a
simulation makes a new one in each step and never changes one that it has returned."""

MazeAction: TypeAlias = Any
"""An action in the simulation's own terms: best a frozen dataclass."""

StateT = TypeVar("StateT")
ActionT = TypeVar("ActionT")

_ONE_ACTOR: Mapping[StepKey, int] = MappingProxyType({0: 1})


class CoreEnv(ABC, Generic[StateT, ActionT]):
    """The rules of an environment.

    A subclass implements ``reset`` and ``step``. One with sub-steps or several agents also says so
    in ``agent_counts`` and implements ``actor_id`` and ``env_time``. A subclass with a constructor
    calls this one's.
    """

    agent_counts: Mapping[StepKey, int] = _ONE_ACTOR
    """The number of agents of each step key, see ``StructuredEnv``."""

    events: list[Event]
    """What happens in a step is appended here. ``MazeEnv`` takes it out."""

    def __init__(self) -> None:
        self.events = []

    @abstractmethod
    def reset(self, rng: np.random.Generator) -> StateT:
        """Start an episode and return its first state.

        Args:
            rng: everything random in the episode comes from it: keep it for ``step``.
        """

    @abstractmethod
    def step(self, action: ActionT) -> tuple[StateT, bool, bool]:
        """Play the current actor's action.

        Returns:
            The new state, whether the task ended (terminated), and whether it was cut off
            (truncated). Limits on the length of an episode are rather left to wrappers.
        """

    def actor_id(self) -> ActorID:
        """Return who acts next; see ``StructuredEnv``."""
        if len(self.agent_counts) > 1 or next(iter(self.agent_counts.values())) != 1:
            raise NotImplementedError(
                f"{type(self).__name__} has several actors: implement actor_id()"
            )
        return ActorID(next(iter(self.agent_counts)), 0)

    def is_actor_done(self) -> bool:
        """Return whether the actor that acted last takes no further part in the episode."""
        return False

    def env_time(self) -> int:
        """Return the number of structured steps completed. Not asked where there is one actor."""
        raise NotImplementedError(f"{type(self).__name__} has several actors: implement env_time()")

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        """Return key figures of the episode that has just ended; see ``StructuredEnv``."""
        return {}
