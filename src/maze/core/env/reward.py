"""Rewards computed from what happened.

A simulation emits events; what they are worth is a matter of the task. So the reward is an object
of its own, and another one can be chosen in a config without touching the rules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic

from maze.core.env.core_env import StateT
from maze.core.env.structured_env import ActorID
from maze.core.events.event import Event


class RewardAggregator(ABC, Generic[StateT]):
    """Makes the reward of a structured step of its events.

    It remembers nothing from one step to the next; what it needs is in the events and the state.
    """

    @abstractmethod
    def reward(self, events: Sequence[Event], state: StateT) -> float:
        """Return the reward of the structured step that was just completed.

        Args:
            events: of all its sub-steps, in their order. With the first step of an episode come
                those of the reset.
            state: after it.
        """

    def actor_rewards(
        self, events: Sequence[Event], state: StateT, actors: Sequence[ActorID]
    ) -> Sequence[float] | None:
        """Return how that reward is shared among the sub-steps.

        Args:
            events: as for ``reward``.
            state: as for ``reward``.
            actors: who acted, for each sub-step.

        Returns:
            A reward for each sub-step. ``None`` (the default): it all belongs to the last one.
        """
        return None
