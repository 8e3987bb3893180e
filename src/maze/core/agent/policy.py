"""The interface of policies.

A policy object holds what is the same in all episodes (weights, thresholds). Whatever it
remembers *during* an episode, such as a random generator or a hidden state, is a value that
``start_episode`` makes and the episode loop hands back with each call. So one policy object can
play any number of episodes at once, and what it does in one does not depend on the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from maze.core.env.structured_env import Action, ActorID, Observation
from maze.core.events.event import Event


class StructuredPolicy(ABC):
    """Observation and actor in, action out."""

    emits_events: bool = False
    """Whether ``take_events`` is to be asked. A policy that emits events sets it."""

    def start_episode(self, seed: int) -> Any:
        """Return the memory of one episode.

        Args:
            seed: of this episode; everything random in the policy comes from it.

        Returns:
            Anything; ``None`` (the default) for a policy that remembers nothing.
        """
        return None

    @abstractmethod
    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        """Return the actor's action.

        Args:
            observation: a value of the observation space of ``actor.step_key``.
            actor: who acts.
            memory: what ``start_episode`` returned for this episode; change it in place.
            deterministic: whether to take the most likely action instead of a sampled one. A
                policy for which that has no meaning ignores it.

        Returns:
            A value of the action space of ``actor.step_key``.
        """

    def act_batch(
        self,
        observations: Sequence[Observation],
        actors: Sequence[ActorID],
        memories: Sequence[Any],
        deterministic: bool,
    ) -> Sequence[Action]:
        """Return one action for each of several episodes that are played side by side.

        The default asks ``act`` for each in turn. A policy that overrides it has to give the same
        actions as ``act`` would.
        """
        return [
            self.act(observation, actor, memory, deterministic)
            for observation, actor, memory in zip(observations, actors, memories, strict=True)
        ]

    def take_events(self, memory: Any) -> Sequence[Event]:
        """Return what happened in the policy while it chose the last action of an episode.

        They are logged and measured as the environment's events of the step that follows. Asked
        once after each action, if ``emits_events`` is set.

        Args:
            memory: of the episode; the policy keeps its events there until they are taken.
        """
        return ()


class FlatPolicy(ABC):
    """A policy for one step key; see ``FlatPolicies`` for making a structured policy of several."""

    def start_episode(self, seed: int) -> Any:
        """Return the memory of one episode; see ``StructuredPolicy.start_episode``."""
        return None

    @abstractmethod
    def act(self, observation: Observation, memory: Any, deterministic: bool) -> Action:
        """Return the action; see ``StructuredPolicy.act``."""
