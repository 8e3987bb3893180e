"""Between a simulation's own terms and spaces that a policy can be asked in.

There is one observation and one action conversion for each step key. Others can be put in their
place, in order to show a policy something else or let it decide in another form, without
touching the simulation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic

from gymnasium import spaces

from maze.core.env.core_env import ActionT, StateT
from maze.core.env.structured_env import Action, ActorID, Observation
from maze.core.errors import ConfigError


class ObservationConversion(ABC, Generic[StateT]):
    """Makes observations of states."""

    @abstractmethod
    def space(self) -> spaces.Dict:
        """Return the space of the observations. Asked once."""

    @abstractmethod
    def maze_to_space(self, state: StateT, actor: ActorID) -> Observation:
        """Return what an actor sees of a state.

        Args:
            state: is left as it is.
            actor: who acts next.
        """

    def action_masks(self) -> Mapping[str, str]:
        """Return which observations are masks: from the masked action head to the observation.

        See ``StructuredEnv.action_masks`` for their form. Default: none.
        """
        return {}


class ActionConversion(ABC, Generic[StateT, ActionT]):
    """Makes the simulation's actions of those of a policy."""

    @abstractmethod
    def space(self) -> spaces.Dict:
        """Return the space of the policy's actions. Asked once."""

    @abstractmethod
    def space_to_maze(self, action: Action, state: StateT, actor: ActorID) -> ActionT:
        """Return the simulation's action.

        Args:
            action: a value of the space.
            state: in which it is played.
            actor: who plays it.
        """

    def maze_to_space(self, action: ActionT, state: StateT, actor: ActorID) -> Action:
        """Return the action as a value of the space: the inverse, where there is one.

        Raises:
            ConfigError: If this conversion has none.
        """
        raise ConfigError(f"{type(self).__name__} does not convert actions back into its space")

    def noop_action(self) -> Action:
        """Return the action that does nothing, as a value of the space.

        Raises:
            ConfigError: If there is none.
        """
        raise ConfigError(f"{type(self).__name__} does not say which action does nothing")
