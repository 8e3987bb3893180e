"""A model: the networks of a policy and of its critics, for each kind of decision.

Trainers and policies know models only by this class. What differs between models is how their
networks come about: ``TemplateModel`` makes them from the spaces, ``CustomModel`` is told them.

Each decision belongs to a *network*, by the step key of who acts; where agents of a step key are
to have networks of their own, by step key and agent. A policy network takes a dictionary of
tensors, one for each entry of the observation, and returns logits for each head of the action, by
the head's name. Whatever else it returns is shown to the critic, too: shared embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maze.core.agent.masked_random_policy import check_action_masks
from maze.core.env.structured_env import UNKNOWN_COUNT, ActorID, StepKey
from maze.core.errors import ConfigError
from maze.train.distributions import Distribution, distributions_of
from maze.train.models.blocks import mask_logits
from maze.train.observations import ObservationEncoder, Tensors
from maze.train.specs import EnvSpecs

CriticKind: TypeAlias = Literal["step", "shared", "delta"]


class Head(NamedTuple):
    """A head of an action."""

    name: str
    distribution: Distribution
    mask: str | None
    """The observation that masks it."""
    logits: slice
    """Where its logits are among those of all heads."""
    uniform: slice
    """Which of the uniform random numbers of a decision it takes."""
    normal: slice
    """Which of the normal ones."""


class Network(NamedTuple):
    """What is known of one network of the policy."""

    name: str
    step_key: StepKey
    encoder: ObservationEncoder
    heads: Sequence[Head]
    n_uniform: int
    n_normal: int


class Model(nn.Module):
    """Networks of a policy and, for trainers that have one, of a critic.

    A subclass calls this constructor, then sets ``policies``, and ``critics`` if it has any.

    Args:
        specs: of the environment.
        distributions: which distribution a head has, see ``distributions_of``.
        separate_agent_networks: step keys whose agents have networks of their own.
        critic: how values of sub-steps come about. ``step``: each kind has a network of its own.
            ``shared``: that of the first sub-step serves all of its structured step. ``delta``:
            as shared, and the others add what their own network says.

    Raises:
        ConfigError: If a space cannot be used, or an option is wrong.
    """

    networks: Mapping[str, Network]
    """By name."""
    policies: nn.ModuleDict
    """By the name of the network: from tensors to logits by head."""
    critics: nn.ModuleDict
    """By the name of the network: from tensors to values, shape (n,) or (n, 1). May be empty."""
    action_critics: nn.ModuleDict
    """By the name of the network, a list of critics of observation and action, for SAC."""

    def __init__(
        self,
        specs: EnvSpecs,
        distributions: Mapping[str, str] | None = None,
        separate_agent_networks: Sequence[StepKey] = (),
        critic: CriticKind = "step",
    ) -> None:
        super().__init__()
        self.specs = specs
        if critic not in get_args(CriticKind):
            raise ConfigError(f"'critic' has to be step, shared or delta, got {critic!r}")
        self.critic_kind = critic
        separate = {str(key) for key in separate_agent_networks}
        unknown = separate - {str(key) for key in specs.observation_spaces}
        if unknown:
            raise ConfigError(
                f"'separate_agent_networks' names {sorted(unknown)}, but the environment has the"
                f" step keys {list(specs.observation_spaces)}"
            )
        check_action_masks(specs.action_spaces, specs.observation_spaces, specs.action_masks)
        networks: dict[str, Network] = {}
        self._names: dict[ActorID | StepKey, str] = {}
        for key in specs.observation_spaces:
            agents: list[int | None] = [None]
            if str(key) in separate:
                if specs.agent_counts[key] == UNKNOWN_COUNT:
                    raise ConfigError(
                        f"the number of agents of step key {key!r} is not fixed, so that each"
                        " cannot have a network of its own"
                    )
                agents = list(range(specs.agent_counts[key]))
            for agent in agents:
                name = str(key) if agent is None else f"{key}_agent_{agent}"
                name = name.replace(".", "_")  # Names of modules cannot have one.
                networks[name] = _network(name, key, specs, distributions)
                self._names[key if agent is None else ActorID(key, agent)] = name
        self.networks = networks
        self.n_uniform = max(network.n_uniform for network in networks.values())
        self.n_normal = max(network.n_normal for network in networks.values())
        self.policies, self.critics = nn.ModuleDict(), nn.ModuleDict()
        self.action_critics = nn.ModuleDict()
        self._only = next(iter(networks)) if len(networks) == 1 else None

    def make_action_critics(self, n_critics: int) -> None:
        """Make critics of observation and action, for trainers that have such.

        Raises:
            ConfigError: If the model has none.
        """
        raise ConfigError(f"{type(self).__name__} has no critics of actions")

    def network_of(self, actor: ActorID) -> str:
        """Return the name of an actor's network."""
        if self._only is not None:
            return self._only
        name = self._names.get(actor.step_key)
        return self._names[actor] if name is None else name

    def outputs(self, name: str, tensors: Tensors) -> tuple[Tensor, Tensors]:
        """Ask a policy network.

        Args:
            name: of the network.
            tensors: of n observations.

        Returns:
            The logits of all heads, masked, shape (n, logits); and what the critic is shown.
        """
        given: Tensors = self.policies[name](tensors)
        parts: list[Tensor] = []
        for head in self.networks[name].heads:
            try:
                logits = given[head.name]
            except KeyError:
                raise ConfigError(
                    f"the policy network of '{name}' returned no logits for the action"
                    f" '{head.name}', but: {', '.join(given) or 'nothing'}"
                ) from None
            if head.mask is not None:
                logits = mask_logits(logits, tensors[head.mask])
            parts.append(logits)
        heads = {head.name for head in self.networks[name].heads}
        extras = {key: value for key, value in given.items() if key not in heads}
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1), {**tensors, **extras}

    def values(self, name: str, shown: Tensors, first: tuple[str, Tensors] | None) -> Tensor:
        """Ask the critic.

        Args:
            name: of the network whose decisions are valued.
            shown: second result of ``outputs``.
            first: for a shared or delta critic, network and tensors of the first sub-step of each
                structured step; ``None`` where these are the first.

        Returns:
            Shape (n,).
        """
        if self.critic_kind == "step" or first is None:
            return _flat(self.critics[name](shown))
        value = _flat(self.critics[first[0]](first[1]))
        if self.critic_kind == "shared":
            return value
        return value + _flat(self.critics[name](shown))

    def log_prob(self, name: str, logits: Tensor, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probability of actions, summed over their heads, shape (n,)."""
        parts = [
            head.distribution.log_prob(logits[:, head.logits], codes[head.name])
            for head in self.networks[name].heads
        ]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def log_prob_and_entropy(
        self, name: str, logits: Tensor, codes: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return both ``log_prob`` and ``entropy``, which is quicker than one after the other."""
        heads = self.networks[name].heads
        if len(heads) == 1:
            return heads[0].distribution.log_prob_and_entropy(logits, codes[heads[0].name])
        parts = [
            head.distribution.log_prob_and_entropy(logits[:, head.logits], codes[head.name])
            for head in heads
        ]
        log_probs, entropies = zip(*parts, strict=True)
        return torch.stack(log_probs).sum(0), torch.stack(entropies).sum(0)

    def entropy(self, name: str, logits: Tensor) -> Tensor:
        """Return the entropy of the policy, summed over heads, in nats, shape (n,)."""
        parts = [
            head.distribution.entropy(logits[:, head.logits]) for head in self.networks[name].heads
        ]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    @property
    def n_parameters(self) -> int:
        """Numbers that can be learnt."""
        return sum(parameter.numel() for parameter in self.parameters())


def choose_codes(
    network: Network,
    logits: NDArray[np.float32],
    uniform: NDArray[np.float64] | None,
    normal: NDArray[np.float64] | None,
) -> dict[str, NDArray[Any]]:
    """Return the codes of the actions that are taken.

    Args:
        network: that gave the logits.
        logits: of all heads, shape (n, logits).
        uniform: random numbers, shape (n, n_uniform). ``None``: the most likely actions.
        normal: likewise.
    """
    codes: dict[str, NDArray[Any]] = {}
    for head in network.heads:
        of_head = logits[:, head.logits]
        if uniform is None or normal is None:
            codes[head.name] = head.distribution.mode(of_head)
        else:
            codes[head.name] = head.distribution.sample(
                of_head, uniform[:, head.uniform], normal[:, head.normal]
            )
    return codes


def env_actions(network: Network, codes: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Return the environment's actions for rows of codes."""
    if len(network.heads) == 1:
        head = network.heads[0]
        name = head.name
        return [{name: value} for value in head.distribution.to_env(codes[name])]
    columns = [head.distribution.to_env(codes[head.name]) for head in network.heads]
    names = [head.name for head in network.heads]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _network(
    name: str, key: StepKey, specs: EnvSpecs, distributions: Mapping[str, str] | None
) -> Network:
    encoder = ObservationEncoder(specs.observation_spaces[key])
    masks = specs.action_masks.get(key, {})
    heads: list[Head] = []
    n_logits = n_uniform = n_normal = 0
    where = "" if len(specs.action_spaces) == 1 else f" of step key {key!r}"
    for head, distribution in distributions_of(
        specs.action_spaces[key], distributions, where
    ).items():
        heads.append(
            Head(
                head,
                distribution,
                masks.get(head),
                slice(n_logits, n_logits + distribution.n_logits),
                slice(n_uniform, n_uniform + distribution.n_uniform),
                slice(n_normal, n_normal + distribution.n_normal),
            )
        )
        n_logits += distribution.n_logits
        n_uniform += distribution.n_uniform
        n_normal += distribution.n_normal
    return Network(name, key, encoder, heads, n_uniform, n_normal)


def _flat(values: Any) -> Tensor:
    if isinstance(values, dict):
        values = values["value"] if "value" in values else next(iter(values.values()))
    result: Tensor = values
    return result.squeeze(1) if result.dim() == 2 else result
