"""Policies that Stable-Baselines3 has trained, from its ``.zip`` files."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.random import Generator, Philox

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey
from maze.core.errors import ConfigError, MissingExtraError, did_you_mean
from maze.core.factory import resolve
from maze.train.foreign.network_file_policy import existing_file
from maze.train.torch_policy import check_device

_ALGORITHMS = ("PPO", "A2C", "DQN", "SAC", "TD3", "DDPG")
_CONTRIB = ("MaskablePPO", "RecurrentPPO", "QRDQN", "TQC", "TRPO", "ARS", "CrossQ")


@dataclass
class _Memory:
    rng: Generator
    state: Any = None
    is_first: bool = True


class SB3Policy(StructuredPolicy):
    """Plays what a model of Stable-Baselines3 predicts.

    A file of Stable-Baselines3 holds pickles: load only what you trust. What is random in the
    actions comes from the episode's seed.

    Args:
        path: of the ``.zip`` file.
        observation_spaces: of the environment, which has one step key. Where it has the single
            entry ``observation``, the model gets that, else the dictionary.
        action_spaces: likewise, with the single entry ``action``, else the model's action has to be
            a dictionary.
        action_masks: of the environment; given to models that take masks.
        algorithm: ``PPO``, ``A2C``, ``DQN``, ``SAC``, ``TD3``, ``DDPG``, one of sb3-contrib's, or
            the dotted path of a class.
        vec_normalize: path of statistics that ``VecNormalize.save`` has written (a pickle, too).
        device: where it computes.

    Raises:
        ConfigError: If something is missing, or the model was trained for other spaces.
        MissingExtraError: If Stable-Baselines3 is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        observation_spaces: Mapping[StepKey, spaces.Dict],
        action_spaces: Mapping[StepKey, spaces.Dict],
        action_masks: Mapping[StepKey, Mapping[str, str]] | None = None,
        algorithm: str = "PPO",
        vec_normalize: str | Path | None = None,
        device: str = "cpu",
    ) -> None:
        if len(action_spaces) != 1:
            raise ConfigError(
                "models of Stable-Baselines3 make one kind of decision, the environment has"
                f" {list(action_spaces)}"
            )
        kind = _algorithm(algorithm)
        file = existing_file(path, "file of Stable-Baselines3")
        try:
            self.model: Any = kind.load(str(file), device=check_device(device))
        except Exception as error:
            raise ConfigError(
                f"'{path}' cannot be loaded by {algorithm}: {type(error).__name__}:"
                f" {str(error).partition(chr(10))[0]}"
            ) from error
        ((step_key, observation_space),) = observation_spaces.items()
        (action_space,) = action_spaces.values()
        self._unwraps = list(observation_space.spaces) == ["observation"]
        self._wraps = list(action_space.spaces) == ["action"]
        here: Any = observation_space["observation"] if self._unwraps else observation_space
        acts: Any = action_space["action"] if self._wraps else action_space
        for what, trained, now in (
            ("observations", self.model.observation_space, here),
            ("actions", self.model.action_space, acts),
        ):
            if trained.shape != now.shape or type(trained) is not type(now):
                raise ConfigError(
                    f"the model in '{path}' was trained for {what} in {trained}, here they are in"
                    f" {now}"
                )
        self._space = acts
        masks = dict((action_masks or {}).get(step_key, {}))
        self._mask = next(iter(masks.values()), None) if "Maskable" in algorithm else None
        self._normalize: Any = None
        if vec_normalize is not None:
            # Stable-Baselines3 knows no other form of these statistics than a pickle, as of the
            # model above. VecNormalize.load reads it likewise, and wants an environment besides.
            with existing_file(vec_normalize, "file of VecNormalize").open("rb") as opened:
                self._normalize = pickle.load(opened)

    def start_episode(self, seed: int) -> Any:
        """Return the random numbers of an episode, and a recurrent model's state."""
        return _Memory(Generator(Philox(seed)))

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        """Return the model's action."""
        given: Any = observation["observation"] if self._unwraps else observation
        if self._normalize is not None:
            given = self._normalize.normalize_obs(given)
        if not deterministic:
            torch.manual_seed(int(memory.rng.integers(2**63)))  # The model draws from there.
        more = {} if self._mask is None else {"action_masks": observation[self._mask]}
        action, memory.state = self.model.predict(
            given,
            state=memory.state,
            episode_start=np.array([memory.is_first]),
            deterministic=deterministic,
            **more,
        )
        memory.is_first = False
        return self._as_action(action)

    def act_batch(
        self,
        observations: Sequence[Observation],
        actors: Sequence[ActorID],
        memories: Sequence[Any],
        deterministic: bool,
    ) -> Sequence[Action]:
        """Ask the model for all at once, where nothing is random or remembered."""
        has_state = any(memory.state is not None or memory.is_first for memory in memories)
        if not deterministic or has_state or not self._unwraps or self._mask is not None:
            return super().act_batch(observations, actors, memories, deterministic)
        given = np.stack([observation["observation"] for observation in observations])
        if self._normalize is not None:
            given = self._normalize.normalize_obs(given)
        actions, _ = self.model.predict(given, deterministic=True)
        return [self._as_action(action) for action in actions]

    def _as_action(self, action: Any) -> Action:
        if isinstance(self._space, spaces.Discrete):
            action = int(np.asarray(action).reshape(()))
        elif not isinstance(action, dict):
            action = np.asarray(action, self._space.dtype)
        return {"action": action} if self._wraps else action


def _algorithm(name: str) -> Any:
    if "." in name:
        return resolve(name, "policy.algorithm")
    known = (*_ALGORITHMS, *_CONTRIB)
    if name not in known:
        raise ConfigError(
            f"'policy.algorithm' is {name!r}.{did_you_mean(name, known)} There are:"
            f" {', '.join(known)}; or give a dotted path."
        )
    module = "stable_baselines3" if name in _ALGORITHMS else "sb3_contrib"
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        if module == "sb3_contrib":
            raise ConfigError(f"{name} is in sb3-contrib: pip install sb3-contrib") from None
        raise MissingExtraError("Stable-Baselines3", "sb3") from None
