"""Continuous actions as a choice among a few.

Algorithms for discrete actions can then play environments with continuous ones, and a coarse
choice is often good enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import Action, StepKey, StructuredEnv
from maze.core.errors import ConfigError, SpaceError, did_you_mean
from maze.core.factory import unknown_option
from maze.core.wrappers.checks import finite_number, positive_count
from maze.core.wrappers.wrapper import ActionWrapper

DiscretizationConfig: TypeAlias = Mapping[str, Mapping[str, Any]]
"""``{head: {"num_bins": 5, "low": -1.0, "high": 1.0}}``."""

_OPTIONS = ("num_bins", "low", "high")


class DiscretizeActionsWrapper(ActionWrapper):
    """Makes a choice among bins of each dimension of a ``Box`` action.

    With n bins, the interval from ``low`` to ``high`` of a dimension is cut into n parts of equal
    width, and choice i, from 0, is the middle of part i:

        low + (i + 1/2) * (high - low) / n

    computed in 64 bits and rounded to the dtype of the ``Box``. So the bounds themselves are never
    chosen, one bin stands for the middle, and an odd number of bins has the middle among them.
    A ``Box`` of one dimension becomes a ``Discrete``, of several a ``MultiDiscrete``. All step
    keys that have the head are treated alike.

    Args:
        env: the environment inside.
        discretization_config: for each head that is changed, ``num_bins`` and optionally ``low``
            and ``high``, each a number or a list with one for each dimension. Without ``low``
            or ``high``, the bounds are those of the space; they are needed where it has none.

    Raises:
        ConfigError: If a head does not exist or is not a ``Box`` of floats of shape (n,), if an
            option is unknown or out of range, or if bounds are missing or not within the space.
    """

    def __init__(self, env: StructuredEnv, discretization_config: DiscretizationConfig) -> None:
        super().__init__(env)
        _check_heads(discretization_config, env.action_spaces)
        self._bins: dict[StepKey, dict[str, _Bins]] = {
            step_key: {
                head: _bins(head, space.spaces[head], options, of=self)
                for head, options in discretization_config.items()
                if head in space.spaces
            }
            for step_key, space in env.action_spaces.items()
        }
        self.action_spaces = {
            step_key: spaces.Dict(
                {
                    head: bins[head].space if head in bins else entry
                    for head, entry in space.spaces.items()
                }
            )
            for (step_key, space), bins in zip(
                env.action_spaces.items(), self._bins.values(), strict=True
            )
        }

    def action(self, action: Action) -> Action:
        """Return the action with the middle of each bin in place of its number.

        Raises:
            SpaceError: If a choice is not among the bins.
        """
        inner = dict(action)
        for head, bins in self._bins[self.env.actor_id().step_key].items():
            try:
                inner[head] = bins.middle_of(action[head])
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise SpaceError(
                    f"the action has no choice for '{head}' that is in {bins.space}:"
                    f" {type(error).__name__}: {error}"
                ) from error
        return inner

    def noop_action(self) -> Action:
        """Return the action that does nothing, if it is exactly among the choices.

        Raises:
            ConfigError: If it is not, or if the environment names none.
        """
        noop = dict(self.env.noop_action())
        for head, bins in self._bins[self.env.actor_id().step_key].items():
            choice = bins.choice_of(noop[head])
            if choice is None:
                raise ConfigError(
                    f"the action that does nothing has {noop[head]} for '{head}', which is in the"
                    " middle of none of the bins. Choose 'num_bins', 'low' and 'high' of"
                    " DiscretizeActionsWrapper so that it is."
                )
            noop[head] = choice
        return noop


@dataclass(frozen=True, eq=False)
class _Bins:
    space: spaces.Discrete | spaces.MultiDiscrete[Any]
    middles: tuple[NDArray[Any], ...]
    """For each dimension, shape (number of bins,)."""
    dtype: np.dtype[Any]

    def middle_of(self, choice: Any) -> NDArray[Any]:
        choices = np.asarray(choice).reshape(len(self.middles)).tolist()
        for one, middles in zip(choices, self.middles, strict=True):
            if not 0 <= one < len(middles):
                raise IndexError(f"{one} is not from 0 to {len(middles) - 1}")
        chosen = [middles[one] for one, middles in zip(choices, self.middles, strict=True)]
        return np.array(chosen, self.dtype)

    def choice_of(self, action: Any) -> Any:
        choices = []
        for value, middles in zip(np.ravel(action), self.middles, strict=True):
            equal = np.flatnonzero(middles == value)
            if not len(equal):
                return None
            choices.append(int(equal[0]))
        if isinstance(self.space, spaces.Discrete):
            return choices[0]
        return np.array(choices, self.space.dtype)


def _bins(head: str, space: spaces.Space[Any], options: Mapping[str, Any], of: object) -> _Bins:
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or len(space.shape) != 1:
        raise ConfigError(
            f"only a Box of floats of one dimension can be discretised, but the action '{head}' is"
            f" {space}."
        )
    n_dimensions = space.shape[0]
    where = f"discretization_config.{head}"
    counts = [
        positive_count(count, f"{where}.num_bins", of)
        for count in _for_each(options["num_bins"], n_dimensions, f"{where}.num_bins")
    ]
    middles = []
    lows = _bounds("low", space.low, options, head, of)
    highs = _bounds("high", space.high, options, head, of)
    for index, (n, low, high) in enumerate(zip(counts, lows, highs, strict=True)):
        bottom, top = space.low[index], space.high[index]
        if not bottom <= low < high <= top:
            raise ConfigError(
                f"the bins of dimension {index} of '{where}' go from {low} to {high}: 'low' has to"
                f" be less than 'high', and both within the bounds of the space, {bottom} and"
                f" {top}."
            )
        shares = (np.arange(n) + 0.5) / n
        # Not with the difference of the bounds, which may be larger than the largest float.
        exact = low * (1.0 - shares) + high * shares
        middles.append(np.clip(exact.astype(space.dtype), bottom, top))
    if n_dimensions == 1:
        return _Bins(spaces.Discrete(counts[0]), tuple(middles), space.dtype)
    return _Bins(spaces.MultiDiscrete(counts), tuple(middles), space.dtype)


def _bounds(
    name: str, of_space: NDArray[Any], options: Mapping[str, Any], head: str, of: object
) -> list[float]:
    where = f"discretization_config.{head}.{name}"
    if options.get(name) is not None:
        given = _for_each(options[name], len(of_space), where)
        return [finite_number(bound, where, of) for bound in given]
    if not np.isfinite(of_space).all():
        raise ConfigError(
            f"the action '{head}' is not bounded: give '{where}', since bins need both bounds."
        )
    return [float(bound) for bound in of_space]


def _for_each(value: Any, n_dimensions: int, where: str) -> list[Any]:
    """Return one value for each dimension."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * n_dimensions
    if len(value) != n_dimensions:
        raise ConfigError(
            f"'{where}' has {len(value)} entries, expected a number or one for each of the"
            f" {n_dimensions} dimensions."
        )
    return list(value)


def _check_heads(
    config: DiscretizationConfig, action_spaces: Mapping[StepKey, spaces.Dict]
) -> None:
    if not isinstance(config, Mapping):
        raise ConfigError(f"'discretization_config' has to be a mapping, got {config!r}.")
    known = {head for space in action_spaces.values() for head in space.spaces}
    for head, options in config.items():
        where = f"discretization_config.{head}"
        if head not in known:
            raise ConfigError(
                f"'{head}' of 'discretization_config' is not an action of the environment."
                f"{did_you_mean(head, known)} It has: {', '.join(sorted(known))}."
            )
        if not isinstance(options, Mapping):
            raise ConfigError(f"'{where}' has to be a mapping with 'num_bins', got {options!r}.")
        for key in options:
            if key not in _OPTIONS:
                raise ConfigError(
                    unknown_option(key, _OPTIONS, of="a discretised action", where=where)
                )
        if "num_bins" not in options:
            raise ConfigError(f"'{where}' has no 'num_bins'.")
