"""A Maze environment for other libraries.

Most of them expect one observation array and one action, not dictionaries. This is the way out of
Maze: environment and Maze wrappers on the inside, a plain ``gymnasium.Env`` on the outside.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces

from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError


class NoDictSpacesWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Takes the dictionaries off a flat environment whose spaces have one entry each.

    It is a Gymnasium wrapper and no ``StructuredEnv``: nothing of Maze goes on top of it.

    Args:
        env: an environment with a single actor, one observation and one action head; values keep
            their shapes and dtypes.

    Raises:
        ConfigError: If the environment is of another kind.
    """

    def __init__(self, env: StructuredEnv) -> None:
        if not isinstance(env, StructuredEnv) or not env.is_flat:
            keys = (
                f" with step keys {list(env.agent_counts)}"
                if isinstance(env, StructuredEnv)
                else ""
            )
            raise ConfigError(
                "NoDictSpacesWrapper needs a StructuredEnv with a single actor, such as a"
                f" GymMazeEnv, got {type(env).__name__}{keys}."
            )
        super().__init__(env)
        step_key = next(iter(env.agent_counts))
        self._observation_key, self.observation_space = _only_entry(
            env.observation_spaces[step_key], "observation"
        )
        self._action_key, self.action_space = _only_entry(env.action_spaces[step_key], "action")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the observation is plain."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation[self._observation_key], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play a plain action; the observation is plain."""
        observation, reward, terminated, truncated, info = self.env.step({self._action_key: action})
        return observation[self._observation_key], reward, terminated, truncated, info


def _only_entry(space: spaces.Dict, kind: str) -> tuple[str, spaces.Space[Any]]:
    if len(space.spaces) != 1:
        raise ConfigError(
            f"NoDictSpacesWrapper needs {kind} spaces with one entry, got {len(space.spaces)}:"
            f" {', '.join(map(str, space.spaces)) or 'none'}. Flatten it first, for instance with"
            " gymnasium.wrappers.FlattenObservation underneath."
        )
    return next(iter(space.spaces.items()))
