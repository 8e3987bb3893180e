"""Networks of the user's own, one for each kind of decision.

A network is any ``nn.Module``. Its constructor gets what it takes of these, by name:

    observation_shapes     shapes of the tensors, by observation, without the first dimension
    action_logits_shapes   (policies) shapes of the logits, by head
    n_action_features      (action critics) numbers that describe an action
    observation_space, action_space
                           the spaces of the step key

A policy's ``forward`` takes a dictionary of tensors and returns one of logits, by head; whatever
else it returns is shown to the critic under that name. A critic's takes such a dictionary and
returns values, shape (n,) or (n, 1). An action critic's takes a dictionary and the features of
actions, shape (n, n_action_features).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from maze.core.env.structured_env import StepKey, by_step_key
from maze.core.errors import ConfigError
from maze.core.factory import Factory
from maze.train.models.model import CriticKind, Model
from maze.train.specs import EnvSpecs

NetworkConfig = Mapping[str, Any]


class CustomModel(Model):
    """Builds the networks that a config names.

    Args:
        specs: of the environment.
        policies: a config, or a module, for each step key. Agents with networks of their own are
            built from the config of their step key, each for itself.
        critics: likewise. With ``critic=shared`` that of the first step key suffices. ``None``:
            there are none, for trainers without a critic.
        action_critics: likewise, for SAC.
        distributions: see ``Model``.
        separate_agent_networks: see ``Model``.
        critic: see ``Model``.

    Raises:
        ConfigError: If there is no network for a step key, or one does not fit.
    """

    def __init__(
        self,
        specs: EnvSpecs,
        policies: Mapping[StepKey, NetworkConfig | nn.Module],
        critics: Mapping[StepKey, NetworkConfig | nn.Module] | None = None,
        action_critics: Mapping[StepKey, NetworkConfig | nn.Module] | None = None,
        distributions: Mapping[str, str] | None = None,
        separate_agent_networks: Sequence[StepKey] = (),
        critic: CriticKind = "step",
    ) -> None:
        super().__init__(specs, distributions, separate_agent_networks, critic)
        self._action_critic_configs = action_critics
        policies = by_step_key(policies, specs.action_spaces)
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, network in self.networks.items():
            logits = {head.name: (head.distribution.n_logits,) for head in network.heads}
            policy = self._build(policies, "policies", name, action_logits_shapes=logits)
            self.policies[name] = policy
            shapes[name] = self._check_policy(name)
        if critics is None:
            return
        critics = by_step_key(critics, specs.action_spaces)
        for index, name in enumerate(self.networks):
            if critic == "shared" and index:
                break
            self.critics[name] = self._build(
                critics, "critics", name, observation_shapes=shapes[name]
            )

    def make_action_critics(self, n_critics: int) -> None:
        """Make critics of observation and action, for trainers that have such."""
        if self._action_critic_configs is None:
            raise ConfigError(
                "this algorithm needs critics of actions: give 'action_critics' of CustomModel, or"
                " use model=flatten_concat_sac"
            )
        configs = by_step_key(self._action_critic_configs, self.specs.action_spaces)
        for name, network in self.networks.items():
            n_features = sum(head.distribution.n_features for head in network.heads)
            self.action_critics[name] = nn.ModuleList(
                self._build(configs, "action_critics", name, n_action_features=n_features)
                for _ in range(n_critics)
            )

    def _build(
        self, configs: Mapping[StepKey, Any], group: str, name: str, **offers: Any
    ) -> nn.Module:
        network = self.networks[name]
        key = network.step_key
        if key not in configs:
            raise ConfigError(
                f"'model.{group}' has no network for step key {key!r}, but for {list(configs)}"
            )
        offers.setdefault("observation_shapes", dict(network.encoder.shapes))
        return Factory(nn.Module, where=f"model.{group}.{key}").build(
            configs[key],
            obs_shapes=offers["observation_shapes"],
            observation_space=self.specs.observation_spaces[key],
            action_space=self.specs.action_spaces[key],
            **offers,
        )

    def _check_policy(self, name: str) -> dict[str, tuple[int, ...]]:
        """Ask a policy for a row of zeros; return the shapes of what the critic is shown."""
        network = self.networks[name]
        zeros = {key: torch.zeros(2, *shape) for key, shape in network.encoder.shapes.items()}
        try:
            with torch.no_grad():
                logits, shown = self.outputs(name, zeros)
        except ConfigError:
            raise
        except Exception as error:
            shapes = {key: ("n", *shape) for key, shape in network.encoder.shapes.items()}
            raise ConfigError(
                f"the policy network of step key {network.step_key!r} does not take its"
                f" observations, tensors of {shapes}: {type(error).__name__}: {error}"
            ) from error
        expected = sum(head.distribution.n_logits for head in network.heads)
        if tuple(logits.shape) != (2, expected):
            raise ConfigError(
                f"the policy network of step key {network.step_key!r} returned logits of shape"
                f" {tuple(logits.shape)} for 2 observations, expected (2, {expected})"
            )
        return {key: tuple(value.shape[1:]) for key, value in shown.items()}
