"""Playing an environment in private, to learn what its observations are like.

A wrapper that needs statistics of an environment has to have them before the first episode, the
same ones in every process and lane. So it plays by itself when it is constructed, with fixed seeds.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from maze.core.agent.flat_policies import FlatPolicies
from maze.core.agent.masked_random_policy import MaskedRandomPolicy
from maze.core.agent.policy import FlatPolicy, StructuredPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StructuredEnv
from maze.core.errors import ConfigError
from maze.core.factory import Factory
from maze.core.seeding import EpisodeSpec, Seeding

SAMPLING_SEED = 1234
"""The episodes that are played for trial are those of a plan with these base seeds."""


class SampledStep(NamedTuple):
    """A (sub-)step, or the beginning of an episode, and what was seen after it."""

    episode_index: int
    """Which of the trial episodes it belongs to, from 0."""
    action: Action | None
    """``None`` at the beginning of an episode."""
    reward: float
    actor: ActorID
    """Who acts next; after the last step, who would have acted."""
    observation: Observation
    """What that actor sees. It belongs to the environment: copy what is to be kept."""
    completes_step: bool
    """Whether the structured step ended with it."""
    is_last: bool
    """Whether the episode ended with it."""


def sample_steps(
    env: StructuredEnv,
    n_steps: int,
    policy: StructuredPolicy | None = None,
    seed: int = SAMPLING_SEED,
) -> Iterator[SampledStep]:
    """Play structured steps in an environment, episode after episode.

    Events are dropped, and the global random generators are left as they were. An environment that
    shows itself in a window is copied without it, if it knows how; otherwise the steps are played
    in ``env`` itself, which is to be reset afterwards, as at the start of any episode. Let it come
    to its end, or close it.

    Args:
        env: the environment.
        n_steps: so many structured steps are completed. One that is broken off by the end of its
            episode counts.
        policy: chooses the actions; ``None``: see ``random_policy``.
        seed: both base seeds of the episodes; what is played is a function of it.

    Yields:
        The beginnings of episodes and their sub-steps, in order.
    """
    played = env
    if env.render_mode not in (None, "rgb_array"):
        with contextlib.suppress(ConfigError):
            played = env.with_render_mode(None)
    policy = policy or random_policy(env)
    n_done = 0
    try:
        with _global_generators_kept():
            # Each episode completes a step, so there are no more of them than steps.
            for spec in Seeding(env_base_seed=seed, agent_base_seed=seed).plan(n_steps):
                _seed_global_generators(spec.env_seed)
                try:
                    for step in _episode(played, policy, spec):
                        yield step
                        n_done += step.completes_step
                        if n_done == n_steps:
                            return
                except Exception as error:
                    error.add_note(
                        f"while {type(env).__name__} was played to gather statistics, in episode"
                        f" {spec.index}, env_seed={spec.env_seed}"
                    )
                    raise
    finally:
        if played is not env:
            played.close()


def random_policy(env: StructuredEnv) -> StructuredPolicy:
    """Return the policy that acts at random, among the allowed actions where masks are declared."""
    if any(env.action_masks.values()):
        return MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
    return RandomPolicy(env.action_spaces)


def sampling_policy(config: object, env: StructuredEnv) -> StructuredPolicy:
    """Return the policy that gathers statistics.

    Args:
        config: a policy, or a config of one; ``None`` for random actions, among those that the
            environment's masks allow where it declares any.
        env: what it plays.

    Raises:
        ConfigError: If it is something else.
    """
    if config is None:
        return random_policy(env)
    policy: Any = Factory(object, where="sampling_policy").build(
        config,
        action_spaces=env.action_spaces,
        observation_spaces=env.observation_spaces,
        agent_counts=env.agent_counts,
        action_masks=env.action_masks,
    )
    if isinstance(policy, FlatPolicy) and len(env.action_spaces) == 1:
        policy = FlatPolicies({next(iter(env.action_spaces)): policy})
    if not isinstance(policy, StructuredPolicy):
        raise ConfigError(
            "'sampling_policy' has to be a StructuredPolicy, or a mapping with '_target_' that"
            f" makes one, got {policy!r}. A FlatPolicy decides for one step key; the environment"
            f" has {list(env.action_spaces)}."
        )
    return policy


def _episode(
    env: StructuredEnv, policy: StructuredPolicy, spec: EpisodeSpec
) -> Iterator[SampledStep]:
    events, n_events = env.events, len(env.events)
    memory = policy.start_episode(spec.agent_seed)
    observation, _ = env.reset(seed=spec.env_seed)
    del events[n_events:]
    is_flat, time = env.is_flat, 0
    is_last = False
    actor = env.actor_id()
    yield SampledStep(spec.index, None, 0.0, actor, observation, False, False)
    while not is_last:
        action = policy.act(observation, actor, memory, False)
        observation, reward, terminated, truncated, _ = env.step(action)
        del events[n_events:]
        is_last = bool(terminated or truncated)
        if not is_flat:
            before, time = time, env.env_time()
        completes_step = is_flat or is_last or time != before
        actor = env.actor_id()
        yield SampledStep(
            spec.index, action, float(reward), actor, observation, completes_step, is_last
        )


def _seed_global_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


@contextlib.contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Put the generators that an environment may use behind our back to what they were."""
    torch = sys.modules.get("torch")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = None if torch is None else torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if torch is not None:
            torch.set_rng_state(torch_state)
