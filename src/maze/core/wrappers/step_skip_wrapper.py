"""Fewer decisions per episode: each action is played several times.

Environments that simulate in small time steps often need no new action in each of them.
"""

from __future__ import annotations

from typing import Literal

from maze.core.env.structured_env import Action, StructuredEnv
from maze.core.errors import ConfigError
from maze.core.wrappers.checks import positive_count
from maze.core.wrappers.wrapper import StepResult, Wrapper


class StepSkipWrapper(Wrapper):
    """Plays ``n_steps`` steps for each action and sums their rewards.

    It stops early when the episode ends. Observation and info are those of the last step played;
    the events of all of them belong to the one step that is seen from outside.

    Args:
        env: the environment inside, with a single actor.
        n_steps: how many steps are played in all, at least 1 (which changes nothing).
        skip_mode: ``"sticky"`` repeats the action; ``"noop"`` plays it once, and then the action
            of the environment that does nothing (``StructuredEnv.noop_action``).

    Raises:
        ConfigError: If the environment has several actors, an argument is out of range, or
            ``"noop"`` is asked for where no action is said to do nothing, as in Gymnasium's
            environments.
    """

    def __init__(
        self, env: StructuredEnv, n_steps: int, skip_mode: Literal["sticky", "noop"] = "sticky"
    ) -> None:
        super().__init__(env)
        if not self.is_flat:
            raise ConfigError(
                "StepSkipWrapper repeats the action of a single actor, but the environment has the"
                f" step keys {list(self.agent_counts)} with {list(self.agent_counts.values())}"
                " agents: the repeated action would be played by another one."
            )
        if skip_mode not in ("sticky", "noop"):
            raise ConfigError(
                "'skip_mode' of StepSkipWrapper has to be 'sticky' (repeat the action) or 'noop'"
                f" (do nothing in between), got {skip_mode!r}."
            )
        if skip_mode == "noop":
            env.noop_action()  # Raises where no action is said to do nothing.
        self.n_steps = positive_count(n_steps, "n_steps", of=self)
        self.skip_mode = skip_mode

    def step(self, action: Action) -> StepResult:
        """Play the action, and up to ``n_steps - 1`` steps more."""
        observation, total_reward, terminated, truncated, info = self._inner_step(action)
        for _ in range(self.n_steps - 1):
            if terminated or truncated:
                break
            if self.skip_mode == "noop":
                action = self.env.noop_action()
            observation, reward, terminated, truncated, info = self._inner_step(action)
            total_reward += reward
        return observation, total_reward, terminated, truncated, info
