"""One head of an action as several.

An environment may put unlike decisions into one array: steering and throttle, the piece and its
rotation. Split into heads, each can have a distribution, a network and a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.agent.masked_random_policy import check_action_masks
from maze.core.env.structured_env import Action, Observation, StepKey, StructuredEnv
from maze.core.errors import ConfigError, SpaceError, did_you_mean
from maze.core.factory import unknown_option
from maze.core.wrappers.wrapper import ActionWrapper, StepResult

SplitConfig: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""``{head: {new head: {"indices": [0, 2]}}}``."""


class SplitActionsWrapper(ActionWrapper):
    """Splits heads of the action into parts.

    A part has the numbers of the head at its ``indices``, in their order. Of a ``Box`` and a
    ``MultiBinary`` it is a space of the same kind, of shape ``(number of indices,)``; of a
    ``MultiDiscrete`` too, but for a part of one index, which is a ``Discrete``. Bounds, dtypes and
    starts are those of the head. All step keys that have the head are treated alike.

    Where the environment declares a mask for a head that is split, each part is masked by an
    observation of its own, ``<mask>-<new head>``, a ``MultiBinary``. The mask of the whole head
    stays among the observations.

    Args:
        env: the environment inside.
        split_config: ``{head: {new head: {"indices": [...]}}}``. The parts of a head use each of
            its indices, from 0, exactly once.

    Raises:
        ConfigError: If a head does not exist or is none of these spaces in one dimension, if an
            index is missing, unknown or used twice, if a new name is taken, or if a declared mask
            does not fit its head.
    """

    plays_each_action_once = True

    def __init__(self, env: StructuredEnv, split_config: SplitConfig) -> None:
        super().__init__(env)
        indices = _checked(split_config, env.action_spaces)
        self._splits: dict[StepKey, list[_Split]] = {
            step_key: [
                _Split.make(head, space.spaces[head], parts)
                for head, parts in indices.items()
                if head in space.spaces
            ]
            for step_key, space in env.action_spaces.items()
        }
        self.action_spaces = {
            step_key: _split_space(space, self._splits[step_key])
            for step_key, space in env.action_spaces.items()
        }
        self._masks: dict[StepKey, list[_SplitMask]] = {}
        self._split_masks()

    def action(self, action: Action) -> Action:
        """Return the action with its parts joined."""
        joined = dict(action)
        for split in self._splits[self.env.actor_id().step_key]:
            split.join(joined)
        return joined

    def split(self, action: Action) -> Action:
        """Return an action of the environment inside in its parts: the inverse of ``action``.

        Args:
            action: of the current actor.
        """
        parts = dict(action)
        for split in self._splits[self.env.actor_id().step_key]:
            split.split(parts)
        return parts

    def noop_action(self) -> Action:
        """Return the action that does nothing in its parts, if the environment names one."""
        return self.split(self.env.noop_action())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        observation, info = self._inner_reset(seed=seed, options=options)
        return self._with_masks(observation), info

    def step(self, action: Action) -> StepResult:
        """Play the joined action."""
        observation, reward, terminated, truncated, info = self._inner_step(self.action(action))
        return self._with_masks(observation), reward, terminated, truncated, info

    def _with_masks(self, observation: Observation) -> Observation:
        masks = self._masks.get(self.env.actor_id().step_key) if self._masks else None
        if not masks:
            return observation
        observation = dict(observation)
        for mask in masks:
            whole = np.asarray(observation[mask.whole]).ravel() != 0
            observation[mask.key] = whole[mask.entries].astype(np.int8)
        return observation

    def _split_masks(self) -> None:
        """Declare a mask for each part of a masked head."""
        env = self.env
        declared = {key: dict(heads) for key, heads in env.action_masks.items()}
        for step_key, splits in self._splits.items():
            for split in splits:
                whole = declared.get(step_key, {}).pop(split.head, None)
                if whole is None:
                    continue
                # Here, since nobody else would tell that the mask does not fit the whole head.
                check_action_masks(
                    env.action_spaces, env.observation_spaces, {step_key: {split.head: whole}}
                )
                for part in split.parts:
                    mask = _SplitMask(whole, f"{whole}-{part.head}", part.mask_entries)
                    self._masks.setdefault(step_key, []).append(mask)
                    declared[step_key][part.head] = mask.key
        if self._masks:
            self.action_masks = declared
            self.observation_spaces = {
                key: _with_mask_spaces(space, self._masks.get(key, []))
                for key, space in env.observation_spaces.items()
            }


@dataclass(frozen=True, eq=False)
class _Part:
    head: str
    indices: NDArray[np.intp]
    is_single: bool
    """Whether it is a ``Discrete``, whose values are no arrays."""
    space: spaces.Space[Any]
    mask_entries: NDArray[np.intp]
    """Which entries of the mask of the whole head are about it; none for a ``Box``."""


@dataclass(frozen=True, eq=False)
class _Split:
    head: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: tuple[_Part, ...]

    @classmethod
    def make(
        cls, head: str, space: spaces.Space[Any], parts: Mapping[str, Sequence[int]]
    ) -> _Split:
        shape, size = _shape(head, space), _shape(head, space)[0]
        used = [index for indices in parts.values() for index in indices]
        unknown = [index for index in used if not 0 <= index < size]
        if unknown:
            raise ConfigError(
                f"'split_config.{head}' names the index {unknown[0]}, but the action '{head}' has"
                f" {size} numbers: 0 to {size - 1}."
            )
        twice = [index for index in range(size) if used.count(index) > 1]
        missing = [index for index in range(size) if index not in used]
        if twice or missing:
            problem = f"{missing[0]} is in none" if missing else f"{twice[0]} is used twice"
            raise ConfigError(
                f"the parts in 'split_config.{head}' have to use each index of the action '{head}'"
                f" exactly once, from 0 to {size - 1}, but {problem}."
            )
        made = tuple(_part(name, space, np.array(indices)) for name, indices in parts.items())
        return cls(head, shape, np.dtype(space.dtype), made)

    def join(self, action: Action) -> None:
        """Put the head in place of its parts."""
        joined = np.empty(self.shape, self.dtype)
        for part in self.parts:
            try:
                joined[part.indices] = action.pop(part.head)
            except (KeyError, ValueError, TypeError) as error:
                raise SpaceError(
                    f"the action has no value for '{part.head}' that could be a part of"
                    f" '{self.head}', expected one of {part.space}: {type(error).__name__}: {error}"
                ) from error
        action[self.head] = joined

    def split(self, action: Action) -> None:
        """Put the parts in place of the head."""
        whole = np.asarray(action.pop(self.head))
        for part in self.parts:
            numbers = whole[part.indices]
            action[part.head] = int(numbers[0]) if part.is_single else numbers


@dataclass(frozen=True, eq=False)
class _SplitMask:
    whole: str
    """Key of the observation that is the mask of the whole head."""
    key: str
    entries: NDArray[np.intp]


def _shape(head: str, space: spaces.Space[Any]) -> tuple[int, ...]:
    kinds = spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary
    if not isinstance(space, kinds) or len(space.shape) != 1:
        raise ConfigError(
            "only a Box, MultiDiscrete or MultiBinary of one dimension can be split, but the action"
            f" '{head}' is {space}."
        )
    return space.shape


def _part(name: str, space: spaces.Space[Any], indices: NDArray[np.intp]) -> _Part:
    if isinstance(space, spaces.Box):
        part = spaces.Box(space.low[indices], space.high[indices], dtype=space.dtype.type)
        return _Part(name, indices, False, part, indices[:0])
    if isinstance(space, spaces.MultiDiscrete):
        sizes = np.asarray(space.nvec).tolist()
        ends = list(accumulate(sizes))
        entries = np.concatenate([np.arange(ends[i] - sizes[i], ends[i]) for i in indices])
        starts = np.asarray(space.start)[indices]
        if len(indices) == 1:
            single = spaces.Discrete(int(sizes[indices[0]]), start=int(starts[0]))
            return _Part(name, indices, True, single, entries)
        several = spaces.MultiDiscrete(
            np.asarray(space.nvec)[indices], dtype=np.dtype(space.dtype).type, start=starts
        )
        return _Part(name, indices, False, several, entries)
    return _Part(name, indices, False, spaces.MultiBinary(len(indices)), indices)


def _split_space(space: spaces.Dict, splits: Sequence[_Split]) -> spaces.Dict:
    heads = {split.head for split in splits}
    entries = {key: entry for key, entry in space.spaces.items() if key not in heads}
    for split in splits:
        for part in split.parts:
            if part.head in entries:
                raise ConfigError(
                    f"'{part.head}' in 'split_config.{split.head}' is the name of another part of"
                    " the action already: take another one."
                )
            entries[part.head] = part.space
    return spaces.Dict(entries)


def _with_mask_spaces(space: spaces.Dict, masks: Sequence[_SplitMask]) -> spaces.Dict:
    if not masks:
        return space
    entries = dict(space.spaces)
    for mask in masks:
        if mask.key in entries:
            raise ConfigError(
                f"the mask of a split action would be called '{mask.key}', which is an observation"
                " already: give the new head another name."
            )
        entries[mask.key] = spaces.MultiBinary(len(mask.entries))
    return spaces.Dict(entries)


def _checked(
    config: SplitConfig, action_spaces: Mapping[StepKey, spaces.Dict]
) -> dict[str, dict[str, list[int]]]:
    """Return the indices of each new head of each head."""
    known = {head for space in action_spaces.values() for head in space.spaces}
    checked: dict[str, dict[str, list[int]]] = {}
    for head, parts in _mapping(config, "split_config").items():
        if head not in known:
            raise ConfigError(
                f"'{head}' of 'split_config' is not an action of the environment."
                f"{did_you_mean(head, known)} It has: {', '.join(sorted(known))}."
            )
        checked[head] = {}
        for name, options in _mapping(parts, f"split_config.{head}").items():
            where = f"split_config.{head}.{name}"
            for key in _mapping(options, where):
                if key != "indices":
                    raise ConfigError(
                        unknown_option(key, ["indices"], of="a new head", where=where)
                    )
            checked[head][name] = _indices(options.get("indices"), where)
    return checked


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"'{where}' has to be a mapping, got {value!r}.")
    return value


def _indices(value: Any, where: str) -> list[int]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    if not is_list or not all(isinstance(i, Integral) and not isinstance(i, bool) for i in value):
        raise ConfigError(
            f"'{where}.indices' has to be a list of whole numbers, one at least, got {value!r}."
        )
    return [int(index) for index in value]
