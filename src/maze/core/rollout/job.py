"""The recipe of a rollout: all that a process needs in order to play episodes.

Environment and policy may be given in many ways (a config, an object, an id, a callable). Here
they become objects, always where they are used: a worker builds its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from maze.core.agent.policy import FlatPolicy, StructuredPolicy
from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError, MazeError
from maze.core.factory import TARGET, Factory, resolve
from maze.core.rollout.checks import CheckOptions
from maze.core.rollout.encoding import EncoderOptions
from maze.core.rollout.play import PlayOptions

EnvSource: TypeAlias = "str | Mapping[str, Any] | gym.Env[Any, Any] | Callable[[], Any]"
"""A Gymnasium id, a config with ``_target_``, an environment, or a function that makes one."""

PolicySource: TypeAlias = (
    "str | Mapping[str, Any] | StructuredPolicy | FlatPolicy | Callable[..., Any] | None"
)
"""``None`` or ``"random"``, a dotted path, a config with ``_target_``, a policy, a policy class,
or a function from observation to action."""

WrapperSource: TypeAlias = "Mapping[Any, Any] | Sequence[Any] | None"
"""Dotted path or class to arguments, the first being the innermost; or a list of such."""


class EnvRecipe:
    """Makes the environments of a job.

    An environment that was given as an object is used itself the first time, in the process it
    was given in. Further ones, and those of other processes, are copies of what it was when the
    recipe was made.
    """

    def __init__(self, source: EnvSource, wrappers: WrapperSource = None) -> None:
        self._wrappers = wrappers
        self._given: Any = None
        self._snapshot: bytes | None = None
        self._why_not = ""
        self._render_mode: str | None = None
        self._source: Any = source
        if isinstance(source, gym.Env):
            self._given, self._source = source, None
            try:
                self._snapshot = cloudpickle.dumps(source)
            except Exception as error:
                self._why_not = f"{type(error).__name__}: {error}"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the given object out: other processes get copies."""
        if self._given is not None and self._snapshot is None:
            raise self._cannot_copy()
        return {**self.__dict__, "_given": None, "_registered": self._specs_of_ids()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Register what was registered in the process that the recipe comes from."""
        for spec in state.pop("_registered"):
            gym.registry.setdefault(spec.id, spec)
        self.__dict__.update(state)

    def build(self) -> StructuredEnv:
        """Make an environment with its wrappers."""
        return self._wrap(self._make())

    def take_given(self) -> StructuredEnv | None:
        """Return the environment that was given as an object, once; then ``None``."""
        given, self._given = self._given, None
        return None if given is None else self._wrap(given)

    def rendering(self, render_mode: str) -> EnvRecipe:
        """Return a recipe for environments with that render mode, unless they have their own.

        Where a class or a function makes them, it gets ``render_mode`` if it takes that.
        """
        recipe = object.__new__(EnvRecipe)
        recipe.__dict__.update(self.__dict__, _render_mode=render_mode)
        return recipe

    def _specs_of_ids(self) -> list[EnvSpec]:
        """Return the entries in Gymnasium's registry that other processes might not have."""
        source = self._source
        texts = source.values() if isinstance(source, Mapping) else (source,)
        specs = (gym.registry.get(text) for text in texts if isinstance(text, str))
        return [
            spec
            for spec in specs
            if spec is not None and not str(spec.entry_point).startswith("gymnasium.")
        ]

    def _make(self) -> Any:
        if self._source is None:
            if self._snapshot is None:
                raise self._cannot_copy()
            # Ours: made of the object that the user gave, here or in the process above this one.
            return cloudpickle.loads(self._snapshot)
        source = self._source
        if isinstance(source, str):
            return source
        if isinstance(source, Mapping):
            if source.get("render_mode") is None and self._offers_render_mode(source.get(TARGET)):
                source = {**source, "render_mode": self._render_mode}
            return Factory(gym.Env, where="env").build(source)
        if callable(source):
            if self._offers_render_mode(source):
                return source(render_mode=self._render_mode)
            return source()
        raise ConfigError(
            f"env is {source!r} ({type(source).__name__}), expected a Gymnasium id, a config with"
            " _target_, an environment, or a function that makes one"
        )

    def _offers_render_mode(self, maker: Any) -> bool:
        """Return whether a class or function is to be called with the render mode."""
        if self._render_mode is None or maker is None:
            return False
        try:
            maker = resolve(maker, "env") if isinstance(maker, str) else maker
            parameter = inspect.signature(maker).parameters.get("render_mode")
        except (TypeError, ValueError):
            return False
        # Any other default is a choice.
        return parameter is not None and parameter.default is None

    def _wrap(self, env: Any) -> StructuredEnv:
        from maze.core.wrappers.apply import apply_wrappers
        from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv

        if isinstance(env, str) or (
            isinstance(env, gym.Env) and not isinstance(env, StructuredEnv)
        ):
            env = GymMazeEnv(env)
        if not isinstance(env, StructuredEnv):
            raise ConfigError(
                f"the function given as env made {env!r} ({type(env).__name__}), expected an"
                " environment"
            )
        if self._render_mode is not None and env.render_mode is None:
            env = env.with_render_mode(self._render_mode)
        return apply_wrappers(env, self._wrappers)

    def _cannot_copy(self) -> ConfigError:
        return ConfigError(
            "the environment was given as an object and cannot be copied into another process or"
            f" lane ({self._why_not}). Give a function that makes it instead, for instance"
            " env=lambda: MyEnv(...), or a config with _target_"
        )


def build_policy(source: PolicySource, env: StructuredEnv) -> StructuredPolicy:
    """Make the policy for an environment."""
    offers = {
        "action_spaces": env.action_spaces,
        "observation_spaces": env.observation_spaces,
        "agent_counts": env.agent_counts,
        "action_masks": env.action_masks,
    }
    if source is None or source == "random":
        from maze.core.agent.random_policy import RandomPolicy

        return RandomPolicy(env.action_spaces)
    if isinstance(source, str):
        source = resolve(source)
    if isinstance(source, type):
        source = {"_target_": source}
    if isinstance(source, Mapping):
        built: Any = Factory(object, where="policy").build(source, **offers)
        if isinstance(built, type | Mapping):
            raise ConfigError(f"the policy config makes {built!r}, expected a policy")
        return build_policy(built, env)
    if isinstance(source, StructuredPolicy):
        return source
    if isinstance(source, FlatPolicy):
        from maze.core.agent.flat_policies import FlatPolicies

        if len(env.action_spaces) != 1:
            raise ConfigError(
                f"{type(source).__name__} is a FlatPolicy, which decides for one step key, but the"
                f" environment has {list(env.action_spaces)}. Give one for each:"
                " FlatPolicies({step_key: policy, ...})"
            )
        return FlatPolicies({next(iter(env.action_spaces)): source})
    if callable(source):
        from maze.core.agent.callable_policy import CallablePolicy

        return CallablePolicy(source, env.observation_spaces, env.action_spaces)
    raise ConfigError(
        f"policy is {source!r} ({type(source).__name__}), expected a StructuredPolicy, a"
        " FlatPolicy, a config with _target_, or a function from observation to action"
    )


@dataclass(frozen=True)
class Job:
    """All that a process needs in order to play episodes. Can be sent to another process."""

    env: EnvRecipe
    policy: PolicySource = None
    play: PlayOptions = field(default_factory=PlayOptions)
    checks: CheckOptions = field(default_factory=CheckOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    deterministic: bool = True
    n_lanes: int = 1
    """Episodes that one process plays side by side."""
    directory: Path | None = None
    """The output directory, if there is one."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that describe the run in each trajectory file."""

    def needs_torch(self) -> bool:
        """Return whether the policy is one of those that are known to import torch."""
        policy = self.policy
        if isinstance(policy, Mapping):
            policy = policy.get(TARGET)
        if isinstance(policy, str):
            return policy.startswith("maze.train.")
        kind = policy if isinstance(policy, type) else type(policy)
        return kind.__module__.startswith("maze.train.")

    def to_bytes(self) -> bytes:
        """Return the job in a form that another process of this run can load."""
        try:
            return bytes(cloudpickle.dumps(self))
        except MazeError:
            raise
        except Exception as error:
            raise ConfigError(
                f"environment or policy cannot be sent to worker processes"
                f" ({type(error).__name__}: {error}). Give a config, a class or a function that"
                " makes it there, or use runner=sequential"
            ) from error
