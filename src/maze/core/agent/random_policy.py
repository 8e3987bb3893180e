"""Random actions: the policy to start with, and the baseline of every speed measurement.

Making a generator for each episode and sampling the spaces one action at a time would cost more
than stepping a small environment. So actions are drawn in blocks, and from a generator whose
output is a function of a key and a counter (Philox): before each block, its state is set to what
the episode's seed, the step key and the number of the block say. An episode's actions therefore
depend on its seed alone, whatever is played before, after or at the same time.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey
from maze.core.errors import ContractError

FIRST_BLOCK = 32
"""Actions drawn at the start of an episode; each further block has twice as many."""

LARGEST_BLOCK = 512
"""Actions drawn at once at most."""

LARGEST_BLOCK_SIZE = 2**16
"""Numbers drawn at once at most, so that large actions do not fill the memory."""

ActionMemory: TypeAlias = Mapping[StepKey, Iterator[Action]]
"""What an episode remembers: the actions to come for each step key."""


class RandomPolicy(StructuredPolicy):
    """Samples each action from its space, as the space itself would.

    Bounded intervals are sampled uniformly, half-bounded ones exponentially from their bound,
    unbounded ones normally; other spaces uniformly. Values have the dtypes of their spaces;
    a ``Discrete`` of int64, the usual one, gives Python integers. ``deterministic`` has no
    meaning here and is ignored.

    Args:
        action_spaces: the environment's, by step key.
    """

    def __init__(self, action_spaces: Mapping[StepKey, spaces.Dict]) -> None:
        self.action_spaces = dict(action_spaces)
        self._sources = {
            step_key: _ActionSource(space, index)
            for index, (step_key, space) in enumerate(self.action_spaces.items())
        }

    def start_episode(self, seed: int) -> ActionMemory:
        """Return the actions to come. They are drawn when they are needed."""
        return {step_key: source.actions(seed) for step_key, source in self._sources.items()}

    def act(
        self, observation: Observation, actor: ActorID, memory: ActionMemory, deterministic: bool
    ) -> Action:
        """Return the next random action of the actor's step key.

        Raises:
            ContractError: If there is no action space for that step key.
        """
        try:
            return next(memory[actor.step_key])
        except KeyError:
            if actor.step_key in memory:
                raise
            raise ContractError(
                f"there is no action space for step key {actor.step_key!r}. RandomPolicy was made"
                f" for: {', '.join(map(repr, self.action_spaces))}."
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.action_spaces,)


Sampler: TypeAlias = Callable[[Generator, int], Sequence[Any]]
"""Draws a number of values from a generator, whose bit generator is a ``Philox``."""


class _ActionSource:
    """Random actions of one step key, for any number of episodes."""

    def __init__(self, space: spaces.Dict, index: int) -> None:
        self._sample = _sampler(space)
        self._bits = Philox(0)
        self._generator = Generator(self._bits)
        # Philox is counter-based: a new state costs a copy of these few numbers.
        self._state: Any = self._bits.state
        self._key = self._state["state"]["key"]
        self._counter = self._state["state"]["counter"]
        self._counter[2] = index
        # Setting the state and drawing must not be torn apart by another thread.
        self._lock = threading.Lock()
        self._largest = max(1, min(LARGEST_BLOCK, LARGEST_BLOCK_SIZE // max(1, _size(space))))

    def actions(self, seed: int) -> Iterator[Action]:
        """Return an endless iterator over the actions of the episode with that seed."""
        return itertools.chain.from_iterable(self._blocks(seed))

    def _blocks(self, seed: int) -> Iterator[Sequence[Action]]:
        low, high = seed & _WORD, (seed >> 64) & _WORD
        n_actions = min(FIRST_BLOCK, self._largest)
        for block_index in itertools.count():
            with self._lock:
                self._key[0], self._key[1] = low, high
                self._counter[1] = block_index
                self._bits.state = self._state
                block = self._sample(self._generator, n_actions)
            yield block
            n_actions = min(2 * n_actions, self._largest)


_WORD = 2**64 - 1


def _sampler(space: spaces.Space[Any]) -> Sampler:
    # Exact types only: a subclass may sample, and contain, something else.
    make = _SAMPLERS.get(type(space))
    return _own_sampler(space) if make is None else make(space)


def _dict_sampler(space: spaces.Dict) -> Sampler:
    names = list(space.spaces)
    samplers = [_sampler(part) for part in space.spaces.values()]
    if len(names) == 1:
        only_name, only_sampler = names[0], samplers[0]
        return lambda rng, count: [{only_name: value} for value in only_sampler(rng, count)]

    def sample(rng: Generator, count: int) -> Sequence[Any]:
        columns = [sampler(rng, count) for sampler in samplers]
        return [
            {name: column[row] for name, column in zip(names, columns, strict=True)}
            for row in range(count)
        ]

    return sample


def _tuple_sampler(space: spaces.Tuple[Any]) -> Sampler:
    samplers = [_sampler(part) for part in space.spaces]

    def sample(rng: Generator, count: int) -> Sequence[Any]:
        columns = [sampler(rng, count) for sampler in samplers]
        return [tuple(column[row] for column in columns) for row in range(count)]

    return sample


def _discrete_sampler(space: spaces.Discrete[Any]) -> Sampler:
    start, n = int(space.start), int(space.n)
    dtype = np.dtype(space.dtype)
    if dtype != np.int64:
        # The last value is included, since one more may not fit the dtype.
        return lambda rng, count: list(
            rng.integers(start, start + n - 1, size=count, dtype=dtype, endpoint=True)
        )
    if n <= 256:
        return _few_values_sampler(start, n)
    return lambda rng, count: rng.integers(
        start, start + n - 1, size=count, dtype=np.int64, endpoint=True
    ).tolist()


def _few_values_sampler(start: int, n: int) -> Sampler:
    """Sample from few integers by translating random bytes: a third of the time."""
    fair = 256 - 256 % n
    positions = bytes(byte % n for byte in range(256))
    values = [start + position for position in range(n)]
    # Bytes beyond the last full round would make some values likelier; they are dropped.
    unfair = bytes(range(fair, 256))

    def sample(rng: Generator, count: int) -> Sequence[int]:
        bits: Any = rng.bit_generator
        drawn: bytes = bits.random_raw((count + 7) // 8).tobytes().translate(positions, unfair)
        while len(drawn) < count:
            drawn += bits.random_raw((count + 7) // 8).tobytes().translate(positions, unfair)
        # As numbers, bytes count from 0: most often, they are the values.
        return list(drawn[:count]) if start == 0 else [values[byte] for byte in drawn[:count]]

    return sample


def _multi_discrete_sampler(space: spaces.MultiDiscrete[Any]) -> Sampler:
    low = np.asarray(space.start, dtype=np.int64)
    high = low + np.asarray(space.nvec, dtype=np.int64) - 1
    return _integers_sampler(low, high, np.dtype(space.dtype))


def _multi_binary_sampler(space: spaces.MultiBinary) -> Sampler:
    low = np.zeros(space.shape, dtype=np.int64)
    return _integers_sampler(low, low + 1, np.dtype(space.dtype))


def _box_sampler(space: spaces.Box) -> Sampler:
    dtype = space.dtype
    if space.bounded_below.all() and space.bounded_above.all():
        if dtype.kind == "f":
            return _uniform_sampler(space.low, space.high, dtype)
        # 64 bits hold all bounds; unsigned ones only of their own kind.
        wide = np.uint64 if dtype == np.uint64 else np.int64
        return _integers_sampler(space.low.astype(wide), space.high.astype(wide), dtype)
    return _unbounded_sampler(space)


def _integers_sampler(low: NDArray[Any], high: NDArray[Any], dtype: np.dtype[Any]) -> Sampler:
    """Sample integers uniformly, both bounds included."""
    low_or_all, high_or_all = _one_if_equal(low), _one_if_equal(high)
    drawn_as = np.dtype(np.int64) if dtype.kind == "b" else dtype.newbyteorder("=")

    def sample(rng: Generator, count: int) -> Sequence[Any]:
        drawn = rng.integers(
            low_or_all, high_or_all, size=(count, *low.shape), dtype=drawn_as, endpoint=True
        )
        return _rows(drawn.astype(dtype, copy=False))

    return sample


def _one_if_equal(bounds: NDArray[Any]) -> Any:
    """Return a single number if all are equal, for which numpy has a faster way."""
    return int(bounds.flat[0]) if bounds.size and (bounds == bounds.flat[0]).all() else bounds


def _uniform_sampler(low: NDArray[Any], high: NDArray[Any], dtype: np.dtype[Any]) -> Sampler:
    base, top = low.astype(np.float64), high.astype(np.float64)
    with np.errstate(over="ignore"):
        span = top - base
    is_finite = bool(np.isfinite(span).all())

    def sample(rng: Generator, count: int) -> Sequence[Any]:
        drawn = rng.random((count, *low.shape))
        if is_finite:
            drawn *= span
            drawn += base
        else:  # the bounds are further apart than the largest number
            drawn = base * (1.0 - drawn) + top * drawn
        # The sum can be rounded to beyond the bound.
        np.minimum(drawn, top, out=drawn)
        return _rows(drawn.astype(dtype, copy=False))

    return sample


def _unbounded_sampler(space: spaces.Box) -> Sampler:
    """Sample a box some of whose intervals have no bound on one side or on both."""
    dtype, shape = space.dtype, space.shape
    below, above = space.bounded_below.ravel(), space.bounded_above.ravel()
    low, high = space.low.ravel(), space.high.ravel()
    both, from_low = below & above, below & ~above
    from_high, neither = ~below & above, ~below & ~above
    limits: Any = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    bounded = _sampler(spaces.Box(low[both], high[both], dtype=dtype.type)) if both.any() else None

    def sample(rng: Generator, count: int) -> Sequence[Any]:
        values = np.empty((count, low.size), dtype=dtype)
        if bounded is not None:
            values[:, both] = np.stack(bounded(rng, count))
        steps = rng.exponential(size=(count, low.size))
        normal = rng.normal(size=(count, low.size))
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                values[:, from_low] = np.minimum(low[from_low] + steps[:, from_low], limits.max)
                values[:, from_high] = np.maximum(high[from_high] - steps[:, from_high], limits.min)
            values[:, neither] = normal[:, neither]
        else:
            # In integers all the way: floats are too coarse near the ends of 64 bits.
            whole = np.floor(steps).astype(dtype)
            values[:, from_low] = low[from_low] + np.minimum(
                whole[:, from_low], limits.max - low[from_low]
            )
            values[:, from_high] = high[from_high] - np.minimum(
                whole[:, from_high], high[from_high] - limits.min
            )
            values[:, neither] = np.maximum(np.floor(normal), limits.min)[:, neither]
        return _rows(values.reshape(count, *shape))

    return sample


def _own_sampler(space: spaces.Space[Any]) -> Sampler:
    """Let a copy of the space sample, seeded anew for each block."""
    own = copy.deepcopy(space)

    def sample(rng: Generator, count: int) -> Sequence[Any]:
        own.seed(int(rng.integers(2**31)))
        return [own.sample() for _ in range(count)]

    return sample


_SAMPLERS: dict[type[spaces.Space[Any]], Callable[[Any], Sampler]] = {
    spaces.Dict: _dict_sampler,
    spaces.Tuple: _tuple_sampler,
    spaces.Discrete: _discrete_sampler,
    spaces.MultiDiscrete: _multi_discrete_sampler,
    spaces.MultiBinary: _multi_binary_sampler,
    spaces.Box: _box_sampler,
}


def _rows(block: NDArray[Any]) -> Sequence[NDArray[Any]]:
    # Iterating over one dimension would give scalars, which are no arrays of shape ().
    return [block[row, ...] for row in range(len(block))] if block.ndim == 1 else list(block)


def _size(space: spaces.Space[Any]) -> int:
    """Return how many numbers a value of the space has."""
    if isinstance(space, spaces.Dict):
        return sum(map(_size, space.spaces.values()))
    if isinstance(space, spaces.Tuple):
        return sum(map(_size, space.spaces))
    return math.prod(space.shape) if space.shape else 1
