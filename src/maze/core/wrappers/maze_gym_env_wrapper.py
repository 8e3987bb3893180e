"""Gymnasium environments as structured environments.

This is where Maze and Gymnasium meet, and it is in the path of every step, so it adds as little as
it can: of an environment made here from an id, the layers that only check or count are taken off,
and the step calls the environment itself.

    gymnasium.make        TimeLimit -> OrderEnforcing -> PassiveEnvChecker -> CartPoleEnv
    GymMazeEnv("...")     GymMazeEnv -> CartPoleEnv
"""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator

from maze.core.env.structured_env import Action, ActorID, Observation, StepKey, StructuredEnv
from maze.core.errors import ConfigError, ContractError, MissingExtraError
from maze.core.wrappers.wrapper import StepResult, wrap

NO_LIMIT = 2**63 - 1
"""Stands for the number of steps after which an environment without limit is truncated."""

_ACTOR = ActorID(0, 0)


class GymMazeEnv(StructuredEnv):
    """A Gymnasium environment with one actor, step key 0.

    A plain space becomes a dictionary with one entry, ``{"observation": ...}`` or
    ``{"action": ...}``; a ``Dict`` space is passed through as it is. The values, their dtypes and
    the objects themselves are not touched.

    Args:
        env: the id of a registered environment (``CartPole-v1``, ``ALE/Pong-v5``,
            ``my_package:Mine-v0``), or a Gymnasium environment, whose layers are left as they are.
        render_mode: with an id, one of the environment's ``metadata["render_modes"]``.
        kwargs: with an id, arguments for ``gymnasium.make`` and the environment's constructor.
        reset_options: given to each ``reset``; options of the call itself go first.
        action_masks: which observations are masks of which action heads, for an environment with
            a dictionary of observations, such as ``{"action": "action_mask"}``; see
            ``StructuredEnv.action_masks``.

    Raises:
        ConfigError: If there is no such environment, or it does not take these arguments.
        MissingExtraError: If it needs a package that is not installed.
        ContractError: If it is no Gymnasium environment; from ``reset`` and ``step``, if they do
            not return what Gymnasium's do.
    """

    gym_env: gym.Env[Any, Any]
    """The environment inside, without the layers that were taken off."""

    def __init__(
        self,
        env: str | gym.Env[Any, Any],
        render_mode: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        reset_options: Mapping[str, Any] | None = None,
        action_masks: Mapping[str, str] | None = None,
    ) -> None:
        masks: Mapping[StepKey, Mapping[str, str]] = {}
        if action_masks:
            masks = {0: dict(action_masks)}
        if isinstance(env, str):
            arguments = dict(kwargs or {})
            mode = arguments.pop("render_mode", None) if render_mode is None else render_mode
            recipe = Recipe(env, mode, arguments)
            self._set_up(recipe.make(), recipe, reset_options, masks)
        elif not isinstance(env, gym.Env):
            raise ConfigError(
                "GymMazeEnv takes the id of an environment or a gymnasium.Env, got"
                f" {type(env).__module__}.{type(env).__qualname__}. An environment of the old gym"
                " package becomes a gymnasium.Env with the package shimmy."
            )
        elif render_mode is not None or kwargs:
            raise ConfigError(
                "'render_mode' and 'kwargs' are for an environment that is made from its id."
                f" Give them to {type(env).__name__} when it is constructed, or pass the id."
            )
        else:
            self._set_up(env, None, reset_options, masks)

    def _set_up(
        self,
        layered_env: gym.Env[Any, Any],
        recipe: Recipe | None,
        reset_options: Mapping[str, Any] | None,
        action_masks: Mapping[StepKey, Mapping[str, str]],
    ) -> None:
        self._layered_env = layered_env
        self.action_masks = action_masks
        self._recipe = recipe
        self._reset_options = dict(reset_options or {})
        self.gym_env, limit = _peeled(layered_env) if recipe else (layered_env, NO_LIMIT)
        observation_space = _space(layered_env, "observation_space")
        action_space = _space(layered_env, "action_space")
        if type(action_space) is QuickDiscrete:
            action_space = spaces.Discrete(action_space.n, start=action_space.start)
        if recipe:
            _check_actions_quickly(layered_env.unwrapped)
        self.observation_spaces = {0: _as_dict(observation_space, "observation")}
        self.action_spaces = {0: _as_dict(action_space, "action")}
        self.agent_counts = {0: 1}
        self.events = []
        self.metadata = layered_env.metadata
        self.render_mode = layered_env.render_mode
        self.spec = layered_env.spec
        self._wraps_observation = not isinstance(observation_space, spaces.Dict)
        self._steps = _steps(
            self.gym_env,
            limit,
            self._wraps_observation,
            wraps_action=not isinstance(action_space, spaces.Dict),
            needs_reset=self.gym_env is not layered_env,
        )
        if type(self).step is GymMazeEnv.step:
            # The bare function is found a little sooner than a method that calls it.
            self.step = self._steps.step  # type: ignore[method-assign, assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see ``StructuredEnv.reset``."""
        if self._reset_options:
            options = {**self._reset_options, **(options or {})}
        try:
            result: Any = self.gym_env.reset(seed=seed, options=options)
        except TypeError:
            _check_takes_seed_and_options(self.gym_env)
            raise
        try:
            observation, info = result
        except (TypeError, ValueError):
            _raise_bad_reset(self.gym_env, result)
        # An observation of two numbers, as old environments return it, unpacks as well.
        if not isinstance(info, dict):
            _raise_bad_reset(self.gym_env, result)
        self._steps.restart(0)
        return ({"observation": observation} if self._wraps_observation else observation), info

    def step(self, action: Action) -> StepResult:
        """Play an action; see ``StructuredEnv.step``."""
        return self._steps.step(action)

    def actor_id(self) -> ActorID:
        """Return the only actor, ``(0, 0)``."""
        return _ACTOR

    def env_time(self) -> int:
        """Return the number of steps since the reset."""
        return self._steps.elapsed()

    def render(self) -> Any:
        """Return or show a picture of the state, as the render mode says.

        Raises:
            MissingExtraError: If it needs a package that is not installed.
        """
        try:
            return self.gym_env.render()
        except gym.error.DependencyNotInstalled as error:
            _raise_missing(self.spec.id if self.spec else type(self.gym_env).__name__, error)

    def close(self) -> None:
        """Close the environment inside."""
        self._layered_env.close()

    def with_render_mode(self, render_mode: str | None) -> GymMazeEnv:
        """Return a new environment made in the same way but for the render mode.

        Args:
            render_mode: one of ``metadata["render_modes"]``; ``None`` for no rendering.

        Raises:
            ConfigError: If this one was not made from an id, or does not have that render mode.
        """
        if self._recipe is None:
            raise ConfigError(
                f"this {type(self._layered_env).__name__} was not made from an id, so it cannot be"
                f" made again with render mode {render_mode!r}. Let its constructor take"
                f" render_mode=None, or make it with render_mode={render_mode!r}."
            )
        recipe = replace(self._recipe, render_mode=render_mode)
        return self._another(recipe.make(), recipe)

    def with_gymnasium_wrapper(
        self,
        wrapper_class: Callable[..., gym.Env[Any, Any]],
        kwargs: Mapping[str, Any] | None = None,
        where: str = "",
    ) -> GymMazeEnv:
        """Return a new ``GymMazeEnv`` around this one's environment in a Gymnasium wrapper.

        The wrapper is put around all of Gymnasium's layers, those that were taken off included:
        wrappers that skip steps or act at the end of an episode count on them.

        Args:
            wrapper_class: called as ``wrapper_class(env, **kwargs)``.
            kwargs: its arguments.
            where: their place in the config, for messages.

        Raises:
            ConfigError: If it does not take these arguments.
        """
        arguments = dict(kwargs or {})
        wrapped = wrap(wrapper_class, self._layered_env, arguments, where)
        recipe = self._recipe and replace(
            self._recipe, wrappers=(*self._recipe.wrappers, (wrapper_class, arguments))
        )
        return self._another(wrapped, recipe)

    def _another(self, layered_env: gym.Env[Any, Any], recipe: Recipe | None) -> GymMazeEnv:
        return _from_made(type(self), layered_env, recipe, *self._options())

    def __reduce__(self) -> tuple[Any, ...]:
        if self._recipe is None:
            return _from_made, (type(self), self._layered_env, None, *self._options())
        return _from_recipe, (type(self), self._recipe.carrying_spec(), *self._options())

    def _options(self) -> tuple[Any, ...]:
        return self._reset_options, self.action_masks

    def __deepcopy__(self, memo: dict[int, Any]) -> GymMazeEnv:
        # Not by way of the recipe: a copy goes on from the current state.
        copied = self._another(copy.deepcopy(self._layered_env, memo), self._recipe)
        copied.events.extend(self.events)
        memo[id(self)] = copied
        memo[id(self.events)] = copied.events
        copied._steps.restart(self._steps.elapsed())
        return copied


def make_gym_maze_env(
    name: str,
    render_mode: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    reset_options: Mapping[str, Any] | None = None,
    action_masks: Mapping[str, str] | None = None,
) -> GymMazeEnv:
    """Make a Gymnasium environment from its id, for configs; see ``GymMazeEnv``."""
    if not isinstance(name, str):
        raise ConfigError(f"'name' has to be the id of an environment, got {name!r}.")
    return GymMazeEnv(name, render_mode, kwargs, reset_options, action_masks)


class Steps(NamedTuple):
    """The functions through which a ``GymMazeEnv`` steps; they share a counter."""

    step: Callable[[Action], StepResult]
    restart: Callable[[int], None]
    """Sets the number of steps since the reset."""
    elapsed: Callable[[], int]
    """The number of steps since the reset."""


def _steps(
    env: gym.Env[Any, Any],
    limit: int,
    wraps_observation: bool,
    wraps_action: bool,
    needs_reset: bool,
) -> Steps:
    # Closures, chosen once: a step then has no attribute to look up and no case to distinguish.
    inner_step: Callable[[Any], Any] = _reset_is_needed if needs_reset else env.step
    elapsed = 0

    def plain_step(action: Action) -> StepResult:
        nonlocal elapsed
        try:
            plain_action = action["action"]
        except (KeyError, TypeError, IndexError):
            _raise_bad_action(action)
        result = inner_step(plain_action)
        try:
            observation, reward, terminated, truncated, info = result
        except (TypeError, ValueError):
            _raise_bad_step(env, result)
        elapsed += 1
        if elapsed >= limit:
            truncated = True
        return {"observation": observation}, reward, terminated, truncated, info

    def general_step(action: Action) -> StepResult:
        nonlocal elapsed
        if wraps_action:
            try:
                action = action["action"]
            except (KeyError, TypeError, IndexError):
                _raise_bad_action(action)
        result = inner_step(action)
        try:
            observation, reward, terminated, truncated, info = result
        except (TypeError, ValueError):
            _raise_bad_step(env, result)
        if wraps_observation:
            observation = {"observation": observation}
        elapsed += 1
        if elapsed >= limit:
            truncated = True
        return observation, reward, terminated, truncated, info

    def restart(n_steps: int) -> None:
        nonlocal elapsed, inner_step
        elapsed = n_steps
        inner_step = env.step

    step = plain_step if wraps_observation and wraps_action else general_step
    return Steps(step, restart, lambda: elapsed)


def _peeled(env: gym.Env[Any, Any]) -> tuple[gym.Env[Any, Any], int]:
    """Take off the layers whose work is done here; return the rest and the limit on steps."""
    limit = NO_LIMIT
    if type(env) is gym.wrappers.TimeLimit:
        if env.spec is None or env.spec.max_episode_steps is None:
            return env, NO_LIMIT
        limit = env.spec.max_episode_steps
        env = env.env
    if type(env) is gym.wrappers.OrderEnforcing:
        env = env.env
    return env, limit


class QuickDiscrete(spaces.Discrete[Any]):
    """A ``Discrete`` that answers sooner whether it contains an integer.

    Gymnasium's environments ask that in each step, and the general answer, for all that could be
    an integer of whatever dtype, takes longer than a step of a small environment.
    """

    def contains(self, x: Any) -> bool:
        """Return whether ``x`` is a member; the same as of any ``Discrete``."""
        if type(x) is int or type(x) is np.int64:
            return bool(self.start <= x < self.start + self.n)
        return super().contains(x)


def _check_actions_quickly(env: gym.Env[Any, Any]) -> None:
    """Give a new environment of ours a quicker action space, equal to the one it has."""
    space: Any = env.action_space
    if type(space) is spaces.Discrete and space.dtype == np.int64:
        quick: Any = QuickDiscrete(int(space.n), start=int(space.start))
        # Python's integers compare sooner than numpy's.
        quick.n, quick.start = int(space.n), int(space.start)
        env.action_space = quick


def _as_dict(space: spaces.Space[Any], key: str) -> spaces.Dict:
    return space if isinstance(space, spaces.Dict) else spaces.Dict({key: space})


def _space(env: gym.Env[Any, Any], name: str) -> spaces.Space[Any]:
    space = getattr(env, name, None)
    if not isinstance(space, spaces.Space):
        raise ContractError(
            f"'{name}' of {type(env.unwrapped).__name__} has to be a gymnasium.spaces.Space, got"
            f" {space!r}. Set it in the environment's constructor."
        )
    return space


@dataclass(frozen=True)
class Recipe:
    """How an environment was made from its id, so that it can be made again anywhere."""

    name: str
    """The id, possibly with the module that registers it in front."""
    render_mode: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """For ``gymnasium.make``."""
    wrappers: tuple[tuple[Callable[..., gym.Env[Any, Any]], Mapping[str, Any]], ...] = ()
    """Gymnasium wrappers with their arguments, the first one innermost."""
    spec: EnvSpec | None = None
    """What the id stands for, if it might not be registered where the recipe is used."""

    def make(self) -> gym.Env[Any, Any]:
        """Make the environment, with all its layers."""
        env = _make(self)
        for wrapper_class, arguments in self.wrappers:
            env = wrapper_class(env, **arguments)
        return env

    def carrying_spec(self) -> Recipe:
        """Return the recipe with the spec of an id that is not Gymnasium's own."""
        spec = self.spec or gym.registry.get(self.name)
        if spec is None or str(spec.entry_point).startswith("gymnasium."):
            return self
        return replace(self, spec=spec)


def _from_recipe(env_class: type[GymMazeEnv], recipe: Recipe, *options: Any) -> GymMazeEnv:
    return _from_made(env_class, recipe.make(), recipe, *options)


def _from_made(
    env_class: type[GymMazeEnv], gym_env: gym.Env[Any, Any], recipe: Recipe | None, *options: Any
) -> GymMazeEnv:
    env = object.__new__(env_class)
    env._set_up(gym_env, recipe, *options)
    return env


def _make(recipe: Recipe) -> gym.Env[Any, Any]:
    name, arguments = recipe.name, {"disable_env_checker": True, **recipe.kwargs}
    _register_atari(name)
    module = name.partition(":")[0] if ":" in name else None
    try:
        with warnings.catch_warnings():
            # That a newer version of the id exists is no news to somebody who names a version.
            warnings.simplefilter("ignore", DeprecationWarning)
            if module is not None:
                importlib.import_module(module)
            id_or_spec = name if recipe.spec is None or name in gym.registry else recipe.spec
            if recipe.render_mode is not None:
                _check_render_mode(name, recipe.render_mode, _metadata_of_creator(name))
                arguments["render_mode"] = recipe.render_mode
            env: gym.Env[Any, Any] = gym.make(id_or_spec, **arguments)
    except gym.error.UnregisteredEnv as error:
        raise ConfigError(_unknown_id(name)) from error
    except gym.error.DeprecatedEnv as error:
        raise ConfigError(f"'{name}' is out of date. {error}{_versions(name)}") from error
    except gym.error.DependencyNotInstalled as error:
        _raise_missing(name, error)
    except ImportError as error:
        if error.name in _EXTRAS:
            raise MissingExtraError(
                f"{error.name}, which '{name}' needs,", _EXTRAS[error.name]
            ) from error
        raise ConfigError(f"'{name}' cannot be made: {error}") from error
    except gym.error.Error as error:
        raise ConfigError(f"'{name}' cannot be made: {error}") from error
    except TypeError as error:
        cause = error.__cause__ or error  # without the text that Gymnasium adds
        if "argument" not in str(cause):
            raise  # a fault inside of the environment
        raise ConfigError(
            f"'{name}' cannot be made with {_shown(recipe)}: {cause}. Give arguments of its"
            " constructor in 'kwargs'."
        ) from error
    if recipe.render_mode is not None:
        _check_render_mode(name, recipe.render_mode, env.unwrapped.metadata)
    return env


_EXTRAS = {"Box2D": "box2d", "mujoco": "mujoco", "pygame": "render", "ale_py": "atari"}
"""The extra that installs a module."""

_EXTRAS_IN_MESSAGES = {
    "box2d": "box2d",
    "mujoco": "mujoco",
    "pygame": "render",
    "classic_control": "render",
    "classic-control": "render",
    "toy_text": "render",
    "toy-text": "render",
}
"""The extra for what Gymnasium's messages about missing packages name."""


def _raise_missing(name: str, error: gym.error.DependencyNotInstalled) -> NoReturn:
    message = str(error)
    for word, extra in _EXTRAS_IN_MESSAGES.items():
        if word in message.lower():
            package = message.split(maxsplit=1)[0]
            raise MissingExtraError(f"{package}, which '{name}' needs,", extra) from error
    raise ConfigError(f"'{name}' needs a package that is not installed: {message}") from error


def _register_atari(name: str) -> None:
    if name in gym.registry or not re.match(r"ALE/|\w+(NoFrameskip|Deterministic)-v\d+$", name):
        return
    try:
        ale_py = importlib.import_module("ale_py")
    except ImportError as error:
        raise MissingExtraError(f"ale-py, which '{name}' needs,", "atari") from error
    gym.register_envs(ale_py)


def _metadata_of_creator(name: str) -> Mapping[str, Any]:
    """Return the metadata of a registered environment without making it; empty if unknown."""
    spec = gym.registry.get(name.rpartition(":")[2])
    if spec is None or spec.entry_point is None:
        return {}
    creator: Any = spec.entry_point
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    metadata = getattr(creator, "metadata", None)
    return metadata if isinstance(metadata, Mapping) else {}


def _check_render_mode(name: str, render_mode: str, metadata: Mapping[str, Any]) -> None:
    modes = metadata.get("render_modes")
    if modes is None or render_mode in modes:
        return
    # Gymnasium adds these two by wrappers of its own.
    if render_mode == "human" and {"rgb_array", "rgb_array_list"} & set(modes):
        return
    if render_mode.removesuffix("_list") in modes:
        return
    listed = ", ".join(map(repr, modes)) or "none"
    raise ConfigError(f"'{name}' has no render mode {render_mode!r}. It has: {listed}.")


def _unknown_id(name: str) -> str:
    versions = _versions(name)
    if versions:
        return f"there is no environment '{name}'.{versions}"
    by_lower_case = {registered.lower(): registered for registered in gym.registry}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr(by_lower_case[key]) for key in near)}?" if near else ""
    return (
        f"there is no environment '{name}'.{hint} An environment that a package of its own"
        " registers is named with the module to import: 'module:Name-v0'."
    )


def _versions(name: str) -> str:
    """Return a sentence with the registered versions of the id, empty if there are none."""
    base = re.sub(r"-v\d+$", "", name.rpartition(":")[2]).lower()
    versions = [known for known in gym.registry if re.sub(r"-v\d+$", "", known).lower() == base]
    return f" These versions exist: {', '.join(sorted(versions))}." if versions else ""


def _shown(recipe: Recipe) -> str:
    arguments = dict(recipe.kwargs)
    if recipe.render_mode is not None:
        arguments["render_mode"] = recipe.render_mode
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no arguments"


def _reset_is_needed(action: Any) -> NoReturn:
    raise gym.error.ResetNeeded("step() was called before reset(): reset the environment first")


def _raise_bad_action(action: object) -> NoReturn:
    found = f"keys {list(action)}" if isinstance(action, Mapping) else type(action).__name__
    raise ContractError(
        f"an action for this environment has to be a dictionary {{'action': ...}}, got {found}."
        " Actions are dictionaries over the heads of the action space."
    ) from None


def _raise_bad_step(env: gym.Env[Any, Any], result: object) -> NoReturn:
    raise ContractError(
        f"step() of {type(env.unwrapped).__name__} returned {_found(result)}. It has to return five"
        " values: observation, reward, terminated, truncated, info. An environment with the four"
        " values of the old gym returns one flag 'done': return both flags instead, or convert it"
        " with the package shimmy (gymnasium's EnvCompatibility)."
    ) from None


def _raise_bad_reset(env: gym.Env[Any, Any], result: object) -> NoReturn:
    raise ContractError(
        f"reset() of {type(env.unwrapped).__name__} returned {_found(result)}. It has to return two"
        " values: observation and info, a dictionary. An environment of the old gym returns the"
        " observation alone: return an empty info too, or convert it with the package shimmy"
        " (gymnasium's EnvCompatibility)."
    ) from None


def _check_takes_seed_and_options(env: gym.Env[Any, Any]) -> None:
    """Raise if that is why a reset failed."""
    try:
        inspect.signature(env.unwrapped.reset).bind(seed=None, options=None)
    except TypeError as error:
        raise ContractError(
            f"reset() of {type(env.unwrapped).__name__} has to take the keywords 'seed' and"
            f" 'options', as in reset(self, *, seed=None, options=None): {error}."
        ) from None


def _found(result: object) -> str:
    if isinstance(result, tuple | list):
        kinds = ", ".join(type(value).__name__ for value in result)
        return f"{len(result)} values ({kinds})"
    return f"a single {type(result).__name__}"
