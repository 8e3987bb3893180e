"""A Maze environment for other libraries: the one way out of Maze.

Stable-Baselines3, RLlib, Gymnasium's vector environments and wrappers know a ``gymnasium.Env``
with two spaces that stay the same. Here is one, for any structured environment and the wrappers
around it.

    GymnasiumAdapter(RewardScalingWrapper(GymMazeEnv("CartPole-v1"), 0.1))    plain arrays
    GymnasiumAdapter(CuttingEnv())                  a dictionary with an entry for each sub-step
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.agent.masked_random_policy import check_action_masks, mask_size
from maze.core.env.structured_env import (
    UNKNOWN_COUNT,
    Action,
    ActorID,
    Observation,
    StepKey,
    StructuredEnv,
)
from maze.core.errors import ConfigError, ContractError

STEP_KEY = "step_key"
AGENT_ID = "agent_id"


class GymnasiumAdapter(gym.Env[Any, Any]):
    """Makes a structured environment a plain ``gymnasium.Env``.

    It is no ``StructuredEnv``: nothing of Maze goes on top of it.

    An environment with a single actor has its own two spaces; a dictionary with one entry is taken
    off. With several actors, each of the two is a ``Dict`` with an entry for each step key, named
    ``str(step_key)``, that is the space of that step key:

        observation   also has "step_key", the position of the current step key among the step
                      keys, and "agent_id", if an agent is not alone and their numbers are fixed.
                      Entries of the step keys that are not asked hold a fixed member of their
                      space, of zeros where zero is in it.
        action        only the entry of the current step key is used; ``env.actor_id()`` of the
                      environment inside says which.

    After the last step it is the actor's turn who would have acted.

    ``info`` has the entry ``events``, a tuple of what happened in the reset or the step: the
    list of the environment inside is emptied, as there is no episode loop to do so. If the
    environment declares masks, ``info`` also has ``action_mask``, in the form that
    ``action_space.sample(mask=...)`` takes: for a ``Discrete`` an int8 array of ones and zeros,
    for a ``MultiDiscrete`` a tuple of them, for a ``MultiBinary`` an int8 array with a 2 for each
    bit that is free and a 0 for the others, and in dictionaries ``None`` for what is not masked.

    Args:
        env: the environment inside.

    Raises:
        ConfigError: If it is no structured environment, if two step keys have the same name or
            one that is used here, or if declared masks do not fit the spaces.
    """

    env: StructuredEnv
    """The environment inside."""

    def __init__(self, env: StructuredEnv) -> None:
        if not isinstance(env, StructuredEnv):
            raise ConfigError(
                "GymnasiumAdapter makes a gymnasium.Env of a StructuredEnv, got"
                f" {type(env).__name__}."
                + (" That is one already." if isinstance(env, gym.Env) else "")
            )
        check_action_masks(env.action_spaces, env.observation_spaces, env.action_masks)
        self.env = env
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self.spec = None
        self._observation_key: str | None = None
        self._action_key: str | None = None
        self._only_actor: ActorID | None = None
        self._names: dict[StepKey, str] = {}
        self._has_masks = any(env.action_masks.values())
        if env.is_flat:
            self._only_actor = ActorID(next(iter(env.agent_counts)), 0)
            step_key = self._only_actor.step_key
            self._observation_key, self.observation_space = _without_dictionary(
                env.observation_spaces[step_key]
            )
            self._action_key, self.action_space = _without_dictionary(env.action_spaces[step_key])
            return
        self._names = _names(env.observation_spaces)
        self._positions = {key: position for position, key in enumerate(self._names)}
        self._n_agents = _largest_number(env.agent_counts)
        parts: dict[str, spaces.Space[Any]] = {STEP_KEY: spaces.Discrete(len(self._names))}
        if self._n_agents > 1:
            parts[AGENT_ID] = spaces.Discrete(self._n_agents)
        for key, name in self._names.items():
            parts[name] = env.observation_spaces[key]
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Dict(
            {name: env.action_spaces[key] for key, name in self._names.items()}
        )
        self._unasked = {key: fixed_member(space) for key, space in env.observation_spaces.items()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see ``gymnasium.Env.reset``."""
        super().reset(seed=seed)
        observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation), self._told(observation, info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play the current actor's action; see ``gymnasium.Env.step``.

        Raises:
            ContractError: If the action has no entry for the actor's step key, or if an agent has
                a number that does not fit the declared number of agents.
        """
        observation, reward, terminated, truncated, info = self.env.step(self._inner(action))
        told = self._told(observation, info)
        return self._seen(observation), reward, terminated, truncated, told

    def render(self) -> Any:
        """Return or show a picture of the current state, as the environment inside does."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment inside."""
        self.env.close()

    def _inner(self, action: Any) -> Action:
        if self._only_actor is not None:
            return action if self._action_key is None else {self._action_key: action}
        name = self._names[self.env.actor_id().step_key]
        try:
            inner: Action = action[name]
        except (KeyError, TypeError, IndexError):
            raise ContractError(
                f"it is the turn of step key {name!r}: expected an action with an entry of that"
                f" name, got {action!r}"
            ) from None
        return inner

    def _seen(self, observation: Observation) -> Any:
        if self._only_actor is not None:
            entry = self._observation_key
            return observation if entry is None else observation[entry]
        step_key, agent_id = self.env.actor_id()
        seen: dict[str, Any] = {STEP_KEY: self._positions[step_key]}
        if self._n_agents > 1:
            if not 0 <= agent_id < self._n_agents:
                raise ContractError(
                    f"agent {agent_id} of step key {step_key!r} acts, but the environment says that"
                    f" there are at most {self._n_agents}, numbered from 0"
                )
            seen[AGENT_ID] = agent_id
        for key, name in self._names.items():
            # Copies, since nobody expects that two observations share their arrays.
            seen[name] = observation if key == step_key else copy.deepcopy(self._unasked[key])
        return seen

    def _told(self, observation: Observation, info: Mapping[str, Any]) -> dict[str, Any]:
        env = self.env
        told = {**info, "events": tuple(env.events)}
        env.events.clear()
        if self._has_masks:
            if self._only_actor is not None:
                told["action_mask"] = self._masks(self._only_actor.step_key, observation)
            else:
                current = env.actor_id().step_key
                told["action_mask"] = {
                    name: self._masks(key, observation if key == current else None)
                    for key, name in self._names.items()
                }
        return told

    def _masks(self, step_key: StepKey, observation: Observation | None) -> Any:
        """Return the masks of a step key's action; those that allow all without an observation."""
        declared = self.env.action_masks.get(step_key, {})
        masks: dict[str, Any] = {}
        for head, space in self.env.action_spaces[step_key].spaces.items():
            masks[head] = None
            if head in declared:
                flat = np.ones(mask_size(space) or 0, np.int8)
                if observation is not None:
                    flat = (np.asarray(observation[declared[head]]).ravel() != 0).astype(np.int8)
                masks[head] = _gymnasium_mask(space, flat)
        is_plain = self._only_actor is not None and self._action_key is not None
        return next(iter(masks.values())) if is_plain else masks


def fixed_member(space: spaces.Space[Any]) -> Any:
    """Return a member of a space, always the same: zero, or what is nearest to it.

    Of a space that has no zero, such as a ``Sequence``, it is a sample with a fixed seed.
    """
    if isinstance(space, spaces.Dict):
        return {key: fixed_member(child) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(fixed_member(child) for child in space.spaces)
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    if isinstance(space, spaces.Discrete):
        nearest = min(max(0, int(space.start)), int(space.start) + int(space.n) - 1)
        return np.dtype(space.dtype).type(nearest)
    if isinstance(space, spaces.MultiDiscrete):
        lowest = np.asarray(space.start)
        return np.clip(0, lowest, lowest + space.nvec - 1).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape, space.dtype)
    own = copy.deepcopy(space)
    own.seed(0)
    return own.sample()


def _without_dictionary(space: spaces.Dict) -> tuple[str | None, spaces.Space[Any]]:
    """Return the only entry of a space and its key, or ``None`` and the space as it is."""
    if len(space.spaces) != 1:
        return None, space
    return next(iter(space.spaces.items()))


def _names(step_keys: Mapping[StepKey, Any]) -> dict[StepKey, str]:
    names: dict[StepKey, str] = {}
    for key in step_keys:
        name = str(key)
        if name in (STEP_KEY, AGENT_ID) or name in names.values():
            raise ConfigError(
                f"the step key {key!r} cannot be an entry of a Gymnasium space, since there is"
                f" another one named {name!r}: rename the step key"
            )
        names[key] = name
    return names


def _largest_number(agent_counts: Mapping[StepKey, int]) -> int:
    """Return the largest number of agents, or 0 if one of them is not fixed."""
    counts = agent_counts.values()
    return 0 if UNKNOWN_COUNT in counts else max(counts)


def _gymnasium_mask(space: spaces.Space[Any], flat: NDArray[np.int8]) -> Any:
    if isinstance(space, spaces.MultiBinary):
        return flat.reshape(space.shape) * np.int8(2)
    if isinstance(space, spaces.MultiDiscrete):
        bounds = pairwise(accumulate(np.ravel(space.nvec).tolist(), initial=0))
        return _nested([flat[low:high] for low, high in bounds], space.nvec.shape)
    return flat


def _nested(masks: list[NDArray[np.int8]], shape: tuple[int, ...]) -> tuple[Any, ...]:
    if len(shape) == 1:
        return tuple(masks)
    size = len(masks) // shape[0]
    rows = (masks[start : start + size] for start in range(0, len(masks), size))
    return tuple(_nested(row, shape[1:]) for row in rows)
