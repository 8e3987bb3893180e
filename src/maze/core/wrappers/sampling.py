"""Steps played for trial, from which a wrapper learns numbers before it is used.

Normalisation needs to know how large things are. Counting while episodes are played would let one
episode depend on those before it. So a wrapper plays some steps when it is constructed, always
with the same seeds, and keeps what it learnt unchanged from then on: each worker learns the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from maze.core.agent.masked_random_policy import MaskedRandomPolicy
from maze.core.agent.policy import StructuredPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StructuredEnv
from maze.core.errors import ConfigError
from maze.core.seeding import Seeding

SAMPLING_SEED = 1234
"""The episodes that are played for trial are those of a plan with these base seeds."""


class SampledStep(NamedTuple):
    """One (sub-)step."""

    episode_index: int
    """Which of the trial episodes it belongs to, from 0."""
    actor: ActorID
    """Who acted."""
    observation: Observation
    """What was acted on. It belongs to the environment: copy what is to be kept."""
    action: Action
    reward: float
    next_actor: ActorID
    """Who acts next; after the last step, who would have acted."""
    next_observation: Observation
    """What the next actor sees; after the last step, the last observation of the episode."""
    completes_step: bool
    """Whether the structured step ends with it."""
    is_last: bool
    """Whether the episode ends with it."""


def sample_steps(
    env: StructuredEnv,
    n_steps: int,
    policy: StructuredPolicy | None = None,
    seed: int = SAMPLING_SEED,
) -> Iterator[SampledStep]:
    """Play structured steps in an environment, episode after episode.

    The events of these steps are dropped. An environment that shows itself in a window is copied
    without it, if it knows how; otherwise the steps are played in ``env`` itself, which is to be
    reset afterwards, as at the start of any episode.

    Args:
        env: the environment.
        n_steps: so many structured steps are completed. One that is broken off by the end of its
            episode counts.
        policy: chooses the actions; by default at random, among the allowed ones where the
            environment declares masks.
        seed: both base seeds of the episodes; what is played is a function of it.

    Yields:
        The sub-steps in their order.
    """
    trial_env = env
    if env.render_mode == "human":
        with contextlib.suppress(ConfigError):
            trial_env = env.with_render_mode(None)
    try:
        yield from _steps(trial_env, n_steps, policy or random_policy(env), seed)
    finally:
        trial_env.events.clear()
        if trial_env is not env:
            trial_env.close()


def random_policy(env: StructuredEnv) -> StructuredPolicy:
    """Return the policy that acts at random, among the allowed actions where masks are declared."""
    if any(env.action_masks.values()):
        return MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
    return RandomPolicy(env.action_spaces)


def _steps(
    env: StructuredEnv, n_steps: int, policy: StructuredPolicy, seed: int
) -> Iterator[SampledStep]:
    is_flat = env.is_flat
    n_done = 0
    # Each episode completes a step, so there are no more of them than steps.
    for spec in Seeding(env_base_seed=seed, agent_base_seed=seed).plan(n_steps):
        memory = policy.start_episode(spec.agent_seed)
        observation, _ = env.reset(seed=spec.env_seed)
        actor, env_time, is_last = env.actor_id(), 0, False
        while not is_last:
            action = policy.act(observation, actor, memory, False)
            seen, reward, terminated, truncated, _ = env.step(action)
            env.events.clear()
            is_last = bool(terminated or truncated)
            before, env_time = env_time, env_time + 1 if is_flat else env.env_time()
            is_complete = is_last or env_time != before
            next_actor = env.actor_id()
            yield SampledStep(
                spec.index,
                actor,
                observation,
                action,
                float(reward),
                next_actor,
                seen,
                is_complete,
                is_last,
            )
            n_done += is_complete
            if n_done >= n_steps:
                return
            observation, actor = seen, next_actor
