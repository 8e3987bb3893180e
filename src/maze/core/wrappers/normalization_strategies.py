"""How observations are normalised, once their statistics are known.

A strategy subtracts an offset and divides by a positive scale, then clips. So it keeps the order
of values, and the bounds of a space go the same way as the observations in it. What offset and
scale are made of is what strategies differ in; a new one is a subclass, named in a config by its
dotted path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from maze.core.errors import ConfigError
from maze.core.factory import resolve
from maze.core.wrappers.checks import number
from maze.core.wrappers.observation_statistics import Moments, Statistics


class NormalizationStrategy(ABC):
    """Makes ``clip((observation - offset) / scale)`` of an observation.

    Args:
        clip_range: lower and upper bound of the normalised observation; ``None`` for either, or
            for both, does not clip there.
        axis: over which axes of the samples the statistics are pooled. Axis 0 counts the samples,
            1 is the first axis of the observation. ``0`` or ``[0]``: each entry of the observation
            has its own statistics; ``[0, 1]``: all entries along the first axis share them, such
            as the frames of a stack; ``None``: one number for the whole observation.

    Raises:
        ConfigError: If an argument is of another form.
    """

    statistic_names: ClassVar[tuple[str, ...]]
    """Names of the statistics that it needs."""

    def __init__(
        self,
        clip_range: Sequence[float | None] | None = None,
        axis: int | Sequence[int] | None = None,
    ) -> None:
        self.clip_range = self._checked_range(clip_range)
        self.axis = self._checked_axis(axis)

    @abstractmethod
    def statistics(self, moments: Moments) -> Statistics:
        """Return the statistics, by their names, of the samples of an observation."""

    @abstractmethod
    def offset_and_scale(
        self, statistics: Statistics
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what to subtract and by what to divide.

        Args:
            statistics: with the names of ``statistic_names``.

        Returns:
            Arrays that broadcast to the observation's shape. A scale is above zero.

        Raises:
            ConfigError: If the statistics make no sense.
        """

    def axes_of(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the pooled axes for observations of a shape, ``None`` for all.

        Raises:
            ConfigError: If such an observation has too few axes.
        """
        if self.axis is not None and self.axis[-1] > len(shape):
            raise ConfigError(
                f"'axis' is {list(self.axis)}, but an observation of shape {shape} has the axes 1"
                f" to {len(shape)} only, beside axis 0, that of the samples."
            )
        return self.axis

    def _checked_range(
        self, clip_range: Sequence[float | None] | None
    ) -> tuple[float | None, float | None]:
        if clip_range is None:
            return None, None
        if isinstance(clip_range, str) or not isinstance(clip_range, Sequence):
            low_high: Sequence[float | None] = ()
        else:
            low_high = clip_range
        if len(low_high) != 2:
            raise ConfigError(
                f"'clip_range' of {type(self).__name__} has to be [min, max], with null for no"
                f" bound, got {clip_range!r}."
            )
        low, high = (
            None if bound is None else number(bound, "clip_range", of=self) for bound in low_high
        )
        if low is not None and high is not None and not low < high:
            raise ConfigError(
                f"'clip_range' of {type(self).__name__} needs min < max, got {list(clip_range)!r}."
            )
        if np.isnan([bound for bound in (low, high) if bound is not None]).any():
            raise ConfigError(f"'clip_range' of {type(self).__name__} is {list(clip_range)!r}.")
        return low, high

    def _checked_axis(self, axis: int | Sequence[int] | None) -> tuple[int, ...] | None:
        if axis is None:
            return None
        axes: Any = [axis] if isinstance(axis, Integral) else axis
        if (
            isinstance(axes, str)
            or not isinstance(axes, Sequence)
            or not all(isinstance(a, Integral) and not isinstance(a, bool) for a in axes)
            or any(a < 0 for a in axes)
            or 0 not in axes
            or len(set(axes)) != len(axes)
        ):
            raise ConfigError(
                f"'axis' of {type(self).__name__} has to be null, 0 or a list of different axes"
                f" with 0, that of the samples, among them, got {axis!r}."
            )
        return tuple(sorted(int(a) for a in axes))


class MeanZeroStdOneStrategy(NormalizationStrategy):
    """Mean 0 and standard deviation 1: ``(observation - mean) / std``.

    Where nothing varies (std is 0), it divides by 1.
    """

    statistic_names = ("mean", "std")

    def statistics(self, moments: Moments) -> Statistics:
        """Return ``mean`` and ``std``."""
        return {"mean": moments.mean, "std": moments.std}

    def offset_and_scale(
        self, statistics: Statistics
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and the standard deviation."""
        std = statistics["std"]
        if (std < 0).any():
            raise ConfigError(f"'std' cannot be negative, got {std}.")
        return statistics["mean"], np.where(std == 0, 1.0, std)


class RangeZeroOneStrategy(NormalizationStrategy):
    """From 0 at the minimum to 1 at the maximum: ``(observation - min) / (max - min)``.

    Where minimum and maximum are the same, it divides by 1. Without ``clip_range``, what lies
    beyond the minimum or maximum that was seen goes beyond 0 or 1.
    """

    statistic_names = ("min", "max")

    def statistics(self, moments: Moments) -> Statistics:
        """Return ``min`` and ``max``."""
        return {"min": moments.min, "max": moments.max}

    def offset_and_scale(
        self, statistics: Statistics
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the minimum and the distance of the maximum from it."""
        low, high = statistics["min"], statistics["max"]
        span = high - low
        if (span < 0).any():
            raise ConfigError(f"'max' cannot be below 'min', got min {low} and max {high}.")
        return low, np.where(span == 0, 1.0, span)


STRATEGIES: Mapping[str, type[NormalizationStrategy]] = {
    "mean_zero_std_one": MeanZeroStdOneStrategy,
    "range_zero_one": RangeZeroOneStrategy,
}
"""Those with a short name."""


def strategy_class(name: Any, where: str) -> type[NormalizationStrategy]:
    """Return the class of a strategy.

    Args:
        name: a short name, a dotted path, or the class.
        where: the place of the name in the config, for messages.

    Raises:
        ConfigError: If there is none.
    """
    found: Any = name
    if isinstance(name, str):
        found = STRATEGIES.get(name)
        if found is None:
            if "." not in name:
                raise ConfigError(
                    f"there is no strategy '{name}', as '{where}' says. There are"
                    f" {', '.join(STRATEGIES)}; one of your own is given by its dotted path."
                )
            found = resolve(name, where)
    if not (isinstance(found, type) and issubclass(found, NormalizationStrategy)):
        raise ConfigError(
            f"'{where}' is {name!r}, expected one of {', '.join(STRATEGIES)}, or (the dotted path"
            " of) a subclass of"
            " maze.core.wrappers.normalization_strategies.NormalizationStrategy."
        )
    return found
