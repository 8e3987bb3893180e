"""Wrappers: an environment that has an environment.

A wrapper *is* a ``StructuredEnv`` and *has* one, in ``env``; it passes on everything that it does
not change, name by name. So what a wrapped environment does can be read off a stack of small
classes, and no attribute is found by falling through to an inner one.

    RewardScalingWrapper(GymMazeEnv("CartPole-v1"), scale=0.1)

Events are no exception: the list in ``events`` is one object for the whole stack.
"""

from __future__ import annotations

import copy
import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

import gymnasium as gym

from maze.core.env.structured_env import (
    Action,
    ActorID,
    EpisodeSummary,
    Observation,
    StructuredEnv,
)
from maze.core.errors import ConfigError
from maze.core.factory import call

T = TypeVar("T")

StepResult: TypeAlias = tuple[Observation, float, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated and info."""


class Wrapper(StructuredEnv):
    """Passes everything on to the environment inside.

    A subclass overrides what it changes, calls ``self._inner_step`` and ``self._inner_reset`` in
    its ``step`` and ``reset``, and replaces ``observation_spaces`` or ``action_spaces`` in its
    constructor if its values differ.

    Args:
        env: the environment inside.

    Raises:
        ConfigError: If ``env`` is no ``StructuredEnv``.
    """

    env: StructuredEnv
    """The environment inside."""
    plays_each_action_once: ClassVar[bool] = False
    """Set by a subclass with a ``step`` or ``reset`` of its own if it calls ``self._inner_step``
    once in a step with the action as it is (or as its ``action`` returns it), and not in a reset.
    Then a deployment needs no thread for it."""

    def __init__(self, env: StructuredEnv) -> None:
        if not isinstance(env, StructuredEnv):
            raise ConfigError(
                f"{type(self).__name__} wraps a StructuredEnv, got {type(env).__name__}. A plain"
                " Gymnasium environment becomes one by GymMazeEnv(env)."
            )
        self.env = env
        self.observation_spaces = env.observation_spaces
        self.action_spaces = env.action_spaces
        self.agent_counts = env.agent_counts
        self.action_masks = env.action_masks
        self.events = env.events
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self.spec = env.spec
        self._bind()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see ``StructuredEnv.reset``."""
        return self._inner_reset(seed=seed, options=options)

    def step(self, action: Action) -> StepResult:
        """Play the current actor's action; see ``StructuredEnv.step``."""
        return self._inner_step(action)

    def actor_id(self) -> ActorID:
        """Return who acts next."""
        return self.env.actor_id()

    def is_actor_done(self) -> bool:
        """Return whether the actor that acted last takes no further part in the episode."""
        return self.env.is_actor_done()

    def env_time(self) -> int:
        """Return the number of structured steps completed since the reset."""
        return self.env.env_time()

    def actor_rewards(self) -> Sequence[float] | None:
        """Return how the reward of the structured step that was just completed is shared."""
        return self.env.actor_rewards()

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        """Return key figures of the episode that has just ended."""
        return self.env.kpis(summary)

    def noop_action(self) -> Action:
        """Return the current actor's action that does nothing, if the environment names one."""
        return self.env.noop_action()

    def render(self) -> Any:
        """Return or show a picture of the current state, as the environment inside does."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment inside."""
        self.env.close()

    @property
    def unwrapped(self) -> gym.Env[Observation, Action]:
        """The environment inside all wrappers."""
        return self.env.unwrapped

    def with_render_mode(self, render_mode: str | None) -> Wrapper:
        """Return the same stack of wrappers around an environment made with a render mode.

        Args:
            render_mode: a render mode of the innermost environment; ``None`` for no rendering.

        Raises:
            ConfigError: If the innermost environment cannot be made again.
        """
        env = self.env.with_render_mode(render_mode)
        # All that this wrapper holds is copied, but for what belongs to the environment inside.
        again = copy.deepcopy(self, {id(self.env): env, id(self.env.events): env.events})
        again.metadata, again.render_mode, again.spec = env.metadata, env.render_mode, env.spec
        return again

    def _bind(self) -> None:
        # Looked up once instead of in each step.
        self._inner_step = self.env.step
        self._inner_reset = self.env.reset

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_inner_step"], state["_inner_reset"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # Pickling copies the list; the stack has to share one again.
        self.events = self.env.events
        self._bind()


class ObservationWrapper(Wrapper):
    """Changes every observation, the first and the last of an episode included."""

    @abstractmethod
    def observation(self, observation: Observation) -> Observation:
        """Return the changed observation.

        Args:
            observation: of the actor ``self.env.actor_id()``. It belongs to the environment:
                return a new dictionary rather than changing this one.
        """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        observation, info = self._inner_reset(seed=seed, options=options)
        return self.observation(observation), info

    def step(self, action: Action) -> StepResult:
        """Play the action."""
        observation, reward, terminated, truncated, info = self._inner_step(action)
        return self.observation(observation), reward, terminated, truncated, info


class ActionWrapper(Wrapper):
    """Changes every action on its way in.

    The action of the environment inside that does nothing is none of this wrapper's actions:
    a subclass that has one overrides ``noop_action``.
    """

    @abstractmethod
    def action(self, action: Action) -> Action:
        """Return the action for the environment inside.

        Args:
            action: a value of this wrapper's action space. It belongs to the policy: return a
                new dictionary rather than changing this one.
        """

    def step(self, action: Action) -> StepResult:
        """Play the changed action."""
        return self._inner_step(self.action(action))

    def noop_action(self) -> Action:
        """Return the action that does nothing, which a subclass may name."""
        return StructuredEnv.noop_action(self)


class RewardWrapper(Wrapper):
    """Changes every reward, those of single actors included."""

    @abstractmethod
    def reward(self, reward: float) -> float:
        """Return the changed reward; the same for the same reward."""

    def actor_rewards(self) -> Sequence[float] | None:
        """Return the changed rewards of the sub-steps, if they are known."""
        rewards = self.env.actor_rewards()
        return None if rewards is None else [self.reward(reward) for reward in rewards]

    def step(self, action: Action) -> StepResult:
        """Play the action."""
        observation, reward, terminated, truncated, info = self._inner_step(action)
        return observation, self.reward(reward), terminated, truncated, info


def put_around(stack: StructuredEnv, inner: StructuredEnv, other: StructuredEnv) -> StructuredEnv:
    """Return copies of the wrappers that are around one environment, around another one.

    Args:
        stack: the outermost wrapper, or ``inner`` itself.
        inner: what is inside of them; it is not copied.
        other: takes its place; has the same spaces.
    """
    if stack is inner:
        return other
    return copy.deepcopy(stack, {id(inner): other, id(inner.events): other.events})


def wrap(
    wrapper_class: Callable[..., T], env: object, arguments: Mapping[str, Any], where: str = ""
) -> T:
    """Construct a wrapper, of Maze or of Gymnasium, around an environment.

    Args:
        wrapper_class: its first parameter takes the environment, whatever its name is.
        env: what is wrapped.
        arguments: the other arguments, checked against the signature.
        where: the place of ``arguments`` in the config, for messages.

    Raises:
        ConfigError: If an argument is unknown or missing.
    """
    parameters = inspect.signature(wrapper_class).parameters.values()
    first = next(iter(parameters), None)
    if first is None or first.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return wrapper_class(env, **arguments)
    if first.name in arguments:
        raise ConfigError(
            f"'{first.name}' of {getattr(wrapper_class, '__name__', wrapper_class)} is the"
            " environment that it is put around: leave it out of the arguments."
        )
    wrapped: T = call(wrapper_class, arguments, {first.name: env}, where)
    return wrapped
