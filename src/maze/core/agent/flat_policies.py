"""One policy out of one for each kind of step.

Environments with sub-steps ask different questions, and heuristics or networks are written for
one of them. ``FlatPolicies`` puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import SeedSequence

from maze.core.agent.policy import FlatPolicy, StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey
from maze.core.errors import ConfigError, ContractError
from maze.core.factory import Factory


class FlatPolicies(StructuredPolicy):
    """Asks the policy of the actor's step key; all agents of a step key share one.

    Each policy is seeded for itself: its seed in an episode is derived from the episode's and from
    the position of its step key.

    Args:
        policies: a flat policy, or its config, for each step key of the environment.

    Raises:
        ConfigError: If there is no policy, or one is no ``FlatPolicy`` and no config of one.
    """

    def __init__(self, policies: Mapping[StepKey, FlatPolicy | Mapping[str, Any]]) -> None:
        if not isinstance(policies, Mapping) or not policies:
            raise ConfigError(
                "'policies' of FlatPolicies has to be a mapping from step keys to flat policies,"
                f" got {policies!r}."
            )
        self.policies: dict[StepKey, FlatPolicy] = {
            step_key: Factory(FlatPolicy, where=f"policies.{step_key}").build(policy)
            for step_key, policy in policies.items()
        }

    def start_episode(self, seed: int) -> dict[StepKey, Any]:
        """Return the memory of each policy, by step key."""
        seeds = SeedSequence(seed).generate_state(len(self.policies))
        return {
            step_key: policy.start_episode(int(own_seed))
            for (step_key, policy), own_seed in zip(self.policies.items(), seeds, strict=True)
        }

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        """Return the action of the step key's policy.

        Raises:
            ContractError: If there is no policy for the actor's step key.
        """
        policy = self.policies.get(actor.step_key)
        if policy is None:
            raise ContractError(
                f"there is no policy for step key {actor.step_key!r}. There are policies for:"
                f" {', '.join(map(repr, self.policies))}."
            )
        return policy.act(observation, memory[actor.step_key], deterministic)
