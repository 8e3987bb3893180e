"""What a worker is doing, in memory that it shares with its parent.

A process that hangs, in C code or on a lock, cannot say so, and one that was killed says nothing
any more. So a worker notes beforehand what it is about to do, where its parent can look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from multiprocessing.context import BaseContext
from time import perf_counter
from typing import Any, NamedTuple

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StructuredEnv
from maze.core.episode import EpisodeSpec
from maze.core.events.event import Event


class Phase(IntEnum):
    """What a worker does, one thing at a time."""

    CONSTRUCTION = 0
    RESET = 1
    STEP = 2
    POLICY = 3
    AWAY = 4
    """It waits for its parent. That is not the fault of an episode."""


class Playing(NamedTuple):
    """An episode that is being played."""

    episode_index: int
    started: float
    """By ``perf_counter``, later by as much as the worker was away or built an environment."""
    n_steps: int
    """(Sub-)steps completed; 0 unless calls are marked."""


class Doing(NamedTuple):
    """What a worker does at a moment."""

    phase: Phase
    since: float
    """When it began, by ``perf_counter``, which processes on one machine share."""
    playing: tuple[Playing, ...]


_PHASE, _SINCE, _LANES = 0, 1, 2
_INDEX, _STARTED, _N_STEPS, _LANE_SIZE = 0, 1, 2, 3
_NOT_PLAYING = -1.0


class Heartbeat:
    """The shared memory: written by the worker, read by the parent.

    There is no lock, since a killed worker would keep it. What could be mistaken while it is half
    written is written in an order in which it is not.
    """

    def __init__(self, context: BaseContext, n_lanes: int) -> None:
        lane = [_NOT_PLAYING, 0.0, 0.0]
        first = [float(Phase.CONSTRUCTION), perf_counter()]
        self._values: Any = context.RawArray("d", first + lane * n_lanes)
        self._lane_of: dict[int, int] = {}
        """Only in the worker: where the lane of an episode begins."""

    # The worker's side.

    def begin(self, episode_index: int) -> None:
        """Note that an episode begins."""
        values = self._values
        at = next(i for i in self._lane_starts() if values[i + _INDEX] == _NOT_PLAYING)
        self._lane_of[episode_index] = at
        now = perf_counter()
        values[at + _STARTED], values[at + _N_STEPS] = now, 0.0
        values[_SINCE] = now
        values[_PHASE] = Phase.RESET
        values[at + _INDEX] = episode_index

    def end(self, episode_index: int) -> None:
        """Note that an episode has ended."""
        self._values[self._lane_of.pop(episode_index) + _INDEX] = _NOT_PLAYING
        self._values[_SINCE] = perf_counter()

    @contextlib.contextmanager
    def apart(self, phase: Phase) -> Iterator[None]:
        """Do something that takes none of the time of the episodes that are being played."""
        values = self._values
        phase_before, began = values[_PHASE], perf_counter()
        values[_SINCE] = began
        values[_PHASE] = phase
        try:
            yield
        finally:
            now = perf_counter()
            for at in self._lane_of.values():
                values[at + _STARTED] += now - began
            values[_SINCE] = now
            values[_PHASE] = phase_before

    def after_step(self, env: StructuredEnv, spec: EpisodeSpec, n_steps: int) -> None:
        """Note that a reset or step has ended; see ``Lane``."""
        values = self._values
        values[self._lane_of[spec.index] + _N_STEPS] = n_steps
        values[_SINCE] = perf_counter()

    def watched(self, policy: StructuredPolicy) -> StructuredPolicy:
        """Return the policy, noting when it is asked and when it has answered."""
        values = self._values
        asked, answered = float(Phase.POLICY), float(Phase.STEP)

        class Watched(StructuredPolicy):
            emits_events = policy.emits_events

            def start_episode(self, seed: int) -> Any:
                phase = values[_PHASE]
                enter(asked)
                memory = policy.start_episode(seed)
                enter(phase)
                return memory

            def act(
                self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
            ) -> Action:
                values[_SINCE] = perf_counter()
                values[_PHASE] = asked
                action = policy.act(observation, actor, memory, deterministic)
                values[_SINCE] = perf_counter()
                values[_PHASE] = answered
                return action

            def act_batch(
                self,
                observations: Sequence[Observation],
                actors: Sequence[ActorID],
                memories: Sequence[Any],
                deterministic: bool,
            ) -> Sequence[Action]:
                enter(asked)
                actions = policy.act_batch(observations, actors, memories, deterministic)
                enter(answered)
                return actions

            def take_events(self, memory: Any) -> Sequence[Event]:
                return policy.take_events(memory)

        def enter(phase: float) -> None:
            values[_SINCE] = perf_counter()
            values[_PHASE] = phase

        # Messages name the type of the policy.
        Watched.__name__ = type(policy).__name__
        return Watched()

    # The parent's side.

    def read(self) -> Doing:
        """Return what the worker is doing, or was doing when it died."""
        values = list(self._values)
        playing = tuple(
            Playing(int(values[at + _INDEX]), values[at + _STARTED], int(values[at + _N_STEPS]))
            for at in self._lane_starts()
            if values[at + _INDEX] != _NOT_PLAYING
        )
        return Doing(Phase(int(values[_PHASE])), values[_SINCE], playing)

    def _lane_starts(self) -> range:
        return range(_LANES, len(self._values), _LANE_SIZE)
