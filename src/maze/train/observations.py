"""From observations to what networks take: dictionaries of 32-bit floats, one row per observation.

What is collected is kept as the environment gave it, so that pictures take a byte a pixel. It
becomes floats where a network is asked, the same way when acting and when learning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from maze.core.env.structured_env import Observation
from maze.core.errors import ConfigError

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""By name of an entry, values of shape (n, ...)."""

Tensors: TypeAlias = dict[str, Tensor]
"""The same as 32-bit floats."""


class ObservationEncoder:
    """Turns observations of one space into arrays, and arrays into tensors.

    Entries of nested spaces are named by their path, as in ``robot/arm``. A ``Box`` becomes floats
    (one of bytes from 0 to 255 is divided by 255), a ``Discrete`` or ``MultiDiscrete`` the
    one-hot code of each number, a ``MultiBinary`` zeros and ones.

    Args:
        space: of the observations.

    Raises:
        ConfigError: If an entry is in a space that has no fixed shape.
    """

    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors, by entry, without the first dimension."""

    def __init__(self, space: spaces.Dict) -> None:
        self._entries = list(_entries(space, (), ()))
        self.shapes = {entry.name: entry.shape for entry in self._entries}
        self._is_simple = all(len(entry.path) == 1 for entry in self._entries)

    def stack(self, observations: Sequence[Observation]) -> Arrays:
        """Return the observations as arrays, which share no memory with them."""
        if self._is_simple:
            return {
                entry.name: np.array(
                    [observation[entry.name] for observation in observations], entry.dtype
                )
                for entry in self._entries
            }
        return {
            entry.name: np.array(
                [_at(observation, entry.path) for observation in observations], entry.dtype
            )
            for entry in self._entries
        }

    def arrays(self, columns: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return recorded columns of the same names in the form of ``stack``."""
        return {
            entry.name: np.ascontiguousarray(columns[entry.name], entry.dtype)
            for entry in self._entries
        }

    def tensors(self, arrays: Mapping[str, NDArray[Any]], device: str = "cpu") -> Tensors:
        """Return arrays as what networks take."""
        return {
            entry.name: entry.encode(torch.from_numpy(arrays[entry.name]).to(device))
            for entry in self._entries
        }


class _Entry(NamedTuple):
    name: str
    path: tuple[Any, ...]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    encode: Callable[[Tensor], Tensor]


def _entries(
    space: spaces.Space[Any], path: tuple[Any, ...], names: tuple[str, ...]
) -> Iterator[_Entry]:
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            yield from _entries(child, (*path, key), (*names, str(key)))
        return
    if isinstance(space, spaces.Tuple):
        for index, child in enumerate(space.spaces):
            yield from _entries(child, (*path, index), (*names, str(index)))
        return
    name = "/".join(names)
    if isinstance(space, spaces.Box):
        is_bytes = space.dtype == np.uint8 and space.low.min() == 0 and space.high.max() == 255
        encode = _from_bytes if is_bytes else _as_floats
        # Half of the memory, and what networks compute in.
        dtype = np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype)
        if dtype.kind == "u" and dtype.itemsize > 1:
            dtype = np.dtype(np.int64)  # torch has hardly any others without sign
        yield _Entry(name, path, dtype, space.shape, encode)
    elif isinstance(space, spaces.Discrete):
        yield _Entry(
            name, path, np.dtype(np.int64), (int(space.n),), _OneHot([int(space.n)], [space.start])
        )
    elif isinstance(space, spaces.MultiDiscrete):
        counts = np.ravel(space.nvec).tolist()
        starts = np.ravel(space.start).tolist()
        yield _Entry(name, path, np.dtype(np.int64), (sum(counts),), _OneHot(counts, starts))
    elif isinstance(space, spaces.MultiBinary):
        yield _Entry(name, path, np.dtype(np.int8), space.shape, _as_floats)
    else:
        raise ConfigError(
            f"the observation '{name}' is in a {type(space).__name__} space, which has no fixed"
            " shape that a network could take. Make an array of it with an ObservationWrapper."
        )


def _at(observation: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        observation = observation[part]
    return observation


def _as_floats(values: Tensor) -> Tensor:
    return values.float()


def _from_bytes(values: Tensor) -> Tensor:
    return values.float().mul_(1 / 255)


class _OneHot:
    """From numbers to the one-hot code of each, one after the other."""

    def __init__(self, counts: Sequence[int], starts: Sequence[Any]) -> None:
        self._offsets = np.cumsum([0, *counts[:-1]]) - np.array(starts, np.int64)
        self._n_columns = sum(counts)

    def __call__(self, values: Tensor) -> Tensor:
        offsets = torch.as_tensor(self._offsets, device=values.device)
        codes = torch.zeros(len(values), self._n_columns, device=values.device)
        return codes.scatter_(1, values.reshape(len(values), -1) + offsets, 1.0)
