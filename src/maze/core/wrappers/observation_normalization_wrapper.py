"""Observations of about the same size, which networks learn from more easily.

Statistics that went on changing while episodes are played would make what an episode shows depend
on those played before it in the same process. So they are frozen: given, loaded, or estimated once,
when the wrapper is constructed, by playing the environment inside with fixed seeds. Every process
and lane comes to the same ones by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import Observation, StepKey, StructuredEnv
from maze.core.errors import ConfigError, ContractError, SpaceError, did_you_mean
from maze.core.factory import call, unknown_option
from maze.core.wrappers.checks import positive_count
from maze.core.wrappers.normalization_strategies import NormalizationStrategy, strategy_class
from maze.core.wrappers.observation_statistics import (
    Moments,
    MomentsInOnePass,
    ObservationStatistics,
    Statistics,
    as_statistics,
)
from maze.core.wrappers.sampling import sample_steps, sampling_policy
from maze.core.wrappers.wrapper import ObservationWrapper

_MANUAL_OPTIONS = ("strategy", "strategy_config", "statistics")


class ObservationNormalizationWrapper(ObservationWrapper):
    """Normalises all numeric ``Box`` observations, by statistics that stay the same.

    Observations in other spaces are left as they are, and so are action masks, which the
    environment declares. Normalised observations are float32; float64 if they were. The statistics
    belong to the name of an observation: step keys that have it share them.

    Args:
        env: the environment inside.
        default_strategy: ``mean_zero_std_one``, ``range_zero_one``, or (the dotted path of) a
            subclass of ``NormalizationStrategy``.
        default_strategy_config: its arguments, ``clip_range`` and ``axis``; see
            ``NormalizationStrategy``.
        default_statistics: statistics of every observation with the default strategy, such as
            ``{"min": 0, "max": 255}``; ``None`` to estimate them.
        statistics: statistics of an earlier run, or the path of the ``.npz`` file they were saved
            in, for all observations that have none in ``manual_config``. ``None``: see
            ``default_statistics``.
        n_samples: structured steps that are played to estimate statistics that are not given.
        sampling_seed: fixes the seeds of environment and policy in them.
        sampling_policy: plays them; a policy or its config. ``None``: random actions, among those
            that are allowed where the environment declares action masks.
        exclude: names of observations that are left as they are. Names that do not exist are
            ignored, so that variants of an environment can share a config.
        manual_config: by name of an observation, ``strategy``, ``strategy_config`` and
            ``statistics`` that differ from the defaults. With the default strategy,
            ``strategy_config`` adds to its config; with another one, it stands alone.

    Raises:
        ConfigError: If an argument is of another form, if statistics do not fit to an observation
            or its strategy, or if an observation that needs them did not occur.
        ContractError: If a number that was observed while estimating is not finite.
        SpaceError: From ``reset`` and ``step``, if an observation does not fit to its statistics.
    """

    statistics: ObservationStatistics
    """Of all observations that are normalised."""

    def __init__(
        self,
        env: StructuredEnv,
        default_strategy: str | type[NormalizationStrategy] = "mean_zero_std_one",
        default_strategy_config: Mapping[str, Any] | None = None,
        default_statistics: Mapping[str, Any] | None = None,
        statistics: str | Path | Mapping[str, Mapping[str, Any]] | None = None,
        n_samples: int = 1000,
        sampling_seed: int = 1234,
        sampling_policy: Any = None,
        exclude: Sequence[str] | None = None,
        manual_config: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(env)
        entries = _entries(env, _checked_names(exclude))
        strategies = _strategies(
            entries, default_strategy, default_strategy_config, manual_config, env
        )
        known = _given_statistics(
            strategies, default_statistics, _loaded(statistics), manual_config or {}
        )
        sampling = _Sampling(
            positive_count(n_samples, "n_samples", of=self), sampling_seed, sampling_policy
        )
        missing = [name for name in strategies if name not in known]
        if missing:
            known.update(sampling.estimates(env, entries, strategies, missing))
        self.statistics = ObservationStatistics({name: known[name] for name in strategies})
        normalizers: dict[StepKey, dict[str, _Normalizer]] = {key: {} for key in entries}
        for step_key, of_key in entries.items():
            for name, space in of_key.items():
                normalizers[step_key][name] = _normalizer(
                    name, space, strategies[name].strategy, self.statistics[name]
                )
        self.observation_spaces = {
            step_key: _normalized_space(space, normalizers[step_key])
            for step_key, space in env.observation_spaces.items()
        }
        self._normalizers = {key: tuple(of_key.items()) for key, of_key in normalizers.items()}
        self._only = next(iter(self._normalizers.values())) if len(self._normalizers) == 1 else None

    def observation(self, observation: Observation) -> Observation:
        """Return the normalised observation."""
        normalizers = self._only
        if normalizers is None:
            normalizers = self._normalizers[self.env.actor_id().step_key]
        normalized = dict(observation)
        for name, normalize in normalizers:
            try:
                normalized[name] = normalize(normalized[name])
            except (KeyError, ValueError, TypeError):
                raise _bad_observation(name, observation, normalize) from None
        return normalized


class _Strategy(NamedTuple):
    """How one observation is normalised."""

    strategy: NormalizationStrategy
    is_default: bool


@dataclass(frozen=True)
class _Sampling:
    """How statistics are estimated."""

    n_samples: int
    seed: int
    policy: Any

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral) or self.seed < 0:
            raise ConfigError(
                f"'sampling_seed' has to be a whole number from 0, got {self.seed!r}."
            )

    def estimates(
        self,
        env: StructuredEnv,
        entries: Mapping[StepKey, Mapping[str, spaces.Box]],
        strategies: Mapping[str, _Strategy],
        names: Iterable[str],
    ) -> dict[str, Statistics]:
        """Play the environment, and return the statistics of some observations."""
        wanted = set(names)
        gathered = {
            step_key: {
                name: MomentsInOnePass(
                    space.shape, space.dtype, _axes(name, space, strategies[name].strategy)
                )
                for name, space in of_key.items()
                if name in wanted
            }
            for step_key, of_key in entries.items()
        }
        self._play(env, gathered)
        by_name: dict[str, Moments] = {}
        for of_step_key in gathered.values():
            for name, in_one_pass in of_step_key.items():
                moments = in_one_pass.result()
                if moments is not None:
                    by_name[name] = _together(name, by_name.get(name), moments)
        return {name: self._estimate(name, by_name, strategies[name].strategy) for name in wanted}

    def _play(
        self, env: StructuredEnv, gathered: Mapping[StepKey, Mapping[str, MomentsInOnePass]]
    ) -> None:
        policy = sampling_policy(self.policy, env)
        for step in sample_steps(env, self.n_samples, policy, self.seed):
            for name, moments in gathered[step.actor.step_key].items():
                try:
                    moments.add(step.observation[name])
                except KeyError:
                    raise _lacks(name, step.observation) from None

    def _estimate(
        self, name: str, by_name: Mapping[str, Moments], strategy: NormalizationStrategy
    ) -> Statistics:
        moments = by_name.get(name)
        if moments is None:
            raise ConfigError(
                f"there are no statistics of the observation '{name}': it did not occur in the"
                f" {self.n_samples} structured steps that were played to estimate them. Give"
                " statistics of it in 'manual_config', exclude it, raise 'n_samples', or choose a"
                " 'sampling_policy' that meets it."
            )
        if not (np.isfinite(moments.mean).all() and np.isfinite(moments.squares).all()):
            raise ContractError(
                f"the observation '{name}' held numbers that are not finite, or too large to be"
                " squared, in the steps that were played to estimate its statistics. Exclude it,"
                " or give its statistics in 'manual_config'."
            )
        return as_statistics(strategy.statistics(moments), name)


class _Normalizer:
    """Normalises one observation of one step key.

    Args:
        space: of the observation.
        strategy: how.
        statistics: of the observation.
    """

    def __init__(
        self, space: spaces.Box, strategy: NormalizationStrategy, statistics: Statistics
    ) -> None:
        self.space = space
        # Large integers are exact in float64 only, until the offset has been taken off.
        is_wide = space.dtype.itemsize > 2 and space.dtype.kind in "iu"
        self.dtype = np.dtype(np.float64 if space.dtype == np.float64 else np.float32)
        self._computed_in = np.dtype(np.float64) if is_wide else self.dtype
        offset, scale = strategy.offset_and_scale(statistics)
        with np.errstate(over="ignore", under="ignore"):
            self._offset = self._broadcast(offset)
            self._scale = self._broadcast(scale)
            if not np.isfinite(self._scale).all() or not (self._scale > 0).all():
                self._computed_in = np.dtype(np.float64)
                self._offset, self._scale = self._broadcast(offset), self._broadcast(scale)
        # Arrays, since numpy takes longer to convert a Python number than to compare.
        self._low, self._high = (
            None if bound is None else np.array(bound, self.dtype) for bound in strategy.clip_range
        )
        self._casts = self._computed_in != self.dtype
        self._is_scalar = not space.shape

    def _broadcast(self, array: NDArray[np.float64]) -> NDArray[Any]:
        # Of the full shape, and in one piece: then numpy has least to do in a step.
        return np.ascontiguousarray(
            np.broadcast_to(array, self.space.shape), dtype=self._computed_in
        ).reshape(self.space.shape)

    def __call__(self, value: Any) -> NDArray[Any]:
        """Return the normalised observation, a new array."""
        normalized: Any = np.subtract(value, self._offset, dtype=self._computed_in)
        if self._is_scalar:
            normalized = np.array(normalized)
        np.divide(normalized, self._scale, out=normalized)
        if self._casts:
            normalized = normalized.astype(self.dtype)
        # These keep what is not a number, which would hide the environment's fault as a bound.
        if self._low is not None:
            np.maximum(normalized, self._low, out=normalized)
        if self._high is not None:
            np.minimum(normalized, self._high, out=normalized)
        result: NDArray[Any] = normalized
        return result

    def normalized_space(self) -> spaces.Box:
        """Return the space of what is normalised: the bounds go the way of what they bound."""
        with np.errstate(over="ignore"):
            low, high = self(self.space.low), self(self.space.high)
        return spaces.Box(low, high, dtype=self.dtype.type)


def _entries(env: StructuredEnv, exclude: frozenset[str]) -> dict[StepKey, dict[str, spaces.Box]]:
    """Return the observations to normalise, by step key and name."""
    masks = {mask for heads in env.action_masks.values() for mask in heads.values()}
    return {
        step_key: {
            name: entry
            for name, entry in space.spaces.items()
            if isinstance(entry, spaces.Box)
            and entry.dtype.kind in "fiu"
            and name not in exclude
            and name not in masks
        }
        for step_key, space in env.observation_spaces.items()
    }


def _strategies(
    entries: Mapping[StepKey, Mapping[str, spaces.Box]],
    default_strategy: Any,
    default_config: Mapping[str, Any] | None,
    manual_config: Mapping[str, Mapping[str, Any]] | None,
    env: StructuredEnv,
) -> dict[str, _Strategy]:
    """Return how each observation is normalised, by its name."""
    default_config = _mapping(default_config, "default_strategy_config")
    default_class = strategy_class(default_strategy, "default_strategy")
    default: NormalizationStrategy = call(
        default_class, default_config, where="default_strategy_config"
    )
    names = list(dict.fromkeys(name for of_key in entries.values() for name in of_key))
    strategies = {name: _Strategy(default, True) for name in names}
    for name, manual in _mapping(manual_config, "manual_config").items():
        where = f"manual_config.{name}"
        if name not in strategies:
            raise _not_normalized(name, where, names, env)
        manual = _mapping(manual, where)
        for option in manual:
            if option not in _MANUAL_OPTIONS:
                raise ConfigError(
                    unknown_option(option, _MANUAL_OPTIONS, of="an observation", where=where)
                )
        chosen = manual.get("strategy")
        config = _mapping(manual.get("strategy_config"), f"{where}.strategy_config")
        own_class = default_class
        if chosen is not None:
            own_class = strategy_class(chosen, f"{where}.strategy")
        if own_class is default_class:
            config = {**default_config, **config}
        strategy: NormalizationStrategy = call(own_class, config, where=f"{where}.strategy_config")
        strategies[name] = _Strategy(strategy, own_class is default_class)
    return strategies


def _given_statistics(
    strategies: Mapping[str, _Strategy],
    default: Mapping[str, Any] | None,
    loaded: Mapping[str, Statistics] | None,
    manual_config: Mapping[str, Mapping[str, Any]],
) -> dict[str, Statistics]:
    """Return the statistics that need not be estimated, by the name of the observation."""
    given: dict[str, Statistics] = {}
    for name, (_, is_default) in strategies.items():
        manual = (manual_config.get(name) or {}).get("statistics")
        if manual is not None:
            given[name] = as_statistics(manual, name)
        elif loaded is not None:
            if name not in loaded:
                raise ConfigError(
                    f"'statistics' has none of the observation '{name}'. It has those of:"
                    f" {', '.join(loaded) or 'nothing'}. Exclude '{name}', or give its statistics"
                    " in 'manual_config'."
                )
            given[name] = loaded[name]
        elif default is not None and is_default:
            given[name] = as_statistics(default, name)
    return given


def _loaded(statistics: Any) -> ObservationStatistics | None:
    if statistics is None or isinstance(statistics, ObservationStatistics):
        return statistics
    if isinstance(statistics, str | Path):
        return ObservationStatistics.load(statistics)
    return ObservationStatistics(_mapping(statistics, "statistics"))


def _normalizer(
    name: str, space: spaces.Box, strategy: NormalizationStrategy, statistics: Statistics
) -> _Normalizer:
    expected = strategy.statistic_names
    if set(statistics) != set(expected):
        raise ConfigError(
            f"{type(strategy).__name__} needs the statistics {', '.join(expected)} of the"
            f" observation '{name}', got: {', '.join(statistics) or 'none'}."
        )
    for key, array in statistics.items():
        try:
            fits = np.broadcast_shapes(array.shape, space.shape) == space.shape
        except ValueError:
            fits = False
        if not fits:
            raise ConfigError(
                f"'{key}' of the statistics of the observation '{name}' has shape {array.shape},"
                f" which does not fit to the observation's shape {space.shape}. Are they those of"
                " another environment, or of other wrappers?"
            )
    try:
        return _Normalizer(space, strategy, statistics)
    except ConfigError as error:
        raise ConfigError(f"statistics of the observation '{name}': {error}") from error


def _normalized_space(space: spaces.Dict, normalizers: Mapping[str, _Normalizer]) -> spaces.Dict:
    return spaces.Dict(
        {
            name: normalizers[name].normalized_space() if name in normalizers else entry
            for name, entry in space.spaces.items()
        }
    )


def _axes(name: str, space: spaces.Box, strategy: NormalizationStrategy) -> tuple[int, ...] | None:
    try:
        return strategy.axes_of(space.shape)
    except ConfigError as error:
        raise ConfigError(
            f"observation '{name}': {error} Give it another 'axis' in 'manual_config', or exclude"
            " it."
        ) from error


def _together(name: str, one: Moments | None, other: Moments) -> Moments:
    if one is None:
        return other
    if one.mean.shape != other.mean.shape:
        raise ConfigError(
            f"step keys that have the observation '{name}' share its statistics, but in one they"
            f" have shape {one.mean.shape}, in another {other.mean.shape}. Use 'axis: null' for it"
            " in 'manual_config', exclude it, or rename one of them."
        )
    return one.merged(other)


def _checked_names(exclude: Any) -> frozenset[str]:
    if exclude is None:
        return frozenset()
    if isinstance(exclude, str) or not isinstance(exclude, Iterable):
        raise ConfigError(f"'exclude' has to be a list of observations, got {exclude!r}.")
    return frozenset(exclude)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"'{where}' has to be a mapping, got {value!r}.")
    return dict(value)


def _not_normalized(name: str, where: str, names: Sequence[str], env: StructuredEnv) -> ConfigError:
    found = [s[name] for s in (d.spaces for d in env.observation_spaces.values()) if name in s]
    if found:
        return ConfigError(
            f"'{where}' is about an observation that is not normalised: it is excluded, an action"
            f" mask, or no Box of numbers (it is {found[0]})."
        )
    return ConfigError(
        f"'{where}' is about an observation that does not exist.{did_you_mean(name, names)} There"
        f" are: {', '.join(names) or 'none to normalise'}."
    )


def _lacks(name: str, observation: Observation) -> ContractError:
    return ContractError(
        f"the observation has no '{name}', which is in its space and is to be normalised. It has:"
        f" {', '.join(map(str, observation))}."
    )


def _bad_observation(name: str, observation: Observation, normalizer: _Normalizer) -> ContractError:
    if name not in observation:
        return _lacks(name, observation)
    value = observation[name]
    return SpaceError(
        f"the observation '{name}' cannot be normalised: it is not in its space"
        f" {normalizer.space}, but of shape {np.shape(value)} and type {type(value).__name__}."
    )
