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
    """Plays each action ``n_steps`` times in all and sums the rewards.

    It stops early when the episode ends. Observation and info are those of the last step played;
    the events of all of them belong to the one step that is seen from outside.

    Args:
        env: the environment inside, with a single actor.
        n_steps: how often an action is played, at least 1 (which changes nothing).
        skip_mode: only ``"sticky"``, which repeats the action. Gymnasium's environments do not
            say which of their actions does nothing, so there is no mode that plays that one.

    Raises:
        ConfigError: If the environment has several actors, or an argument is out of range.
    """

    def __init__(
        self, env: StructuredEnv, n_steps: int, skip_mode: Literal["sticky"] = "sticky"
    ) -> None:
        super().__init__(env)
        if not self.is_flat:
            raise ConfigError(
                "StepSkipWrapper repeats the action of a single actor, but the environment has the"
                f" step keys {list(self.agent_counts)} with {list(self.agent_counts.values())}"
                " agents: the repeated action would be played by another one."
            )
        if skip_mode != "sticky":
            raise ConfigError(
                f"'skip_mode' of StepSkipWrapper has to be 'sticky' (repeat the action), got"
                f" {skip_mode!r}."
            )
        self.n_steps = positive_count(n_steps, "n_steps", of=self)
        self.skip_mode = skip_mode

    def step(self, action: Action) -> StepResult:
        """Play the action up to ``n_steps`` times."""
        observation, total_reward, terminated, truncated, info = self._inner_step(action)
        for _ in range(self.n_steps - 1):
            if terminated or truncated:
                break
            observation, reward, terminated, truncated, info = self._inner_step(action)
            total_reward += reward
        return observation, total_reward, terminated, truncated, info
