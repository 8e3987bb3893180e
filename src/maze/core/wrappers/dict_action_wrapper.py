"""Dictionary action spaces for Gymnasium environments.

``GymMazeEnv`` makes a dictionary of any action space by itself, with the whole space under one
key. This wrapper, put underneath, gives each part of a ``Tuple`` space a key of its own, so that
each can have its own distribution and its own column in a recording.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs


class DictActionWrapper(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Makes the action space of a Gymnasium environment a ``Dict``.

    A ``Tuple`` space gets the keys ``action_0``, ``action_1``, ...; any other space gets the one
    key ``action``; a ``Dict`` space stays as it is. The parts keep their shapes and dtypes.

    Args:
        env: a Gymnasium environment.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        space = env.action_space
        self._keys: list[str] | None = None
        self._is_dict = isinstance(space, spaces.Dict)
        if isinstance(space, spaces.Tuple):
            self._keys = [f"action_{index}" for index in range(len(space.spaces))]
            self.action_space = spaces.Dict(dict(zip(self._keys, space.spaces, strict=True)))
        elif not self._is_dict:
            self.action_space = spaces.Dict({"action": space})

    def action(self, action: dict[str, Any]) -> Any:
        """Return the action as the environment inside takes it."""
        if self._is_dict:
            return action
        if self._keys is None:
            return action["action"]
        return tuple(action[key] for key in self._keys)
