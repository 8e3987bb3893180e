"""Dictionary observation spaces for Gymnasium environments.

``GymMazeEnv`` makes a dictionary of any observation space by itself, with the whole space under
one key. This wrapper, put underneath, gives each part of a ``Tuple`` space a key of its own, so
that each can be stacked, encoded and recorded by itself.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs


class DictObservationWrapper(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Makes the observation space of a Gymnasium environment a ``Dict``.

    A ``Tuple`` space gets the keys ``observation_0``, ``observation_1``, ...; any other space
    gets the one key ``observation``; a ``Dict`` space stays as it is. The parts keep their shapes
    and dtypes.

    Args:
        env: a Gymnasium environment.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        self._keys: list[str] | None = None
        self._is_dict = isinstance(space, spaces.Dict)
        if isinstance(space, spaces.Tuple):
            self._keys = [f"observation_{index}" for index in range(len(space.spaces))]
            self.observation_space = spaces.Dict(dict(zip(self._keys, space.spaces, strict=True)))
        elif not self._is_dict:
            self.observation_space = spaces.Dict({"observation": space})

    def observation(self, observation: Any) -> Any:
        """Return the observation as a dictionary."""
        if self._is_dict:
            return observation
        if self._keys is None:
            return {"observation": observation}
        return dict(zip(self._keys, observation, strict=True))
