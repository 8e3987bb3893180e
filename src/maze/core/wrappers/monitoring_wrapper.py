"""What is seen, done and rewarded at one place in a stack of wrappers, as events.

A policy that always pushes left, an observation that is a thousand times larger than the others,
a reward that a wrapper made tiny: such things are seen at once in statistics of the values
themselves. They become events, so that they are summarised and logged as any others.

The number of columns is bounded whatever the spaces are. A ``Discrete`` with more than
``MAX_VALUES`` values is counted by ranges of values, and of an array with more than
``MAX_NUMBERS`` numbers there is one event that sums it up instead of one for each number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from gymnasium import spaces

from maze.core.env.structured_env import Action, ActorID, Observation, StepKey, StructuredEnv
from maze.core.errors import ConfigError, SpaceError
from maze.core.events.event import Event, EventStatistic
from maze.core.trajectory.columns import leaves
from maze.core.wrappers.wrapper import StepResult, Wrapper

MAX_VALUES = 20
"""Up to so many values of a discrete action are counted one by one; of more, as many ranges."""

MAX_NUMBERS = 16
"""Up to so many numbers of an action are looked at one by one; of more, all together."""

_N_BY_HAND = 24
"""Up to so many numbers, Python is faster than numpy."""

_KINDS = ("observation", "action", "reward")


class MazeEnvMonitoringWrapper(Wrapper):
    """Emits what passes this place in the stack as events, and changes nothing.

    All that belongs to one (sub-)step has the same time: the observation that was acted on, the
    action, and the reward that followed. So the observation after the last step is left out.
    Which events there are depends on the spaces:

        observation   ObservedValues for each entry
        action        DiscreteAction, ContinuousAction, BinaryAction for each number (each of a
                      MultiDiscrete, each dimension of a Box, each bit), or one ArrayAction for all
                      of them, if there are more than MAX_NUMBERS
        reward        SteppedReward

    Entries of ``Dict`` and ``Tuple`` spaces are looked at one by one. Values that are no arrays
    (``Text``, ``Sequence``, ``Graph``, ``OneOf``) are left out.

    Args:
        env: the environment inside.
        observation_logging: whether observations are monitored. Costs most.
        action_logging: whether actions are.
        reward_logging: whether rewards are.

    Raises:
        ConfigError: If a flag is not a boolean, or if another one further inside monitors the
            same: their statistics would be mixed.
    """

    plays_each_action_once = True

    def __init__(
        self,
        env: StructuredEnv,
        observation_logging: bool = False,
        action_logging: bool = True,
        reward_logging: bool = True,
    ) -> None:
        super().__init__(env)
        flags = (observation_logging, action_logging, reward_logging)
        self.observation_logging, self.action_logging, self.reward_logging = flags
        for kind, flag in zip(_KINDS, flags, strict=True):
            if not isinstance(flag, bool):
                raise ConfigError(
                    f"'{kind}_logging' of MazeEnvMonitoringWrapper has to be true or false, got"
                    f" {flag!r}."
                )
        _check_is_alone(self)
        self._observed: dict[StepKey, list[_Reader]] = {
            key: _observation_readers(key, space) if observation_logging else []
            for key, space in env.observation_spaces.items()
        }
        self._acted: dict[StepKey, list[_Reader]] = {
            key: _action_readers(key, space) if action_logging else []
            for key, space in env.action_spaces.items()
        }
        self._only_actor = ActorID(next(iter(env.agent_counts)), 0) if env.is_flat else None
        self._observation: Observation = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        observation, info = self._inner_reset(seed=seed, options=options)
        self._observation = observation
        return observation, info

    def step(self, action: Action) -> StepResult:
        """Play the action.

        Raises:
            SpaceError: If observation or action lack something that is in their spaces, or if
                it is not made of numbers.
        """
        step_key, agent_id = self._only_actor or self.env.actor_id()
        events = self.events
        for reader in self._observed[step_key]:
            reader.read(self._observation, agent_id, events)
        for reader in self._acted[step_key]:
            reader.read(action, agent_id, events)
        result = self._inner_step(action)
        self._observation = result[0]
        # What is no number is left to the episode loop, which says so.
        if self.reward_logging and isinstance(result[1], int | float | np.number):
            events.append(SteppedReward(step_key, agent_id, float(result[1])))
        return result


# Reductions. Infinite values occur, and must not end the episode.


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; NaN if it is not defined."""
    try:
        return math.fsum(values) / len(values)
    except (OverflowError, ValueError):  # Infinities of both signs, or a sum that is too large.
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.mean(values))


def std(values: Sequence[float]) -> float:
    """Return the standard deviation of all that was seen, so with n in the denominator."""
    centre = mean(values)
    if not math.isfinite(centre):
        return math.nan
    try:
        return math.sqrt(math.fsum([(value - centre) ** 2 for value in values]) / len(values))
    except (OverflowError, ValueError):
        return math.inf


def pooled_std(moments: Sequence[Any]) -> float:
    """Return the standard deviation of all numbers of several arrays of one size.

    By the law of total variance: the mean of their variances and the variance of their means.

    Args:
        moments: pairs of the mean and the standard deviation of each array.
    """
    within = mean([one_std * one_std for _, one_std in moments])
    between = std([one_mean for one_mean, _ in moments])
    return math.sqrt(within + between * between)


# The events.

_OF_NUMBERS = ("step_key", "head")


def _number_statistics(group_by: str | tuple[str, ...]) -> tuple[EventStatistic, ...]:
    return (
        EventStatistic("mean", mean, "value", group_by),
        EventStatistic("std", std, "value", group_by),
        EventStatistic("min", min, "value", group_by),
        EventStatistic("max", max, "value", group_by),
    )


def _array_statistics(group_by: str | tuple[str, ...]) -> tuple[EventStatistic, ...]:
    return (
        EventStatistic("mean", mean, "mean", group_by),
        EventStatistic("std", pooled_std, "moments", group_by),
        EventStatistic("min", min, "min", group_by),
        EventStatistic("max", max, "max", group_by),
    )


@dataclass(frozen=True)
class DiscreteAction(Event):
    """A ``Discrete`` action, or one number of a ``MultiDiscrete`` one."""

    step_key: StepKey
    agent_id: int
    head: str
    """Key of the action, with the index of the number: ``action``, ``action[1]``."""
    value: int
    values: str
    """What it is counted with: the value itself, or the range in which it lies (``40..59``)."""

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("count", len, group_by=("step_key", "head", "values")),
    )
    """How often each value was chosen, as ``DiscreteAction.count/<step key>/<head>/<value>``."""


@dataclass(frozen=True)
class ContinuousAction(Event):
    """One dimension of a ``Box`` action."""

    step_key: StepKey
    agent_id: int
    head: str
    """Key of the action, with the index of the dimension: ``action[0]``."""
    value: float

    statistics: ClassVar[tuple[EventStatistic, ...]] = _number_statistics(_OF_NUMBERS)


@dataclass(frozen=True)
class BinaryAction(Event):
    """One bit of a ``MultiBinary`` action."""

    step_key: StepKey
    agent_id: int
    head: str
    """Key of the action, with the index of the bit: ``action[2]``."""
    value: int

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("share", mean, "value", _OF_NUMBERS),
    )
    """The share of steps in which the bit was set."""


@dataclass(frozen=True)
class ArrayAction(Event):
    """An action of many numbers, summed up."""

    step_key: StepKey
    agent_id: int
    head: str
    mean: float
    std: float
    """Over the numbers of this one action, with their number in the denominator."""
    min: float
    max: float

    statistics: ClassVar[tuple[EventStatistic, ...]] = _array_statistics(_OF_NUMBERS)
    """Over all numbers of all these actions of an episode."""

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        return self.mean, self.std


@dataclass(frozen=True)
class ObservedValues(Event):
    """An entry of the observation that was acted on, summed up."""

    step_key: StepKey
    agent_id: int
    observation: str
    """Key of the entry."""
    mean: float
    std: float
    """Over the numbers of this one observation, with their number in the denominator."""
    min: float
    max: float

    statistics: ClassVar[tuple[EventStatistic, ...]] = _array_statistics(
        ("step_key", "observation")
    )
    """Over all numbers of all these observations of an episode."""

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        return self.mean, self.std


@dataclass(frozen=True)
class SteppedReward(Event):
    """The reward of one (sub-)step, as it is at this place in the stack of wrappers."""

    step_key: StepKey
    agent_id: int
    value: float

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("sum", sum, "value", "step_key"),
        *_number_statistics("step_key"),
    )


# Reading values.

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True)
class _Reader:
    """Makes events of one leaf of an observation or an action."""

    step_key: StepKey
    path: Path
    name: str

    def read(self, value: Any, agent_id: int, events: list[Event]) -> None:
        """Append the events of one value of the whole space."""
        try:
            for key in self.path:
                value = value[key]
            self.append(value, agent_id, events)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SpaceError(
                f"'{self.name}' of step key {self.step_key!r} cannot be monitored, since it is not"
                f" in its space: {type(error).__name__}: {error}"
            ) from error

    def append(self, value: Any, agent_id: int, events: list[Event]) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class _DiscreteReader(_Reader):
    ranges: _Ranges

    def append(self, value: Any, agent_id: int, events: list[Event]) -> None:
        number = int(value)
        events.append(
            DiscreteAction(self.step_key, agent_id, self.name, number, self.ranges.of(number))
        )


@dataclass(frozen=True)
class _MultiDiscreteReader(_Reader):
    names: tuple[str, ...]
    ranges: tuple[_Ranges, ...]

    def append(self, value: Any, agent_id: int, events: list[Event]) -> None:
        numbers = np.asarray(value).ravel().tolist()
        for name, ranges, number in zip(self.names, self.ranges, numbers, strict=True):
            events.append(
                DiscreteAction(self.step_key, agent_id, name, int(number), ranges.of(int(number)))
            )


@dataclass(frozen=True)
class _NumbersReader(_Reader):
    names: tuple[str, ...]
    event_type: type[ContinuousAction] | type[BinaryAction]

    def append(self, value: Any, agent_id: int, events: list[Event]) -> None:
        numbers = np.asarray(value).ravel().tolist()
        for name, number in zip(self.names, numbers, strict=True):
            events.append(self.event_type(self.step_key, agent_id, name, number))


@dataclass(frozen=True)
class _ArrayReader(_Reader):
    event_type: type[ArrayAction] | type[ObservedValues]

    def append(self, value: Any, agent_id: int, events: list[Event]) -> None:
        summed_up = _summed_up(value)
        events.append(self.event_type(self.step_key, agent_id, self.name, *summed_up))


def _summed_up(value: Any) -> tuple[float, float, float, float]:
    """Return mean, standard deviation, minimum and maximum of the numbers of an array."""
    array = np.asarray(value)
    if array.size <= _N_BY_HAND:
        numbers = array.ravel().tolist()
        n = len(numbers)
        centre = sum(numbers) / n
        if math.isfinite(centre):
            try:
                spread = math.sqrt(sum([(number - centre) ** 2 for number in numbers]) / n)
            except OverflowError:
                spread = math.inf
            return centre, spread, float(min(numbers)), float(max(numbers))
    with np.errstate(invalid="ignore", over="ignore"):
        centre = float(np.mean(array, dtype=np.float64))
        deviations = np.subtract(array, centre, dtype=np.float64).ravel()
        spread = math.sqrt(float(np.dot(deviations, deviations)) / array.size)
        return centre, spread, float(array.min()), float(array.max())


@dataclass(frozen=True)
class _Ranges:
    """Of a number with ``n`` values from ``start`` on: each value, or ranges of equal width."""

    start: int
    n: int
    labels: tuple[str, ...]
    width: int

    @classmethod
    def make(cls, start: int, n: int) -> _Ranges:
        width = -(-n // MAX_VALUES)
        lows = range(start, start + n, width)
        if width == 1:
            return cls(start, n, tuple(map(str, lows)), 1)
        highs = (min(low + width, start + n) - 1 for low in lows)
        labels = (f"{low}..{high}" for low, high in zip(lows, highs, strict=True))
        return cls(start, n, tuple(labels), width)

    def of(self, value: int) -> str:
        position = value - self.start
        if not 0 <= position < self.n:
            raise ValueError(f"it is {value}, not from {self.start} to {self.start + self.n - 1}")
        return self.labels[position // self.width]


def _observation_readers(step_key: StepKey, space: spaces.Dict) -> list[_Reader]:
    return [
        _ArrayReader(step_key, leaf.path, _name(leaf.path), ObservedValues)
        for leaf in leaves(space, "observation")
        if not leaf.is_ragged and 0 not in leaf.shape
    ]


def _action_readers(step_key: StepKey, space: spaces.Dict) -> list[_Reader]:
    return [
        _action_reader(step_key, leaf.path, leaf.space)
        for leaf in leaves(space, "action")
        if not leaf.is_ragged and 0 not in leaf.shape
    ]


def _action_reader(step_key: StepKey, path: Path, space: spaces.Space[Any]) -> _Reader:
    name, shape = _name(path), space.shape or ()
    if isinstance(space, spaces.Discrete):
        return _DiscreteReader(step_key, path, name, _Ranges.make(int(space.start), int(space.n)))
    if math.prod(shape) > MAX_NUMBERS:
        return _ArrayReader(step_key, path, name, ArrayAction)
    indices = itertools.product(*map(range, shape))
    names = tuple(f"{name}[{','.join(map(str, index))}]" if shape else name for index in indices)
    if isinstance(space, spaces.MultiDiscrete):
        starts, sizes = np.ravel(space.start).tolist(), np.ravel(space.nvec).tolist()
        ranges = tuple(_Ranges.make(start, n) for start, n in zip(starts, sizes, strict=True))
        return _MultiDiscreteReader(step_key, path, name, names, ranges)
    if isinstance(space, spaces.MultiBinary):
        return _NumbersReader(step_key, path, name, names, BinaryAction)
    return _NumbersReader(step_key, path, name, names, ContinuousAction)


def _name(path: Path) -> str:
    return ".".join(map(str, path))


def _check_is_alone(wrapper: MazeEnvMonitoringWrapper) -> None:
    inner: Any = wrapper.env
    while isinstance(inner, Wrapper):
        if isinstance(inner, MazeEnvMonitoringWrapper):
            for kind in _KINDS:
                name = f"{kind}_logging"
                if getattr(inner, name) and getattr(wrapper, name):
                    raise ConfigError(
                        f"two MazeEnvMonitoringWrappers of one stack have '{name}': their"
                        " statistics would be mixed. Set it to false in one of them."
                    )
        inner = inner.env
