"""An environment made of a simulation, conversions, a reward and a renderer.

    MazeEnv(CuttingCoreEnv(...), observations={...}, actions={...}, reward=..., renderer=...)

Each part knows one thing, and any of them can be exchanged. Sub-steps and agents are the
simulation's matter: a simulation that asks its questions one after the other has a step key for
each of them, and there is a pair of conversions for each step key.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from gymnasium import spaces

from maze.core.env.conversion import ActionConversion, ObservationConversion
from maze.core.env.core_env import ActionT, CoreEnv, StateT
from maze.core.env.renderer import LastStep, Renderer
from maze.core.env.reward import RewardAggregator
from maze.core.env.structured_env import (
    Action,
    ActorID,
    EpisodeSummary,
    Observation,
    StepKey,
    StructuredEnv,
)
from maze.core.env.window import Window
from maze.core.errors import ConfigError
from maze.core.events.event import Event
from maze.core.factory import Factory

ConversionT = TypeVar("ConversionT")

RENDER_MODES = ("human", "rgb_array")


class MazeEnv(StructuredEnv, Generic[StateT, ActionT]):
    """Makes an environment of a simulation.

    The reward belongs to the structured step: the sub-steps before its last one get 0. An episode
    that ends within a structured step gets the reward of what happened in it so far.

    Args:
        core_env: the simulation.
        observations: an observation conversion for each step key, or one for all.
        actions: an action conversion for each step key, or one for all.
        reward: makes rewards of events; an object or a config.
        renderer: draws states; an object or a config. ``None``: it cannot be rendered.
        render_mode: ``human`` shows each state in a window, ``rgb_array`` lets ``render`` return
            an image of shape (height, width, 3).

    Raises:
        ConfigError: If a part is of the wrong kind, if a step key has no conversion or a
            conversion no step key, or if there is no such render mode.
    """

    core_env: CoreEnv[StateT, ActionT]
    """The simulation."""
    state: StateT
    """The simulation's state, after a reset."""
    last_step: LastStep | None
    """The (sub-)step that led to it; ``None`` after a reset."""

    def __init__(
        self,
        core_env: CoreEnv[StateT, ActionT],
        observations: Mapping[StepKey, ObservationConversion[StateT]]
        | ObservationConversion[StateT],
        actions: Mapping[StepKey, ActionConversion[StateT, ActionT]]
        | ActionConversion[StateT, ActionT],
        reward: RewardAggregator[StateT] | Mapping[str, Any],
        renderer: Renderer[StateT, ActionT] | Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.core_env = core_env
        self.agent_counts = dict(core_env.agent_counts)
        by_key = _by_step_key(observations, ObservationConversion, self.agent_counts)
        actions_by_key = _by_step_key(actions, ActionConversion, self.agent_counts)
        self.observation_spaces = {
            key: _space(conversion.space(), conversion) for key, conversion in by_key.items()
        }
        self.action_spaces = {
            key: _space(conversion.space(), conversion)
            for key, conversion in actions_by_key.items()
        }
        masks = {key: dict(conversion.action_masks()) for key, conversion in by_key.items()}
        self.action_masks = {key: of_key for key, of_key in masks.items() if of_key}
        self.observations = by_key
        self.actions = actions_by_key
        self.reward: RewardAggregator[StateT] = Factory(RewardAggregator, "env.reward").build(
            reward
        )
        self.renderer: Renderer[StateT, ActionT] | None = (
            None if renderer is None else Factory(Renderer, "env.renderer").build(renderer)
        )
        self.events = []
        self.metadata = {"render_modes": []}
        if self.renderer is not None:
            self.metadata = {
                "render_modes": list(RENDER_MODES),
                "render_fps": self.renderer.frames_per_second,
            }
        self.render_mode = self._checked(render_mode)
        self._is_flat = self.is_flat
        self._actor = ActorID(next(iter(self.agent_counts)), 0)
        self._time = 0
        self._step_events: list[Event] = []
        self._step_actors: list[ActorID] = []
        # Of the structured step that was completed last, for whoever asks.
        self._completed: tuple[list[Event], StateT, list[ActorID]] | None = None
        self._window: Window | None = None
        self.last_step = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see ``StructuredEnv.reset``. ``options`` are ignored."""
        super().reset(seed=seed, options=options)
        core_env = self.core_env
        core_env.events.clear()
        self._step_events, self._step_actors = [], []
        self._completed, self.last_step, self._time = None, None, 0
        self.state = core_env.reset(self.np_random)
        if not self._is_flat:
            self._actor, self._time = core_env.actor_id(), core_env.env_time()
        self._take_events()
        if self.render_mode == "human":
            self.render()
        return self._observe(), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play the current actor's action; see ``StructuredEnv.step``."""
        core_env, actor, before = self.core_env, self._actor, self.state
        maze_action = self.actions[actor.step_key].space_to_maze(action, before, actor)
        self.state, terminated, truncated = core_env.step(maze_action)
        self.last_step = LastStep(before, maze_action, actor, self._take_events())
        self._step_actors.append(actor)
        if self._is_flat:
            self._time += 1
            is_complete = True
        else:
            time = core_env.env_time()
            is_complete = time != self._time
            self._actor, self._time = core_env.actor_id(), time
        reward = 0.0
        if is_complete or terminated or truncated:
            reward = self.reward.reward(self._step_events, self.state)
            self._completed = self._step_events, self.state, self._step_actors
            self._step_events, self._step_actors = [], []
        if self.render_mode == "human":
            self.render()
        return self._observe(), reward, terminated, truncated, {}

    def actor_id(self) -> ActorID:
        """Return who acts next."""
        return self._actor

    def is_actor_done(self) -> bool:
        """Return whether the actor that acted last takes no further part in the episode."""
        return self.core_env.is_actor_done()

    def env_time(self) -> int:
        """Return the number of structured steps completed since the reset."""
        return self._time

    def actor_rewards(self) -> Sequence[float] | None:
        """Return how the reward of the structured step that was just completed is shared."""
        if self._completed is None:
            return None
        events, state, actors = self._completed
        return self.reward.actor_rewards(events, state, actors)

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        """Return the simulation's key figures of the episode that has just ended."""
        return self.core_env.kpis(summary)

    def noop_action(self) -> Action:
        """Return the current actor's action that does nothing, if its conversion names one."""
        return self.actions[self._actor.step_key].noop_action()

    def render(self) -> Any:
        """Draw the current state, and the step that led to it.

        Returns:
            An image of shape (height, width, 3) with render mode ``rgb_array``, ``None``
            otherwise.

        Raises:
            ConfigError: If it has no renderer.
            MissingExtraError: If matplotlib or pygame is not installed.
        """
        if self.render_mode is None:
            return None
        assert self.renderer is not None
        frame = self.renderer.frame(self.state, self.last_step)
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            self._window = Window(
                type(self.core_env).__name__, self.metadata.get("render_fps") or 4.0
            )
        self._window.show(frame)
        return None

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def with_render_mode(self, render_mode: str | None) -> MazeEnv[StateT, ActionT]:
        """Return a copy with a render mode; ``None`` for no rendering.

        Raises:
            ConfigError: If it has no renderer or there is no such mode.
        """
        again = copy.deepcopy(self)
        again.render_mode = self._checked(render_mode)
        return again

    def _observe(self) -> Observation:
        actor = self._actor
        return self.observations[actor.step_key].maze_to_space(self.state, actor)

    def _take_events(self) -> Sequence[Event]:
        emitted = self.core_env.events
        if not emitted:
            return ()
        taken = tuple(emitted)
        emitted.clear()
        self.events.extend(taken)
        self._step_events.extend(taken)
        return taken

    def _checked(self, render_mode: str | None) -> str | None:
        if render_mode is None:
            return None
        if self.renderer is None:
            raise ConfigError(
                f"the environment of {type(self.core_env).__name__} cannot be rendered: it was"
                " made without a renderer"
            )
        if render_mode not in RENDER_MODES:
            raise ConfigError(
                f"'render_mode' has to be one of {', '.join(RENDER_MODES)}, got {render_mode!r}"
            )
        return render_mode

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_window": None}


def _by_step_key(
    given: Mapping[StepKey, ConversionT] | ConversionT,
    kind: Any,
    agent_counts: Mapping[StepKey, int],
) -> dict[StepKey, ConversionT]:
    if isinstance(given, kind):
        return dict.fromkeys(agent_counts, given)
    if not isinstance(given, Mapping) or not all(isinstance(c, kind) for c in given.values()):
        raise ConfigError(
            f"MazeEnv takes an {kind.__name__}, or one for each step key, got {given!r}"
        )
    if set(given) != set(agent_counts):
        raise ConfigError(
            f"MazeEnv needs an {kind.__name__} for each step key of the simulation,"
            f" {list(agent_counts)}, got them for {list(given)}"
        )
    # In the simulation's order, which also is that of files and seeds.
    return {key: given[key] for key in agent_counts}


def _space(space: Any, conversion: object) -> spaces.Dict:
    if not isinstance(space, spaces.Dict):
        raise ConfigError(
            f"space() of {type(conversion).__name__} returned {space!r}, expected a"
            " gymnasium.spaces.Dict, also for a single entry"
        )
    return space
