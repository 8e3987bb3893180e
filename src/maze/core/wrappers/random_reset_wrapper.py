"""Episodes that begin somewhere else than at their beginning.

Where an environment always begins in the same state, its first states are all that a policy ever
sees often. Some random steps after each reset spread the starting points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from maze.core.env.structured_env import Observation, StructuredEnv
from maze.core.errors import ConfigError, ContractError
from maze.core.seeding import SEED_BITS
from maze.core.wrappers.sampling import random_policy
from maze.core.wrappers.wrapper import StepResult, Wrapper

MAX_TRIES = 20
"""So often an episode is begun that ends during the skipped steps."""

_STREAM = 0x52616E64
"""Keeps what is drawn here apart from what others draw from the same seed."""


class RandomResetWrapper(Wrapper):
    """Plays a random number of structured steps with random actions after each reset.

    Where masks are declared, the actions are random among the allowed ones. The number of steps
    and the actions are functions of the seed given to ``reset``; without one they come from a
    generator that goes on from one reset to the next, as do the environment's own.

    From outside, the episode begins after these steps, at time 0: their events, rewards and infos
    are dropped, those of the reset itself are kept. What counts inside goes on counting: a time
    limit, a discount or KPIs of the environment inside include the skipped steps, so put a
    ``TimeLimitWrapper`` around this one.

    If the episode ends during the skipped steps, another one is begun, with a seed derived from
    the first, and so on up to ``MAX_TRIES`` times.

    Args:
        env: the environment inside.
        min_skip_steps: fewest structured steps, at least 0.
        max_skip_steps: most of them; every number in between is as likely.

    Raises:
        ConfigError: If the numbers are out of range.
    """

    def __init__(self, env: StructuredEnv, min_skip_steps: int, max_skip_steps: int) -> None:
        super().__init__(env)
        for name, number in (
            ("min_skip_steps", min_skip_steps),
            ("max_skip_steps", max_skip_steps),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ConfigError(
                    f"'{name}' of RandomResetWrapper has to be a whole number of at least 0, got"
                    f" {number!r}."
                )
        if min_skip_steps > max_skip_steps:
            raise ConfigError(
                f"'min_skip_steps' of RandomResetWrapper is {min_skip_steps}, more than"
                f" 'max_skip_steps', which is {max_skip_steps}."
            )
        self.min_skip_steps, self.max_skip_steps = min_skip_steps, max_skip_steps
        self._policy = random_policy(env)
        self._counts_itself = env.is_flat
        self._n_skipped = self._n_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode and play the steps that are skipped.

        Raises:
            ContractError: If each of ``MAX_TRIES`` episodes ended before it had begun.
        """
        n_events = len(self.events)
        self._n_steps = 0
        for env_seed, rng in self._tries(seed):
            observation, info = self._inner_reset(seed=env_seed, options=options)
            self._n_skipped = int(rng.integers(self.min_skip_steps, self.max_skip_steps + 1))
            seen = self._play(observation, self._n_skipped, int(rng.integers(2**SEED_BITS)))
            if seen is not None:
                return seen, info
            del self.events[n_events:]
        raise ContractError(
            f"each of {MAX_TRIES} episodes ended within {self.max_skip_steps} random steps after"
            f" its reset (seed {seed}). Make 'max_skip_steps' of RandomResetWrapper smaller."
        )

    def step(self, action: Any) -> StepResult:
        """Play the action."""
        self._n_steps += 1
        return self._inner_step(action)

    def env_time(self) -> int:
        """Return the number of structured steps completed since the skipped ones."""
        return self._n_steps if self._counts_itself else self.env.env_time() - self._n_skipped

    def _tries(self, seed: int | None) -> Iterator[tuple[int | None, np.random.Generator]]:
        """Yield the seed of each episode that is begun, and what to draw its skipped steps from."""
        base = int(self.np_random.integers(2**SEED_BITS)) if seed is None else seed
        for index in range(MAX_TRIES):
            rng = np.random.default_rng(np.random.SeedSequence([base, _STREAM, index]))
            derived = int(rng.integers(2**SEED_BITS))
            yield seed if seed is None or index == 0 else derived, rng

    def _play(self, observation: Observation, n_steps: int, seed: int) -> Observation | None:
        """Return what is seen after some steps, or ``None`` if the episode has ended by then."""
        env, policy = self.env, self._policy
        memory = policy.start_episode(seed)
        n_done, n_events = 0, len(self.events)
        while n_done < n_steps:
            action = policy.act(observation, env.actor_id(), memory, False)
            observation, _, terminated, truncated, _ = self._inner_step(action)
            del self.events[n_events:]
            if terminated or truncated:
                return None
            n_done = n_done + 1 if self._counts_itself else env.env_time()
        return observation
