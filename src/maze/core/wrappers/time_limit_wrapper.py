"""A limit on the length of episodes that belongs to the environment.

The runner has a limit of its own, ``max_episode_steps``, which is recorded as the runner's. This
wrapper is for a limit that is part of the task, as registered Gymnasium environments have.
"""

from __future__ import annotations

from typing import Any

from maze.core.env.structured_env import Action, Observation, StructuredEnv
from maze.core.wrappers.checks import positive_count
from maze.core.wrappers.wrapper import StepResult, Wrapper


class TimeLimitWrapper(Wrapper):
    """Truncates the episode with the step that completes a number of structured steps.

    ``terminated`` is passed on as it is: a task that ends in the last allowed step is both
    terminated and truncated.

    Args:
        env: the environment inside.
        max_episode_steps: structured steps; all sub-steps that share one time count once.

    Raises:
        ConfigError: If ``max_episode_steps`` is not a whole number of at least 1.
    """

    plays_each_action_once = True

    def __init__(self, env: StructuredEnv, max_episode_steps: int) -> None:
        super().__init__(env)
        self.max_episode_steps = positive_count(max_episode_steps, "max_episode_steps", of=self)
        self._counts_itself = self.is_flat
        self._n_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        self._n_steps = 0
        return self._inner_reset(seed=seed, options=options)

    def step(self, action: Action) -> StepResult:
        """Play the action."""
        observation, reward, terminated, truncated, info = self._inner_step(action)
        # The env time is only kept by environments with several actors.
        n_steps = self._n_steps + 1 if self._counts_itself else self.env.env_time()
        self._n_steps = n_steps
        if n_steps >= self.max_episode_steps:
            truncated = True
        return observation, reward, terminated, truncated, info
