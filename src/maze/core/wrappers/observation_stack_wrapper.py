"""Observations with a past.

A single observation of many environments does not show what moves. Stacking the last few makes
velocities visible to a policy without memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import ActorID, Observation, StepKey, StructuredEnv
from maze.core.errors import ConfigError, ContractError, did_you_mean
from maze.core.factory import unknown_option
from maze.core.wrappers.wrapper import ObservationWrapper


@dataclass(frozen=True)
class Stack:
    """One stacked observation."""

    observation: str
    """Key of the observation that is stacked, a ``Box``."""
    stack_steps: int
    """How many observations are stacked, the current one included."""
    keep_original: bool = False
    """Whether the single observation stays, beside the stacked one. It needs a ``tag`` then."""
    tag: str | None = None
    """The stacked observation is called ``<observation>-<tag>``; ``None``: ``<observation>``."""
    delta: bool = False
    """Whether the older entries hold changes instead of observations."""

    def __post_init__(self) -> None:
        if isinstance(self.stack_steps, bool) or not isinstance(self.stack_steps, int):
            raise ConfigError(f"'stack_steps' has to be a whole number, got {self.stack_steps!r}.")
        if self.stack_steps < 1:
            raise ConfigError(f"'stack_steps' has to be at least 1, got {self.stack_steps}.")
        if self.keep_original and not self.tag:
            raise ConfigError(
                f"the stack of '{self.observation}' would take the name of the original, which is"
                " to be kept. Give it a 'tag', or set 'keep_original' to false."
            )

    @property
    def key(self) -> str:
        """The key of the stacked observation."""
        return f"{self.observation}-{self.tag}" if self.tag else self.observation


class ObservationStackWrapper(ObservationWrapper):
    """Stacks the last observations of each actor on a new first axis, the newest last.

    A stack of n observations of shape S has shape ``(n, *S)`` and the observation's dtype. With
    o[t] the actor's observation number t in this episode, the stack at t is

        delta false   ..., o[t - 2],            o[t - 1],          o[t]
        delta true    ..., o[t - 1] - o[t - 2], o[t] - o[t - 1],   o[t]

    Entries that would reach back before the start of the episode are zero. Each actor has a
    history of its own, which only grows when it is that actor's turn. Returned arrays are new in
    each step.

    Args:
        env: the environment inside.
        stack_config: mappings with ``observation``, ``stack_steps`` and optionally
            ``keep_original`` (false), ``tag`` (none) and ``delta`` (false); see ``Stack``. A step
            key without the observation is left alone.

    Raises:
        ConfigError: If an entry has unknown options, names an observation that no step key has or
            that is no ``Box``, asks for the changes of an integer observation (they would
            overflow), or two entries make the same key.
    """

    plays_each_action_once = True

    def __init__(
        self, env: StructuredEnv, stack_config: Sequence[Mapping[str, Any] | Stack]
    ) -> None:
        super().__init__(env)
        stacks = [_stack(entry, index) for index, entry in enumerate(stack_config)]
        self._stacks: dict[StepKey, list[Stack]] = {
            step_key: [stack for stack in stacks if stack.observation in space.spaces]
            for step_key, space in env.observation_spaces.items()
        }
        known = {key for space in env.observation_spaces.values() for key in space.spaces}
        for stack in stacks:
            if stack.observation not in known:
                raise ConfigError(
                    f"'{stack.observation}' of 'stack_config' is not an observation of the"
                    f" environment.{did_you_mean(stack.observation, known)} It has:"
                    f" {', '.join(sorted(known))}."
                )
        self._dropped = {
            step_key: {stack.observation for stack in of_key}
            - {stack.observation for stack in of_key if stack.keep_original}
            for step_key, of_key in self._stacks.items()
        }
        self.observation_spaces = {
            step_key: self._stacked_space(step_key, space)
            for step_key, space in env.observation_spaces.items()
        }
        self._histories: dict[ActorID, list[deque[NDArray[Any]]]] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, with no past."""
        self._histories = {}
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Observation) -> Observation:
        """Return the observation with its stacks."""
        actor = self.env.actor_id()
        stacks = self._stacks[actor.step_key]
        if not stacks:
            return observation
        histories = self._histories.get(actor)
        if histories is None:
            histories = [deque(maxlen=stack.stack_steps) for stack in stacks]
            self._histories[actor] = histories
        dropped = self._dropped[actor.step_key]
        stacked = {key: value for key, value in observation.items() if key not in dropped}
        for stack, history in zip(stacks, histories, strict=True):
            try:
                current = observation[stack.observation]
            except KeyError:
                raise ContractError(
                    f"the observation of step key {actor.step_key!r} has no"
                    f" '{stack.observation}', which is in its space and is to be stacked. It has:"
                    f" {', '.join(map(str, observation))}."
                ) from None
            # A copy, since an environment may write its next observation into the same array.
            history.append(np.array(current))
            stacked[stack.key] = _stacked(stack, history)
        return stacked

    def _stacked_space(self, step_key: StepKey, space: spaces.Dict) -> spaces.Dict:
        stacked = {
            key: entry for key, entry in space.spaces.items() if key not in self._dropped[step_key]
        }
        for stack in self._stacks[step_key]:
            if stack.key in stacked:
                raise ConfigError(
                    f"the stack of '{stack.observation}' would be called '{stack.key}', which"
                    " exists already. Give it another 'tag'."
                )
            stacked[stack.key] = _space_of(stack, space.spaces[stack.observation])
        return spaces.Dict(stacked)


def _stack(entry: Mapping[str, Any] | Stack, index: int) -> Stack:
    if isinstance(entry, Stack):
        return entry
    where = f"stack_config[{index}]"
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"'{where}' has to be a mapping with 'observation' and 'stack_steps', got {entry!r}."
        )
    options = [field.name for field in fields(Stack)]
    for key in entry:
        if key not in options:
            raise ConfigError(unknown_option(key, options, of="a stack", where=where))
    for key in ("observation", "stack_steps"):
        if key not in entry:
            raise ConfigError(f"'{where}' has no '{key}'.")
    return Stack(**entry)


def _stacked(stack: Stack, history: deque[NDArray[Any]]) -> NDArray[Any]:
    newest = history[-1]
    result = np.zeros((stack.stack_steps, *newest.shape), dtype=newest.dtype)
    result[-1] = newest
    # Zeros stay where the episode has not been long enough.
    for age in range(1, len(history)):
        older = history[-1 - age]
        result[-1 - age] = history[-age] - older if stack.delta else older
    return result


def _space_of(stack: Stack, space: spaces.Space[Any]) -> spaces.Box:
    if not isinstance(space, spaces.Box):
        raise ConfigError(
            f"only a Box can be stacked, but '{stack.observation}' is a {type(space).__name__}."
        )
    older_low, older_high = space.low, space.high
    if stack.delta:
        if space.dtype.kind != "f":
            raise ConfigError(
                f"the changes of '{stack.observation}' would overflow its dtype {space.dtype}."
                " Only observations of floats can be stacked with 'delta'."
            )
        with np.errstate(over="ignore"):
            older_low, older_high = space.low - space.high, space.high - space.low
    # Zero stands for the time before the episode, also where no observation can be zero.
    zero = np.zeros((), dtype=space.dtype)
    n_older = stack.stack_steps - 1
    return spaces.Box(
        low=np.stack([np.minimum(older_low, zero)] * n_older + [space.low]),
        high=np.stack([np.maximum(older_high, zero)] * n_older + [space.high]),
        dtype=space.dtype.type,
    )
