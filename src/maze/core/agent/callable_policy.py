"""Any function as a policy: the shortest way from an idea, or from another library, to a rollout.

CallablePolicy(lambda state: int(state[2] > 0), env.observation_spaces, env.action_spaces)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey
from maze.core.errors import ConfigError, ContractError
from maze.core.factory import resolve


class CallablePolicy(StructuredPolicy):
    """Calls a function with the observation and plays what it returns.

    Where the observation space of a step key has the single entry ``observation``, the function
    gets that observation itself, else the dictionary. Where the action space has the single entry
    ``action``, the function returns that action itself, else a dictionary. A truth
    value is 0 or 1 where there are two actions; nothing else is converted: a function that returns
    a float where the space has float32 arrays plays a float.

    The function is called for all step keys and gets no memory; write a ``StructuredPolicy`` where
    that is too little.

    Args:
        function: from observation to action, or its dotted path.
        observation_spaces: the environment's, by step key.
        action_spaces: the environment's, by step key.

    Raises:
        ConfigError: If ``function`` cannot be called.
    """

    def __init__(
        self,
        function: Callable[[Any], Any] | str,
        observation_spaces: Mapping[StepKey, spaces.Dict],
        action_spaces: Mapping[StepKey, spaces.Dict],
    ) -> None:
        found: Any = resolve(function, "function") if isinstance(function, str) else function
        if not callable(found):
            raise ConfigError(
                "'function' of CallablePolicy has to be a function from observation to action, or"
                f" its dotted path, got {found!r}."
            )
        self.function: Callable[[Any], Any] = found
        self._unwraps = {
            key: list(space) == ["observation"] for key, space in observation_spaces.items()
        }
        self._wraps = {key: list(space) == ["action"] for key, space in action_spaces.items()}
        self._is_yes_or_no = {
            key
            for key, space in action_spaces.items()
            if self._wraps[key]
            and isinstance(space["action"], spaces.Discrete)
            and (space["action"].n, space["action"].start) == (2, 0)
        }
        self._takes_dict = {
            key: self._wraps[key] and isinstance(space["action"], spaces.Dict)
            for key, space in action_spaces.items()
        }

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        """Return what the function returns, as an action.

        Raises:
            ContractError: If the step key is unknown, or the function returns no dictionary where
                the action space has several entries.
        """
        step_key = actor.step_key
        unwraps = self._unwraps.get(step_key)
        if unwraps is None:
            raise ContractError(
                f"CallablePolicy was not made for step key {step_key!r}, but for:"
                f" {', '.join(map(repr, self._unwraps))}."
            )
        action = self.function(observation["observation"] if unwraps else observation)
        if step_key in self._is_yes_or_no and isinstance(action, bool | np.bool_):
            action = int(action)
        if self._wraps[step_key] and (not isinstance(action, dict) or self._takes_dict[step_key]):
            return {"action": action}
        name = getattr(self.function, "__name__", repr(self.function))
        if self._wraps[step_key]:
            raise ContractError(
                f"{name}() returned a dictionary as the action of step key {step_key!r}, whose"
                " space has the single entry 'action': return the action itself."
            )
        if not isinstance(action, dict):
            raise ContractError(
                f"{name}() returned {action!r} as the action of step key"
                f" {step_key!r}, whose space has several entries: return a dictionary."
            )
        return action
