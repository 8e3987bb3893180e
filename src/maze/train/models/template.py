"""Networks made from the spaces: a block for each kind of observation, put together, then heads.

    observation "camera"  --pixel block---+
    observation "speed"   --vector block--+--> concatenated --hidden--> latent --> a layer per head
                                                                          `-----> value

With a ``recurrence``, observations have time as their first dimension (see
``ObservationStackWrapper``): each time is embedded for itself, and the recurrence goes through
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maze.core.env.structured_env import StepKey
from maze.core.errors import ConfigError
from maze.core.factory import Factory
from maze.train.distributions import DiagonalGaussian
from maze.train.models.blocks import Block, DenseBlock, orthogonal
from maze.train.models.model import CriticKind, Head, Model, Network
from maze.train.observations import Tensors
from maze.train.specs import EnvSpecs

EMBEDDING = "embedding"
"""What a policy network of a template shows to the critic, if they share it."""

BlockConfig = Mapping[str, Any]
"""A config of a ``Block`` without its ``in_shape``."""


class TemplateModel(Model):
    """Makes all networks from the spaces of the environment.

    Observations that are declared as masks go to the logits, and not into the networks.

    Args:
        specs: of the environment.
        modalities: a block for each kind of observation: ``vector`` and ``pixel``, and others
            that ``observation_modality`` names.
        observation_modality: the kind of an observation, by its name. Those that are not named are
            ``pixel`` if they have three dimensions (without time), else ``vector``.
        recurrence: a block that goes through time; ``None`` for none.
        hidden: the block after all is put together; ``None`` for none.
        shared_embedding: whether the critic takes what the policy's blocks make of an observation,
            instead of having blocks of its own.
        state_dependent_std: whether the deviation of a Gaussian depends on the observation, or is
            a number that is learnt.
        distributions: see ``Model``.
        separate_agent_networks: see ``Model``.
        critic: see ``Model``.
    """

    def __init__(
        self,
        specs: EnvSpecs,
        modalities: Mapping[str, BlockConfig],
        observation_modality: Mapping[str, str] | None = None,
        recurrence: BlockConfig | None = None,
        hidden: BlockConfig | None = None,
        shared_embedding: bool = False,
        state_dependent_std: bool = False,
        distributions: Mapping[str, str] | None = None,
        separate_agent_networks: Sequence[StepKey] = (),
        critic: CriticKind = "step",
    ) -> None:
        super().__init__(specs, distributions, separate_agent_networks, critic)
        if shared_embedding and critic != "step":
            raise ConfigError(
                "a shared embedding is that of the same sub-step: use critic=step with"
                " shared_embedding, or shared_embedding=false"
            )
        self._body_options = {
            "modalities": modalities,
            "observation_modality": observation_modality or {},
            "recurrence": recurrence,
            "hidden": hidden,
        }
        masks = {mask for heads in specs.action_masks.values() for mask in heads.values()}
        for name, network in self.networks.items():
            shapes = {
                entry: shape
                for entry, shape in network.encoder.shapes.items()
                if entry not in masks
            }
            policy = _PolicyNetwork(
                self._body(shapes), network, state_dependent_std, shared_embedding
            )
            self.policies[name] = policy
            if shared_embedding:
                self.critics[name] = _EmbeddingCritic(policy.body.n_latent)
            elif critic != "shared" or name == next(iter(self.networks)):
                self.critics[name] = _Critic(self._body(shapes))

    def make_action_critics(self, n_critics: int) -> None:
        """Make critics of observation and action, for trainers that have such.

        Raises:
            ConfigError: If there is no ``hidden`` block, in which the two could meet.
        """
        if self._body_options["hidden"] is None:
            raise ConfigError(
                "a critic of actions needs 'model.hidden', where observation and action meet"
            )
        masks = {mask for heads in self.specs.action_masks.values() for mask in heads.values()}
        for name, network in self.networks.items():
            shapes = {e: s for e, s in network.encoder.shapes.items() if e not in masks}
            n_features = sum(head.distribution.n_features for head in network.heads)
            self.action_critics[name] = nn.ModuleList(
                _ActionCritic(self._body(shapes, n_features)) for _ in range(n_critics)
            )

    def _body(self, shapes: Mapping[str, tuple[int, ...]], n_more: int = 0) -> _Body:
        return _Body(shapes, n_more=n_more, **self._body_options)  # type: ignore[arg-type]


class _Body(nn.Module):
    """From an observation to one vector."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        modalities: Mapping[str, BlockConfig],
        observation_modality: Mapping[str, str],
        recurrence: BlockConfig | None,
        hidden: BlockConfig | None,
        n_more: int,
    ) -> None:
        super().__init__()
        if not shapes:
            raise ConfigError(
                "there is nothing to observe but masks, so that nothing can be learnt"
            )
        unknown = set(observation_modality) - set(shapes)
        if unknown and not set(observation_modality) & set(shapes):
            raise ConfigError(
                f"'observation_modality' names {sorted(unknown)}, but the observations are"
                f" {', '.join(shapes)}"
            )
        self.blocks = nn.ModuleDict()
        self._names: list[tuple[str, str, bool]] = []
        n_time, n_features, n_static = 0, 0, 0
        for index, (name, shape) in enumerate(shapes.items()):
            has_time = recurrence is not None and len(shape) >= 2
            if has_time:
                if n_time not in (0, shape[0]):
                    raise ConfigError(
                        f"'{name}' has {shape[0]} times and another observation {n_time}: a"
                        " recurrence goes through all of them together"
                    )
                n_time, shape = shape[0], shape[1:]
            kind = observation_modality.get(name, "pixel" if len(shape) == 3 else "vector")
            if kind not in modalities:
                raise ConfigError(
                    f"the observation '{name}' of shape {shape} is of the modality '{kind}', for"
                    f" which the model has no block, but for: {', '.join(modalities) or 'none'}."
                    " Use model=vector_obs or model=pixel_obs, or name it in"
                    " model.observation_modality"
                )
            block = _build(modalities[kind], shape, f"model.modalities.{kind}")
            key = f"{index}"  # Names of observations may have dots, those of modules not.
            self.blocks[key] = block
            self._names.append((key, name, has_time))
            if has_time:
                n_features += math.prod(block.out_shape)
            else:
                n_static += math.prod(block.out_shape)
        self.recurrence: Block | None = None
        if recurrence is not None:
            if not n_time:
                raise ConfigError(
                    "the model has a recurrence, but no observation has time as its first"
                    " dimension. Use wrappers=vector_obs_rnn or pixel_obs_rnn, or stack"
                    " observations with ObservationStackWrapper."
                )
            self.recurrence = _build(recurrence, (n_time, n_features), "model.recurrence")
            n_static += math.prod(self.recurrence.out_shape)
        self.hidden: Block | None = None
        self.n_latent = n_static + n_more
        if hidden is not None:
            self.hidden = _build(hidden, (self.n_latent,), "model.hidden")
            self.n_latent = math.prod(self.hidden.out_shape)

    def forward(self, tensors: Tensors, more: Tensor | None = None) -> Tensor:
        static: list[Tensor] = []
        in_time: list[Tensor] = []
        for key, name, has_time in self._names:
            values = tensors[name]
            if has_time:
                n, n_time = values.shape[:2]
                embedded = self.blocks[key](values.flatten(0, 1))
                in_time.append(embedded.reshape(n, n_time, -1))
            else:
                static.append(self.blocks[key](values).flatten(1))
        if self.recurrence is not None:
            static.append(self.recurrence(torch.cat(in_time, 2)).flatten(1))
        if more is not None:
            static.append(more)
        latent = static[0] if len(static) == 1 else torch.cat(static, 1)
        return latent if self.hidden is None else self.hidden(latent)


class _PolicyNetwork(nn.Module):
    def __init__(
        self, body: _Body, network: Network, state_dependent_std: bool, shows_embedding: bool
    ) -> None:
        super().__init__()
        self.body = body
        self._names = [head.name for head in network.heads]
        self.heads = nn.ModuleList(
            head_layer(body.n_latent, head, state_dependent_std) for head in network.heads
        )
        self._shows_embedding = shows_embedding

    def forward(self, tensors: Tensors) -> Tensors:
        latent = self.body(tensors)
        given = {name: layer(latent) for name, layer in zip(self._names, self.heads, strict=True)}
        if self._shows_embedding:
            given[EMBEDDING] = latent
        return given


class GaussianHead(nn.Module):
    """Means by a layer, and logarithms of deviations that do not depend on the observation."""

    def __init__(self, n_latent: int, n_numbers: int) -> None:
        super().__init__()
        self.mean = orthogonal(nn.Linear(n_latent, n_numbers), 0.01)
        self.log_std = nn.Parameter(torch.zeros(n_numbers))

    def forward(self, latent: Tensor) -> Tensor:
        """Return the logits of a ``DiagonalGaussian``."""
        mean = self.mean(latent)
        return torch.cat([mean, self.log_std.expand_as(mean)], 1)


def head_layer(n_latent: int, head: Head, state_dependent_std: bool = False) -> nn.Module:
    """Return the last layer for a head. Its weights are small: the first policy is even."""
    if isinstance(head.distribution, DiagonalGaussian) and not state_dependent_std:
        return GaussianHead(n_latent, head.distribution.n_code)
    layer: nn.Module = orthogonal(nn.Linear(n_latent, head.distribution.n_logits), 0.01)
    return layer


class _Critic(nn.Module):
    def __init__(self, body: _Body) -> None:
        super().__init__()
        self.body = body
        self.value = orthogonal(nn.Linear(body.n_latent, 1), 1.0)

    def forward(self, tensors: Tensors) -> Tensor:
        value: Tensor = self.value(self.body(tensors))
        return value


class _EmbeddingCritic(nn.Module):
    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.value = orthogonal(nn.Linear(n_latent, 1), 1.0)

    def forward(self, tensors: Tensors) -> Tensor:
        value: Tensor = self.value(tensors[EMBEDDING])
        return value


class _ActionCritic(nn.Module):
    def __init__(self, body: _Body) -> None:
        super().__init__()
        self.body = body
        self.value = nn.Linear(body.n_latent, 1)

    def forward(self, tensors: Tensors, features: Tensor) -> Tensor:
        value: Tensor = self.value(self.body(tensors, features))
        return value.squeeze(1)


def _build(config: BlockConfig, in_shape: Sequence[int], where: str) -> Block:
    built: Any = Factory(nn.Module, where=where).build(
        {"_target_": DenseBlock, **config} if "_target_" not in config else config,
        in_shape=tuple(in_shape),
    )
    if not hasattr(built, "out_shape"):
        try:
            with torch.no_grad():
                built.out_shape = tuple(built(torch.zeros(1, *in_shape)).shape[1:])
        except Exception as error:
            raise ConfigError(
                f"the block in '{where}' has no 'out_shape' and does not take an input of shape"
                f" (n, {', '.join(map(str, in_shape))}): {type(error).__name__}: {error}"
            ) from error
    block: Block = built
    return block
