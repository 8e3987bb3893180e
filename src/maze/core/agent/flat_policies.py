"""One policy out of one for each kind of step.

Environments with sub-steps ask different questions, and heuristics or networks are written for
one of them. ``FlatPolicies`` puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from numpy.random import SeedSequence

from maze.core.agent.policy import FlatPolicy, StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey, by_step_key
from maze.core.errors import ConfigError, ContractError
from maze.core.factory import Factory


class FlatPolicies(StructuredPolicy):
    """Asks the policy of the actor's step key; all agents of a step key share one.

    Each policy is seeded for itself: its seed in an episode is derived from the episode's and from
    the position of its step key.

    Args:
        policies: a flat policy, or its config, for each step key of the environment. There may be
            more of them than step keys, so that variants of an environment can share a config.
        action_spaces: the environment's, by step key. A config gets that of its step key as
            ``action_space``, if it takes it.
        observation_spaces: the same, as ``observation_space``.

    Raises:
        ConfigError: If there is no policy, none for a step key of ``action_spaces``, or one is no
            ``FlatPolicy`` and no config of one.
    """

    def __init__(
        self,
        policies: Mapping[StepKey, FlatPolicy | Mapping[str, Any]],
        action_spaces: Mapping[StepKey, spaces.Dict] | None = None,
        observation_spaces: Mapping[StepKey, spaces.Dict] | None = None,
    ) -> None:
        if not isinstance(policies, Mapping) or not policies:
            raise ConfigError(
                "'policies' of FlatPolicies has to be a mapping from step keys to flat policies,"
                f" got {policies!r}."
            )
        if action_spaces is not None:
            given, policies = policies, by_step_key(policies, action_spaces)
            # Those of step keys that the environment does not have could not be built for it.
            missing = [step_key for step_key in action_spaces if step_key not in policies]
            if missing:
                raise ConfigError(
                    "FlatPolicies needs a policy for each step key of the environment,"
                    f" {list(action_spaces)}; there is none for {missing}, but for {list(given)}."
                )
        self.policies: dict[StepKey, FlatPolicy] = {
            step_key: Factory(FlatPolicy, where=f"policies.{step_key}").build(
                policy,
                **_of_key("action_space", action_spaces, step_key),
                **_of_key("observation_space", observation_spaces, step_key),
            )
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


def _of_key(
    name: str, by_key: Mapping[StepKey, spaces.Dict] | None, step_key: StepKey
) -> dict[str, spaces.Dict]:
    return {name: by_key[step_key]} if by_key is not None and step_key in by_key else {}
