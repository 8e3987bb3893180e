"""The interface of environments: a Gymnasium environment that also says whose turn it is.

A *step* is one action. Environments with several kinds of action (first select, then cut) or
several agents have *sub-steps*: each has an actor, whose ``step_key`` names the kind of sub-step,
with its own spaces and its own sub-policy, and whose ``agent_id`` tells agents of that kind apart.
All sub-steps that share one environment time make a *structured step*. A plain Gymnasium
environment has one step key, ``0``, and one agent, ``0``, so each step is a structured step.

    calls                  actor        env time   meaning
    reset(seed=1)          (0, 0)       0          select a piece ...
    step({"piece": 3})     (1, 0)       0          ... how to cut it
    step({"rotate": 1})    (0, 0)       1          next piece
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import gymnasium as gym
from gymnasium import spaces

from maze.core.errors import ConfigError
from maze.core.events.event import Event

ValueT = TypeVar("ValueT")

StepKey: TypeAlias = str | int
"""Names a kind of (sub-)step."""

Observation: TypeAlias = dict[str, Any]
"""A value of the observation space of the actor's step key."""

Action: TypeAlias = dict[str, Any]
"""A value of the action space of the actor's step key."""

UNKNOWN_COUNT = -1
"""Stands in ``agent_counts`` for a number of agents that is not fixed."""


class ActorID(NamedTuple):
    """Who acts next."""

    step_key: StepKey
    """The kind of sub-step, which has its own spaces and sub-policy."""
    agent_id: int
    """Which agent of that kind."""


class EpisodeSummary(NamedTuple):
    """What is known of an episode when it has ended, for computing its KPIs."""

    n_steps: int
    """Structured steps completed."""
    episode_return: float
    """Sum of the rewards, after all wrappers."""
    statistics: Mapping[str, float]
    """The statistics measured on its events, by ``<EventType>.<name>[/<group>]``. Those of types
    that did not occur are absent: ask with ``get(name, 0.0)``."""


class StructuredEnv(gym.Env[Observation, Action]):
    """A Gymnasium environment with actors and dictionary spaces.

    A subclass sets the four attributes below in its constructor and implements ``reset``,
    ``step`` and, if it has sub-steps or agents, ``actor_id``, ``is_actor_done`` and ``env_time``.
    The others have defaults: it may declare ``action_masks``, and compute ``kpis`` and
    ``actor_rewards``. ``MazeEnv`` does all of this for a simulation that knows no spaces.
    """

    observation_spaces: Mapping[StepKey, spaces.Dict]
    """The observation space of each step key."""
    action_spaces: Mapping[StepKey, spaces.Dict]
    """The action space of each step key."""
    agent_counts: Mapping[StepKey, int]
    """The number of agents of each step key; ``UNKNOWN_COUNT`` where it is not fixed."""
    events: list[Event]
    """Events of the current step are appended here; the episode loop empties it. The list object
    stays the same for the life of the environment, and wrappers share it."""
    action_masks: Mapping[StepKey, Mapping[str, str]] = {}
    """Declares masks: for each step key, the action heads that are masked, and the key of the
    observation that is the mask. A mask has a 1 for each value of the head that is allowed now,
    and a 0 for the others: shape (n,) for a ``Discrete`` of n values, the masks of all numbers one
    after the other for a ``MultiDiscrete``, and one entry for each bit that may be 1 for a
    ``MultiBinary``. Step keys and heads without a mask are left out."""

    @property
    def is_flat(self) -> bool:
        """Whether there is a single actor, so that each step is a structured step."""
        return list(self.agent_counts.values()) == [1]

    def actor_id(self) -> ActorID:
        """Return who acts next. After the last step, who would have acted."""
        if not self.is_flat:
            raise NotImplementedError(
                f"{type(self).__name__} has several actors: implement actor_id()"
            )
        return ActorID(next(iter(self.agent_counts)), 0)

    def is_actor_done(self) -> bool:
        """Return whether the actor that acted last takes no further part in the episode."""
        return False

    def env_time(self) -> int:
        """Return the number of structured steps completed since the reset.

        Only asked of environments with several actors; the loop counts the steps of a flat one.
        """
        raise NotImplementedError(f"{type(self).__name__} has several actors: implement env_time()")

    def actor_rewards(self) -> Sequence[float] | None:
        """Return how the reward of the structured step that was just completed is shared.

        Returns:
            A reward for each of its sub-steps, in their order. ``None`` (the default) if it is not
            known whose it is: then each sub-step has what ``step`` returned.
        """
        return None

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        """Return key figures of the episode that has just ended, by name.

        Called once, in the last state, however the episode was ended, unless it failed. They are
        in the episode table as ``kpi.<name>``, and summarised over the run as other statistics.

        Args:
            summary: what was measured on the episode.
        """
        return {}

    def noop_action(self) -> Action:
        """Return the current actor's action that does nothing.

        Raises:
            ConfigError: If the environment names none.
        """
        raise ConfigError(f"{type(self).__name__} does not say which of its actions does nothing")

    @property
    def observation_space(self) -> spaces.Dict:  # type: ignore[override]
        """The observation space of the current actor."""
        return self.observation_spaces[self.actor_id().step_key]

    @property
    def action_space(self) -> spaces.Dict:  # type: ignore[override]
        """The action space of the current actor."""
        return self.action_spaces[self.actor_id().step_key]

    def with_render_mode(self, render_mode: str | None) -> StructuredEnv:
        """Return a new environment like this one, made with a render mode.

        Raises:
            ConfigError: If that cannot be done.
        """
        raise ConfigError(
            f"{type(self).__name__} does not say how it is made with another render mode: make it"
            f" with render_mode={render_mode!r}"
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. An override calls this one, which seeds ``self.np_random``.

        Args:
            seed: fixes everything random in the episode. ``None`` goes on with the generator.
            options: passed by the user through ``env.reset_options``.

        Returns:
            The first actor's observation and the info dictionary.
        """
        super().reset(seed=seed, options=options)
        return {}, {}

    @abstractmethod
    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play the current actor's action.

        Returns:
            The next actor's observation, the reward, whether the task ended (terminated),
            whether it was cut off (truncated), and the info dictionary.
        """


def by_step_key(given: Mapping[Any, ValueT], step_keys: Iterable[StepKey]) -> dict[StepKey, ValueT]:
    """Return what belongs to some step keys, of a mapping that may have been through JSON.

    There, all keys are strings: ``"0"`` stands for the step key ``0`` if there is no ``"0"``.
    """
    keys = tuple(step_keys)
    by_text = {str(step_key): step_key for step_key in keys}
    return {
        key if key in keys else by_text[str(key)]: value
        for key, value in given.items()
        if key in keys or str(key) in by_text
    }
