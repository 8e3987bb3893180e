"""Statistics of observations: what a normalisation knows of an environment.

They are a value: gathered once, in one pass and in bounded memory, then frozen, saved without
pickle, and loaded wherever a policy that was trained with them is used.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maze.core.errors import ConfigError

Statistics = Mapping[str, NDArray[np.float64]]
"""Of one observation, by name, such as ``mean`` and ``std``."""

_BATCH_SIZE = 2**16
"""Numbers that are buffered at most, unless a single sample has more."""

_UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, struct.error, RuntimeError),
)
"""What numpy and zipfile raise about damaged files."""


@dataclass(frozen=True, eq=False)
class ObservationStatistics(Mapping[str, Statistics]):
    """Statistics by the name of the observation."""

    by_observation: Mapping[str, Statistics]
    """Finite float64 arrays, each of a shape that broadcasts to the observation's."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "by_observation",
            {name: as_statistics(of_name, name) for name, of_name in self.by_observation.items()},
        )

    def __getitem__(self, observation: str) -> Statistics:
        return self.by_observation[observation]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_observation)

    def __len__(self) -> int:
        return len(self.by_observation)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObservationStatistics):
            return NotImplemented
        return self.keys() == other.keys() and all(
            of_name.keys() == other[name].keys()
            and all(np.array_equal(array, other[name][key]) for key, array in of_name.items())
            for name, of_name in self.items()
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are compared, not hashed

    def save(self, path: str | Path) -> None:
        """Write them as an ``.npz`` file, which numpy reads without pickle.

        The arrays are called ``<observation>/<statistic>``. A file that is there is replaced, in
        one go.

        Args:
            path: where to; its directory has to exist.
        """
        arrays: dict[str, Any] = {
            f"{name}/{key}": array
            for name, of_name in self.items()
            for key, array in of_name.items()
        }
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path) -> ObservationStatistics:
        """Read what ``save`` wrote.

        Raises:
            ConfigError: If there is no such file, or it is something else.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise ConfigError(
                f"there are no observation statistics '{path}'. Write them with"
                " wrapper.statistics.save(path), or leave 'statistics' null to have them estimated."
            ) from None
        except _UNREADABLE as error:
            raise ConfigError(
                f"'{path}' cannot be read as observation statistics, an .npz file of plain arrays"
                f" as wrapper.statistics.save(path) writes it: {type(error).__name__}: {error}"
            ) from error
        by_observation: dict[str, dict[str, NDArray[np.float64]]] = {}
        for name, array in arrays.items():
            observation, slash, key = name.rpartition("/")
            if not slash:
                raise ConfigError(
                    f"'{path}' holds an array '{name}'; observation statistics are called"
                    " '<observation>/<statistic>', such as 'observation/mean'."
                )
            by_observation.setdefault(observation, {})[key] = array
        try:
            return cls(by_observation)
        except ConfigError as error:
            raise ConfigError(f"in '{path}': {error}") from error


def as_statistics(given: object, observation: str) -> Statistics:
    """Return statistics of one observation as arrays that cannot be changed.

    Args:
        given: a mapping from their names to numbers, (nested) lists or arrays.
        observation: whose they are, for messages.

    Raises:
        ConfigError: If it is none, or a number is not finite.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"the statistics of '{observation}' have to be a mapping such as {{mean: 0, std: 1}},"
            f" got {given!r}."
        )
    arrays: dict[str, NDArray[np.float64]] = {}
    for name, value in given.items():
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.array(np.nan)
        if not np.isfinite(array).all():
            raise ConfigError(
                f"'{name}' of the statistics of '{observation}' has to be a finite number or a"
                f" (nested) list of them, got {value!r}."
            )
        array.flags.writeable = False
        arrays[str(name)] = array
    return arrays


@dataclass(frozen=True)
class Moments:
    """What is known of the samples of an observation, pooled over some axes."""

    n: int
    """Samples in each entry of the arrays, pooled ones included."""
    mean: NDArray[np.float64]
    """A single number, or of the observation's shape with 1 for each pooled axis; as all below."""
    squares: NDArray[np.float64]
    """Sum of the squared deviations from the mean."""
    min: NDArray[np.float64]
    max: NDArray[np.float64]

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation of the samples themselves: divided by n, as ``numpy.std``."""
        std: NDArray[np.float64] = np.sqrt(self.squares / self.n)
        # Exactly zero where nothing varies, rather than what rounding the mean leaves.
        return np.where(self.min == self.max, 0.0, std)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets of samples together.

        With counts a and b, and d the difference of the means,

            mean = mean_a + d * b / (a + b)
            squares = squares_a + squares_b + d^2 * a * b / (a + b)

        Source: Chan, Golub & LeVeque, Algorithms for computing the sample variance: analysis and
        recommendations, The American Statistician 37 (1983), the pairwise updating formulas. With
        b = 1 they are Welford's.
        """
        n = self.n + other.n
        difference = other.mean - self.mean
        return Moments(
            n=n,
            mean=self.mean + difference * (other.n / n),
            squares=self.squares + other.squares + difference**2 * (self.n * (other.n / n)),
            min=np.minimum(self.min, other.min),
            max=np.maximum(self.max, other.max),
        )


class MomentsInOnePass:
    """Gathers moments of samples that come one by one, in bounded memory.

    Args:
        shape: of a sample.
        dtype: of a sample.
        axes: those that are pooled, with 0 for that of the samples and 1 for the first of the
            observation; ``None`` for all.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], axes: Sequence[int] | None
    ) -> None:
        n_buffered = max(1, _BATCH_SIZE // max(1, math.prod(shape)))
        self._buffer = np.empty((min(n_buffered, 1024), *shape), dtype=dtype)
        self._axes = None if axes is None else tuple(axes)
        self._n_buffered = 0
        self._moments: Moments | None = None

    def add(self, sample: Any) -> None:
        """Take in a sample. It is copied."""
        self._buffer[self._n_buffered] = sample
        self._n_buffered += 1
        if self._n_buffered == len(self._buffer):
            self._flush()

    def result(self) -> Moments | None:
        """Return the moments of all samples so far; ``None`` if there were none."""
        if self._n_buffered:
            self._flush()
        return self._moments

    def _flush(self) -> None:
        samples = self._buffer[: self._n_buffered].astype(np.float64)
        self._n_buffered = 0
        n = samples.size
        axes: Any = self._axes
        with np.errstate(invalid="ignore", over="ignore"):  # the caller looks at what comes out
            mean = samples.mean(axis=axes, keepdims=True)
            squares = np.square(samples - mean).sum(axis=axes, keepdims=True)
            low, high = (f(axis=axes, keepdims=True) for f in (samples.min, samples.max))
            moments = Moments(
                n=n // max(1, mean.size),
                mean=self._squeezed(mean),
                squares=self._squeezed(squares),
                min=self._squeezed(low),
                max=self._squeezed(high),
            )
            self._moments = moments if self._moments is None else self._moments.merged(moments)

    def _squeezed(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take off the axis of the samples; all axes, if all were pooled."""
        return array.reshape(()) if self._axes is None else array[0]
