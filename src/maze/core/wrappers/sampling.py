"""Playing an environment in private, to learn what its observations are like.

A wrapper that needs statistics of an environment has to have them before the first episode, the
same ones in every process and lane. So it plays by itself when it is constructed, with fixed seeds.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from maze.core.agent.flat_policies import FlatPolicies
from maze.core.agent.masked_random_policy import MaskedRandomPolicy
from maze.core.agent.policy import FlatPolicy, StructuredPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.env.structured_env import Observation, StepKey, StructuredEnv
from maze.core.errors import ConfigError
from maze.core.factory import Factory
from maze.core.seeding import Seeding


def sampled_observations(
    env: StructuredEnv, policy: StructuredPolicy, n_samples: int, seed: int
) -> Iterator[tuple[StepKey, Observation]]:
    """Play structured steps and yield all observations, the first and last of episodes included.

    Events are dropped. The environment is left in the middle of an episode, and the global random
    generators as they were. Let it come to its end, or close it.

    Args:
        env: is played.
        policy: plays it, sampling its actions.
        n_samples: structured steps to play.
        seed: fixes all seeds.

    Yields:
        The step key of the actor, and the observation, which belongs to the environment.
    """
    n_played = 0
    with _global_generators_kept():
        for spec in Seeding(env_base_seed=seed, agent_base_seed=seed).plan(n_samples):
            _seed_global_generators(spec.env_seed)
            try:
                for step_key, observation, n_completed in _episode(
                    env, policy, spec.env_seed, spec.agent_seed
                ):
                    yield step_key, observation
                    n_played += n_completed
                    if n_played == n_samples:
                        return
            except Exception as error:
                error.add_note(
                    f"while {type(env).__name__} was played to gather statistics, in episode"
                    f" {spec.index}, env_seed={spec.env_seed}"
                )
                raise


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
        if any(env.action_masks.values()):
            return MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
        return RandomPolicy(env.action_spaces)
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
    env: StructuredEnv, policy: StructuredPolicy, env_seed: int, agent_seed: int
) -> Iterator[tuple[StepKey, Observation, int]]:
    """Yield step key, observation, and the structured steps completed by what led to it."""
    events, n_events = env.events, len(env.events)
    memory = policy.start_episode(agent_seed)
    observation, _ = env.reset(seed=env_seed)
    is_flat, time = env.is_flat, 0
    is_last = False
    yield env.actor_id().step_key, observation, 0
    while not is_last:
        action = policy.act(observation, env.actor_id(), memory, False)
        observation, _, terminated, truncated, _ = env.step(action)
        del events[n_events:]
        is_last = bool(terminated or truncated)
        if not is_flat:
            before, time = time, env.env_time()
        is_completed = is_flat or is_last or time != before
        yield env.actor_id().step_key, observation, int(is_completed)


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
