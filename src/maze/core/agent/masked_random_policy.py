"""Random actions among those that are allowed, where an environment says which these are.

Which observation masks which part of the action is declared by the environment, in
``action_masks``; names play no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray

from maze.core.agent.policy import StructuredPolicy
from maze.core.agent.random_policy import ActionMemory, RandomPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey
from maze.core.errors import ConfigError, ContractError

_N_DRAWN = 64

Draw: TypeAlias = Callable[[NDArray[np.bool_], "_Uniforms"], Any]
"""Samples a value of a masked head, or returns ``None`` if none is allowed."""


class MaskedRandomPolicy(StructuredPolicy):
    """Samples each action evenly among the allowed ones.

    Heads of an action are sampled one by one: each from what its mask allows, and those without a
    mask from their whole space, as ``RandomPolicy`` does. ``deterministic`` has no meaning here
    and is ignored.

    Args:
        action_spaces: the environment's, by step key.
        observation_spaces: the environment's, by step key.
        action_masks: which observation masks which head, see ``StructuredEnv.action_masks``.

    Raises:
        ConfigError: If the environment declares no masks, or one that is not of the form that
            ``StructuredEnv.action_masks`` describes.
    """

    def __init__(
        self,
        action_spaces: Mapping[StepKey, spaces.Dict],
        observation_spaces: Mapping[StepKey, spaces.Dict],
        action_masks: Mapping[StepKey, Mapping[str, str]],
    ) -> None:
        if not any(action_masks.values()):
            raise ConfigError(
                "the environment declares no action masks, so that there is nothing to keep to."
                " Use policy=random_policy, or declare them: 'action_masks' of its class, of its"
                " observation conversion, or env.action_masks of gym_env."
            )
        check_action_masks(action_spaces, observation_spaces, action_masks)
        self.action_spaces = dict(action_spaces)
        self.observation_spaces = dict(observation_spaces)
        self.action_masks = {key: dict(heads) for key, heads in action_masks.items()}
        self._unmasked = RandomPolicy(self.action_spaces)
        self._heads = {
            key: [
                (head, mask, _draw_from(self.action_spaces[key].spaces[head]))
                for head, mask in heads.items()
            ]
            for key, heads in self.action_masks.items()
        }

    def start_episode(self, seed: int) -> _Memory:
        """Return the random numbers of one episode."""
        return _Memory(self._unmasked.start_episode(seed), _Uniforms(seed))

    def act(
        self, observation: Observation, actor: ActorID, memory: _Memory, deterministic: bool
    ) -> Action:
        """Return a random action that the observation's masks allow.

        Raises:
            ContractError: If a mask allows nothing, or the observation lacks it.
        """
        action = self._unmasked.act(observation, actor, memory.unmasked, deterministic)
        heads = self._heads.get(actor.step_key)
        if heads is None:
            return action
        action = dict(action)
        for head, mask_key, draw in heads:
            try:
                mask = np.asarray(observation[mask_key]).ravel() != 0
            except KeyError:
                raise ContractError(
                    f"the observation of step key {actor.step_key!r} has no '{mask_key}', which"
                    f" masks the action '{head}'. It has: {', '.join(map(str, observation))}."
                ) from None
            drawn = draw(mask, memory.uniforms)
            if drawn is None:
                raise ContractError(
                    f"the mask '{mask_key}' allows no value of the action '{head}' of step key"
                    f" {actor.step_key!r}"
                )
            action[head] = drawn
        return action

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.action_spaces, self.observation_spaces, self.action_masks)


def check_action_masks(
    action_spaces: Mapping[StepKey, spaces.Dict],
    observation_spaces: Mapping[StepKey, spaces.Dict],
    action_masks: Mapping[StepKey, Mapping[str, str]],
) -> None:
    """Refuse declared masks that do not fit the spaces.

    Raises:
        ConfigError: If a step key, head or observation does not exist, if a head's space cannot
            be masked, or if the mask has not one entry for each value.
    """
    for step_key, heads in action_masks.items():
        if step_key not in action_spaces:
            raise ConfigError(
                f"masks are declared for step key {step_key!r}, the environment has"
                f" {list(action_spaces)}"
            )
        for head, mask_key in heads.items():
            head_space = action_spaces[step_key].spaces.get(head)
            mask_space = observation_spaces[step_key].spaces.get(mask_key)
            at = f"the mask '{mask_key}' of the action '{head}' of step key {step_key!r}"
            if head_space is None:
                raise ConfigError(
                    f"{at}: there is no such action. There are:"
                    f" {', '.join(action_spaces[step_key].spaces)}."
                )
            if mask_space is None:
                raise ConfigError(
                    f"{at}: there is no such observation. There are:"
                    f" {', '.join(observation_spaces[step_key].spaces)}. Does a wrapper take it"
                    " away?"
                )
            n_values = mask_size(head_space)
            if n_values is None:
                raise ConfigError(
                    f"{at}: only Discrete, MultiDiscrete and MultiBinary actions can be masked,"
                    f" this one is a {type(head_space).__name__}"
                )
            n_entries = int(np.prod(mask_space.shape)) if mask_space.shape is not None else None
            if n_entries != n_values:
                raise ConfigError(
                    f"{at} has {n_entries} entries, expected {n_values}, one for each value of"
                    f" {head_space}"
                )


def mask_size(space: spaces.Space[Any]) -> int | None:
    """Return how many entries a mask of an action space has; ``None`` if it cannot be masked."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(np.sum(space.nvec))
    if isinstance(space, spaces.MultiBinary):
        return int(np.prod(space.shape))
    return None


class _Memory(NamedTuple):
    unmasked: ActionMemory
    uniforms: _Uniforms


class _Uniforms:
    """Random numbers in [0, 1) of one episode, drawn some at a time."""

    def __init__(self, seed: int) -> None:
        # Not the numbers that the unmasked heads are sampled with.
        self._rng = Generator(Philox(SeedSequence([seed, 1])))
        self._drawn: list[float] = []

    def next(self) -> float:
        if not self._drawn:
            self._drawn = self._rng.random(_N_DRAWN).tolist()
        return self._drawn.pop()


def _draw_from(space: spaces.Space[Any]) -> Draw:
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        if space.dtype == np.int64:  # As RandomPolicy gives it.
            return lambda mask, uniforms: _shifted(_one_of(mask, uniforms), start)
        make: Any = np.dtype(space.dtype).type
        return lambda mask, uniforms: (
            None if (drawn := _one_of(mask, uniforms)) is None else make(drawn + start)
        )
    if isinstance(space, spaces.MultiDiscrete):
        return _multi_discrete(space)
    assert isinstance(space, spaces.MultiBinary)
    shape, dtype = space.shape, space.dtype

    def draw_bits(mask: NDArray[np.bool_], uniforms: _Uniforms) -> Any:
        bits = [bool(allowed) and uniforms.next() < 0.5 for allowed in mask]
        return np.array(bits, dtype=dtype).reshape(shape)

    return draw_bits


def _multi_discrete(space: spaces.MultiDiscrete[Any]) -> Draw:
    starts = np.asarray(space.start, dtype=np.int64)
    bounds = list(pairwise(accumulate(np.ravel(space.nvec).tolist(), initial=0)))

    def draw(mask: NDArray[np.bool_], uniforms: _Uniforms) -> Any:
        numbers = [_one_of(mask[low:high], uniforms) for low, high in bounds]
        if any(number is None for number in numbers):
            return None
        drawn = np.array(numbers, dtype=np.int64).reshape(starts.shape) + starts
        return drawn.astype(space.dtype)

    return draw


def _one_of(mask: NDArray[np.bool_], uniforms: _Uniforms) -> int | None:
    """Return the position of one of the allowed values, each as likely as the others."""
    allowed = mask.nonzero()[0]
    if not len(allowed):
        return None
    return int(allowed[int(uniforms.next() * len(allowed))])


def _shifted(position: int | None, start: int) -> int | None:
    return None if position is None else position + start
