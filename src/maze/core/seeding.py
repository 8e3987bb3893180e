"""Which episodes are played: the plan, made from the base seeds before the first step.

    base seeds --plan--> EpisodeSpec 0, 1, ... n-1

An episode's seeds depend on the base seeds and on its index and on nothing else, so that it does
not matter which process plays it, and the first 50 of 1000 episodes are those of a run of 50.
Environment and policy have separate streams: another policy meets the same environments.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from maze.core.errors import ConfigError

SEED_BITS = 31
"""Seeds that are derived or drawn lie in [0, 2**31), which every environment accepts."""

_EXPLICIT_SEED_LIMIT = 2**32
"""Beyond, ``numpy.random.seed`` refuses; environments may call it with what they are given."""

_ENV_STREAM, _AGENT_STREAM, _ENV_SHUFFLE, _AGENT_SHUFFLE = range(4)


class EpisodeSpec(NamedTuple):
    """One episode to play. Its index and seeds identify it wherever it is played."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which specs do not need
    """Position in the plan, from 0."""
    env_seed: int
    """Given to the environment's reset; the global random generators are set from it too."""
    agent_seed: int
    """Given to the policy at the episode's start."""


@dataclass(frozen=True)
class Seeding:
    """Where the seeds of the episodes come from."""

    env_base_seed: int | None = None
    """The environment seeds are derived from it. ``None``: drawn by chance in ``resolved``."""
    agent_base_seed: int | None = None
    """The policy seeds are derived from it. ``None``: drawn by chance in ``resolved``."""
    explicit_env_seeds: Sequence[int] | None = None
    """Environment seeds in the order of the episodes, in place of derived ones."""
    explicit_agent_seeds: Sequence[int] | None = None
    """Policy seeds in the order of the episodes, in place of derived ones."""
    shuffle_seeds: bool = False
    """Whether to permute the explicit lists, each by its base seed. Pairs do not stay together."""

    def __post_init__(self) -> None:
        for name in ("env_base_seed", "agent_base_seed"):
            seed = getattr(self, name)
            if seed is not None:
                object.__setattr__(self, name, _checked_seed(seed, name, limit=None))
        for name in ("explicit_env_seeds", "explicit_agent_seeds"):
            seeds = getattr(self, name)
            if seeds is not None:
                object.__setattr__(self, name, _checked_list(seeds, name))
        if not isinstance(self.shuffle_seeds, bool):
            raise ConfigError(
                f"'seeding.shuffle_seeds' has to be true or false, got {self.shuffle_seeds!r}."
            )

    def resolved(self) -> Seeding:
        """Return the same with base seeds drawn by chance where none were given.

        A run stores and prints these, so that it can be repeated.
        """
        env_base_seed, agent_base_seed = (
            secrets.randbits(SEED_BITS) if seed is None else seed
            for seed in (self.env_base_seed, self.agent_base_seed)
        )
        return dataclasses.replace(
            self, env_base_seed=env_base_seed, agent_base_seed=agent_base_seed
        )

    def seeds(self) -> dict[str, int | None]:
        """Return the base seeds that count: ``None`` for a stream that is listed explicitly."""
        return {
            "env_base_seed": None if self.explicit_env_seeds is not None else self.env_base_seed,
            "agent_base_seed": (
                None if self.explicit_agent_seeds is not None else self.agent_base_seed
            ),
        }

    def plan(self, n_episodes: int) -> EpisodePlan:
        """Return the episodes to play.

        Args:
            n_episodes: asked for. If an explicit list is shorter, the plan is as short as the
                list and its ``warning`` says so.

        Raises:
            ValueError: If a base seed has not been drawn yet.
        """
        if self.env_base_seed is None or self.agent_base_seed is None:
            raise ValueError(
                "draw the base seeds with resolved() first, so that they can be stored"
            )
        lengths = {
            name: len(seeds)
            for name, seeds in (
                ("explicit_env_seeds", self.explicit_env_seeds),
                ("explicit_agent_seeds", self.explicit_agent_seeds),
            )
            if seeds is not None
        }
        n_planned = min([n_episodes, *lengths.values()])
        warning = None
        if n_planned < n_episodes:
            short = [
                f"seeding.{name} has {n} seeds" for name, n in lengths.items() if n < n_episodes
            ]
            warning = (
                f"{n_episodes} episodes were asked for, but {' and '.join(short)}:"
                f" {n_planned} episodes are played."
            )
        env_seeds = _derived(self.env_base_seed, _ENV_STREAM, n_planned)
        agent_seeds = _derived(self.agent_base_seed, _AGENT_STREAM, n_planned)
        if self.explicit_env_seeds is not None:
            shuffle_by = self.env_base_seed if self.shuffle_seeds else None
            env_seeds = _listed(self.explicit_env_seeds, shuffle_by, _ENV_SHUFFLE)[:n_planned]
        if self.explicit_agent_seeds is not None:
            shuffle_by = self.agent_base_seed if self.shuffle_seeds else None
            agent_seeds = _listed(self.explicit_agent_seeds, shuffle_by, _AGENT_SHUFFLE)[:n_planned]
        return EpisodePlan(env_seeds, agent_seeds, warning)


class EpisodePlan(Sequence[EpisodeSpec]):
    """The episodes to play, in order. Specs are made when asked for: a million cost 16 MB."""

    def __init__(
        self,
        env_seeds: NDArray[np.int64],
        agent_seeds: NDArray[np.int64],
        warning: str | None = None,
        indices: NDArray[np.int64] | None = None,
    ) -> None:
        if len(env_seeds) != len(agent_seeds):
            raise ValueError(f"{len(env_seeds)} env seeds, but {len(agent_seeds)} agent seeds")
        self._env_seeds = env_seeds
        self._agent_seeds = agent_seeds
        self._indices = indices
        """Of the episodes; ``None`` if they are all there, from 0."""
        self.warning = warning
        """What the user should know about the plan; mostly nothing."""

    def __len__(self) -> int:
        return len(self._env_seeds)

    @overload
    def __getitem__(self, index: int) -> EpisodeSpec: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EpisodeSpec]: ...
    def __getitem__(self, index: int | slice) -> EpisodeSpec | Sequence[EpisodeSpec]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = operator.index(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"episode {index} of a plan of {len(self)}")
        return EpisodeSpec(
            position if self._indices is None else int(self._indices[position]),
            int(self._env_seeds[position]),
            int(self._agent_seeds[position]),
        )

    def __iter__(self) -> Iterator[EpisodeSpec]:
        # By chunks, since numpy's numbers are slow to take out one by one.
        for first in range(0, len(self), 1024):
            chunk = slice(first, first + 1024)
            env_seeds, agent_seeds = self._env_seeds[chunk], self._agent_seeds[chunk]
            indices: Iterable[int] = itertools.count(first)
            if self._indices is not None:
                indices = self._indices[chunk].tolist()
            yield from map(EpisodeSpec, indices, env_seeds.tolist(), agent_seeds.tolist())

    def without(self, episode_indices: NDArray[np.int64]) -> EpisodePlan:
        """Return the plan of a whole run without some of its episodes."""
        is_left = np.ones(len(self), dtype=np.bool_)
        is_left[episode_indices] = False
        return self.only(np.flatnonzero(is_left))

    def only(self, episode_indices: NDArray[np.int64]) -> EpisodePlan:
        """Return the plan of a whole run with only some of its episodes, in the given order."""
        return EpisodePlan(
            self._env_seeds[episode_indices],
            self._agent_seeds[episode_indices],
            self.warning,
            episode_indices,
        )

    def differs_from(
        self,
        episode_indices: NDArray[np.int64],
        env_seeds: NDArray[np.int64],
        agent_seeds: NDArray[np.int64],
    ) -> int | None:
        """Return the first of some episodes whose seeds are others here; ``None`` if none is."""
        is_other = (self._env_seeds[episode_indices] != env_seeds) | (
            self._agent_seeds[episode_indices] != agent_seeds
        )
        return int(episode_indices[is_other].min()) if is_other.any() else None

    def __repr__(self) -> str:
        return f"<EpisodePlan of {len(self)} episodes>"


def seed_range(n_seeds: int, first: int = 0) -> Sequence[int]:
    """Return consecutive seeds, for ``seeding.explicit_env_seeds`` in a config."""
    return range(first, first + n_seeds)


def _derived(base_seed: int, stream: int, count: int) -> NDArray[np.int64]:
    return _random_bits(base_seed, stream, count, SEED_BITS)


def _listed(seeds: Sequence[int], shuffle_by: int | None, stream: int) -> NDArray[np.int64]:
    listed = np.array(seeds, dtype=np.int64)
    if shuffle_by is None:
        return listed
    return listed[np.argsort(_random_bits(shuffle_by, stream, len(seeds), 63), kind="stable")]


def _random_bits(base_seed: int, stream: int, count: int, bits: int) -> NDArray[np.int64]:
    # Raw output of the bit generator, since numpy promises to keep that the same in all versions;
    # it does not promise it for the methods of Generator.
    raw = np.random.PCG64(np.random.SeedSequence(base_seed, spawn_key=(stream,))).random_raw(count)
    return (np.atleast_1d(raw) >> np.uint64(64 - bits)).astype(np.int64)


def _checked_list(seeds: Any, name: str) -> tuple[int, ...]:
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Iterable):
        raise ConfigError(f"'seeding.{name}' has to be a list of seeds, got {seeds!r}.")
    checked = tuple(_checked_seed(seed, f"{name}[{i}]") for i, seed in enumerate(seeds))
    if not checked:
        raise ConfigError(f"'seeding.{name}' is an empty list. Leave it null to derive the seeds.")
    return checked


def _checked_seed(seed: Any, name: str, limit: int | None = _EXPLICIT_SEED_LIMIT) -> int:
    try:
        if isinstance(seed, bool):
            raise TypeError
        checked = operator.index(seed)
    except TypeError:
        raise ConfigError(f"'seeding.{name}' has to be an integer, got {seed!r}.") from None
    if checked < 0 or (limit is not None and checked >= limit):
        below = "" if limit is None else f" and below {limit}"
        raise ConfigError(f"'seeding.{name}' has to be at least 0{below}, got {checked}.")
    return checked
