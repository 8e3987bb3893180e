"""An environment whose outcomes come from somewhere else: from a recording, or from outside.

Wrappers only know an environment by its interface. So a stack of them can be put around one that
does not simulate anything, and does to what it is supplied with what it would do in a rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from gymnasium import spaces

from maze.core.env.structured_env import (
    Action,
    ActorID,
    EpisodeSummary,
    Observation,
    StepKey,
    StructuredEnv,
)
from maze.core.events.event import Event

Kpis: TypeAlias = Mapping[str, float] | Callable[[EpisodeSummary], Mapping[str, float]]


class Outcome(NamedTuple):
    """What a reset or a step leads to."""

    observation: Observation
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] | None = None
    actor: ActorID = ActorID(0, 0)
    """Who acts next."""
    env_time: int = 0
    """Structured steps completed."""
    events: Sequence[Event] = ()
    kpis: Kpis | None = None
    """Key figures of the episode, if it has ended, or what computes them."""
    actor_rewards: Sequence[float] | None = None
    """How the reward of the structured step that was just completed is shared."""


class SuppliedEnv(StructuredEnv):
    """Has the spaces of an environment, and returns what it is supplied with.

    Args:
        observation_spaces: by step key.
        action_spaces: by step key.
        agent_counts: by step key.
        action_masks: see ``StructuredEnv``.
        take: called with ``None`` in a reset and with the action in a step; returns what came of
            it.
    """

    def __init__(
        self,
        observation_spaces: Mapping[StepKey, spaces.Dict],
        action_spaces: Mapping[StepKey, spaces.Dict],
        agent_counts: Mapping[StepKey, int],
        action_masks: Mapping[StepKey, Mapping[str, str]],
        take: Callable[[Action | None], Outcome],
    ) -> None:
        self.observation_spaces, self.action_spaces = observation_spaces, action_spaces
        self.agent_counts, self.action_masks = agent_counts, action_masks
        self.events = []
        self.metadata = {"render_modes": []}
        self.render_mode = None
        self._take = take
        self._last = Outcome({})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Return the first observation that is supplied."""
        super().reset(seed=seed, options=options)
        outcome = self._last = self._take(None)
        self.events.extend(outcome.events)
        return outcome.observation, dict(outcome.info or {})

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hand the action over, and return what is supplied."""
        outcome = self._last = self._take(action)
        self.events.extend(outcome.events)
        return (
            outcome.observation,
            outcome.reward,
            outcome.terminated,
            outcome.truncated,
            dict(outcome.info or {}),
        )

    def actor_id(self) -> ActorID:
        """Return who acts next."""
        return super().actor_id() if self.is_flat else self._last.actor

    def env_time(self) -> int:
        """Return the number of structured steps completed."""
        return self._last.env_time

    def actor_rewards(self) -> Sequence[float] | None:
        """Return how the reward of the structured step is shared, if that was supplied."""
        return self._last.actor_rewards

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        """Return the key figures that were supplied."""
        return kpis_of(self._last, summary)


def kpis_of(outcome: Outcome, summary: EpisodeSummary) -> Mapping[str, float]:
    """Return the key figures that were supplied with the last outcome of an episode."""
    return outcome.kpis(summary) if callable(outcome.kpis) else outcome.kpis or {}
