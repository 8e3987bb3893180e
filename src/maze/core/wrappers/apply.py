"""Stacks of wrappers from configs.

Wrappers are written down as dotted class paths with their arguments, the first one innermost, for
the command line as well as for Python. Maze's own wrappers go on top of the environment;
Gymnasium's are put underneath, between the Gymnasium environment and Maze.

    {"gymnasium.wrappers.FlattenObservation": {},
     "maze.core.wrappers.reward_scaling_wrapper.RewardScalingWrapper": {"scale": 0.1}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym

from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError
from maze.core.factory import TARGET, resolve
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.wrapper import Wrapper, wrap

WrapperName: TypeAlias = str | type[Any]
"""A class, or its dotted path."""

# More exact types would refuse literals: a mapping of classes alone is no mapping of paths or
# classes, as mappings do not vary in their keys.
WrappersConfig: TypeAlias = Mapping[Any, Any] | Sequence[Any]
"""Wrappers in order, the first one innermost; see ``apply_wrappers``."""

_WHERE = "wrappers"


def apply_wrappers(env: StructuredEnv, wrappers: WrappersConfig | None) -> StructuredEnv:
    """Put wrappers around an environment.

    Args:
        env: what is wrapped; it may have wrappers already.
        wrappers: a mapping from class or dotted path to arguments, or, where a class is needed
            twice, a sequence whose entries are classes, dotted paths, mappings of one class or
            path to its arguments, or mappings with ``_target_``. The first is innermost. ``None``
            and empty ones change nothing.

    Returns:
        The outermost wrapper. A Gymnasium wrapper makes a new ``GymMazeEnv`` around the same
        Gymnasium environment.

    Raises:
        ConfigError: If an entry is no wrapper or has wrong arguments, or if a Gymnasium wrapper
            comes after one of Maze's or is meant for an environment that is not Gymnasium's.
    """
    for name, arguments in wrapper_entries(wrappers):
        wrapper_class = resolve(name, _WHERE) if isinstance(name, str) else name
        title = getattr(wrapper_class, "__name__", repr(wrapper_class))
        where = f"{_WHERE}.{title}"
        if isinstance(wrapper_class, type) and issubclass(wrapper_class, Wrapper):
            env = wrap(wrapper_class, env, arguments, where)
        elif isinstance(wrapper_class, type) and issubclass(wrapper_class, gym.Wrapper):
            env = _underneath(env, wrapper_class, title).with_gymnasium_wrapper(
                wrapper_class, arguments, where
            )
        else:
            raise ConfigError(
                f"'{name}' in '{_WHERE}' is no wrapper class: it has to be a subclass of"
                " maze.core.wrappers.wrapper.Wrapper or of gymnasium.Wrapper."
            )
    return env


def _underneath(
    env: StructuredEnv, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], title: str
) -> GymMazeEnv:
    """Return the environment if Gymnasium wrappers can be put into it."""
    if isinstance(env, GymMazeEnv):
        return env
    if isinstance(env, Wrapper):
        raise ConfigError(
            f"{title} is a Gymnasium wrapper and comes after {type(env).__name__}. Gymnasium"
            " wrappers act on the environment underneath Maze: list them first."
        )
    raise ConfigError(
        f"{title} is a Gymnasium wrapper, which acts on a Gymnasium environment, but"
        f" {type(env).__name__} is a structured environment of its own. Use one of Maze's wrappers."
    )


def wrapper_entries(
    wrappers: WrappersConfig | None,
) -> Iterator[tuple[WrapperName, Mapping[str, Any]]]:
    """Yield each wrapper of a config with its arguments, the innermost first.

    Raises:
        ConfigError: If an entry is of another form than ``apply_wrappers`` takes.
    """
    if wrappers is None:
        return
    if isinstance(wrappers, Mapping):
        for name, arguments in wrappers.items():
            yield name, _checked(name, arguments)
        return
    if isinstance(wrappers, str) or not isinstance(wrappers, Sequence):
        raise ConfigError(
            f"'{_WHERE}' has to be a mapping from class paths to arguments, or a sequence of them,"
            f" got {wrappers!r}."
        )
    for index, entry in enumerate(wrappers):
        if not isinstance(entry, Mapping):
            yield entry, {}
        elif TARGET in entry:
            yield entry[TARGET], {key: entry[key] for key in entry if key != TARGET}
        elif len(entry) == 1:
            name, arguments = next(iter(entry.items()))
            yield name, _checked(name, arguments)
        else:
            raise ConfigError(
                f"'{_WHERE}[{index}]' has to be one class path with its arguments, got"
                f" {len(entry)} entries: {', '.join(map(str, entry))}. Are the arguments indented"
                " below the path?"
            )


def _checked(name: object, arguments: object) -> Mapping[str, Any]:
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise ConfigError(
            f"the arguments of '{name}' in '{_WHERE}' have to be a mapping, got {arguments!r}."
        )
    return arguments
