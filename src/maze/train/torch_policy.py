"""Networks as a policy: batched over lanes, and sampled from a stream of each episode's own.

What is random in an action comes from the episode's seed, and not from torch, so that an episode
does not depend on those that are played beside it. What can still differ is the last digit: a
matrix product of 8 rows may round otherwise than one of a single row. With ``batch_size`` the
networks are always asked for batches of that shape, padded with zeros, and equal episodes come out
for any number of lanes and processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation
from maze.core.errors import ConfigError
from maze.core.events.event import Event, EventStatistic
from maze.train.models.model import Model, choose_codes, env_actions
from maze.train.observations import Arrays

_BLOCK = 64


class Noise:
    """The random numbers of one episode, some for each decision.

    Args:
        seed: of the episode.
        n_uniform: numbers from [0, 1) for each decision.
        n_normal: normal ones.
    """

    __slots__ = ("_normal", "_position", "_rng", "_sizes", "_uniform", "events")

    def __init__(self, seed: int, n_uniform: int, n_normal: int) -> None:
        self._rng = Generator(Philox(seed))
        self._sizes = n_uniform, n_normal
        self._position = _BLOCK
        self.events: list[Event] = []

    def next(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return those of the next decision, shapes (n_uniform,) and (n_normal,)."""
        position = self._position
        if position == _BLOCK:
            n_uniform, n_normal = self._sizes
            self._uniform = self._rng.random((_BLOCK, n_uniform))
            self._normal = self._rng.standard_normal((_BLOCK, n_normal))
            position = 0
        self._position = position + 1
        return self._uniform[position], self._normal[position]


class Decision(NamedTuple):
    """What one network decided, for those who asked it together."""

    network: str
    who: Sequence[int]
    """Positions among all that were asked."""
    observations: Arrays
    codes: Mapping[str, NDArray[Any]]
    """By head, see ``maze.train.distributions``."""


@dataclass(frozen=True)
class PolicyDecision(Event):
    """What a policy network thought when it decided."""

    step_key: str
    agent_id: int
    entropy: float
    """Of the distribution over actions, in nats."""
    value: float
    """Of the critic; not a number if there is none."""
    logits: str
    """A JSON object: by head of the action, its logits."""

    statistics = (EventStatistic("entropy", lambda values: sum(values) / len(values), "entropy"),)


class TorchPolicy(StructuredPolicy):
    """Plays what the networks of a model say.

    Args:
        model: whose policy networks are asked.
        device: where they compute, such as ``cpu`` or ``cuda:0``.
        batch_size: rows of each batch that a network is asked for, if episodes are to be equal to
            the bit whatever number of lanes they are played in. ``None``: as many as there are.
        record_decisions: whether logits, entropy and value of each decision are recorded, as the
            event ``PolicyDecision``.
    """

    def __init__(
        self,
        model: Model,
        device: str = "cpu",
        batch_size: int | None = None,
        record_decisions: bool = False,
    ) -> None:
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ConfigError(
                f"'batch_size' has to be a number from 1, or null, got {batch_size!r}"
            )
        self.device = check_device(device)
        self.model = model.to(self.device).eval()
        self.batch_size = batch_size
        self.emits_events = record_decisions

    def start_episode(self, seed: int) -> Noise:
        """Return the random numbers of an episode."""
        return Noise(seed, self.model.n_uniform, self.model.n_normal)

    def act(
        self, observation: Observation, actor: ActorID, memory: Noise, deterministic: bool
    ) -> Action:
        """Return the most likely action, or a sampled one."""
        return self.act_batch([observation], [actor], [memory], deterministic)[0]

    def act_batch(
        self,
        observations: Sequence[Observation],
        actors: Sequence[ActorID],
        memories: Sequence[Noise],
        deterministic: bool,
    ) -> Sequence[Action]:
        """Ask each network for all at once whose decision it is."""
        return self.decide(observations, actors, memories, deterministic)[0]

    def take_events(self, memory: Noise) -> Sequence[Event]:
        """Return what was recorded of the last decision."""
        taken, memory.events = memory.events, []
        return taken

    def decide(
        self,
        observations: Sequence[Observation],
        actors: Sequence[ActorID],
        memories: Sequence[Noise],
        deterministic: bool,
    ) -> tuple[list[Action], list[Decision]]:
        """Return the actions, and how they came about."""
        model = self.model
        names = [model.network_of(actor) for actor in actors]
        first = names[0]
        if all(name == first for name in names):
            return self._ask(
                first, range(len(names)), observations, actors, memories, deterministic
            )
        actions: list[Any] = [None] * len(names)
        decisions: list[Decision] = []
        for name in dict.fromkeys(names):
            who = [i for i, other in enumerate(names) if other == name]
            chosen, decided = self._ask(
                name,
                who,
                [observations[i] for i in who],
                [actors[i] for i in who],
                [memories[i] for i in who],
                deterministic,
            )
            for i, action in zip(who, chosen, strict=True):
                actions[i] = action
            decisions += decided
        return actions, decisions

    def _ask(
        self,
        name: str,
        who: Sequence[int],
        observations: Sequence[Observation],
        actors: Sequence[ActorID],
        memories: Sequence[Noise],
        deterministic: bool,
    ) -> tuple[list[Action], list[Decision]]:
        network = self.model.networks[name]
        arrays = network.encoder.stack(observations)
        logits, values = self._compute(name, arrays, len(observations))
        uniform = normal = None
        if not deterministic:
            drawn = [memory.next() for memory in memories]
            uniform = np.array([numbers[0] for numbers in drawn])
            normal = np.array([numbers[1] for numbers in drawn])
        codes = choose_codes(network, logits, uniform, normal)
        if self.emits_events:
            self._record(name, actors, memories, logits, values)
        return env_actions(network, codes), [Decision(name, who, arrays, codes)]

    def _compute(
        self, name: str, arrays: Arrays, n: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return logits and, if they are to be recorded, values."""
        size = self.batch_size
        if size is not None and n != size:
            parts = [
                self._compute_padded(
                    name, {key: array[low : low + size] for key, array in arrays.items()}, size
                )
                for low in range(0, n, size)
            ]
            logits = np.concatenate([part[0] for part in parts])[:n]
            if parts[0][1] is None:
                return logits, None
            return logits, np.concatenate([part[1] for part in parts if part[1] is not None])[:n]
        network = self.model.networks[name]
        with torch.inference_mode():
            logits_of, shown = self.model.outputs(
                name, network.encoder.tensors(arrays, self.device)
            )
            values = None
            if (
                self.emits_events
                and name in self.model.critics
                and (self.model.critic_kind == "step" or name == next(iter(self.model.networks)))
            ):
                values = self.model.values(name, shown, None).cpu().numpy()
            return logits_of.cpu().numpy(), values

    def _compute_padded(
        self, name: str, arrays: Arrays, size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        n = len(next(iter(arrays.values())))
        padded = {
            key: np.concatenate([array, np.zeros((size - n, *array.shape[1:]), array.dtype)])
            for key, array in arrays.items()
        }
        logits, values = self._compute(name, padded, size)
        return logits[:n], None if values is None else values[:n]

    def _record(
        self,
        name: str,
        actors: Sequence[ActorID],
        memories: Sequence[Noise],
        logits: NDArray[np.float32],
        values: NDArray[np.float32] | None,
    ) -> None:
        with torch.inference_mode():
            entropy = self.model.entropy(name, torch.from_numpy(logits)).tolist()
        heads = self.model.networks[name].heads
        for i, (actor, memory) in enumerate(zip(actors, memories, strict=True)):
            text = json.dumps(
                {
                    head.name: [round(x, 6) for x in logits[i, head.logits].tolist()]
                    for head in heads
                }
            )
            value = float("nan") if values is None else float(values[i])
            memory.events = [
                PolicyDecision(str(actor.step_key), actor.agent_id, entropy[i], value, text)
            ]


def check_device(device: str) -> str:
    """Refuse a device that is not there.

    Raises:
        ConfigError: If torch does not know it, or cannot use it here.
    """
    try:
        torch.zeros(1, device=device)
    except Exception as error:
        raise ConfigError(
            f"the device '{device}' cannot be used here: {str(error).splitlines()[0]}. Use"
            " device=cpu."
        ) from error
    return device


def load_weights(model: Model, path: Path, *, policies_only: bool = False) -> None:
    """Load weights from a file of a training.

    Args:
        model: into which.
        path: of a file of ``torch.save``, which is read without unpickling objects.
        policies_only: whether those of critics are left as they are.

    Raises:
        ConfigError: If the file is missing, is something else, or is of another model.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(
            f"there are no weights '{path}': is input_dir the output directory of a training?"
        ) from None
    except Exception as error:
        raise ConfigError(
            f"'{path}' cannot be read as weights: {type(error).__name__}:"
            f" {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(weights, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in weights.values()
    ):
        raise ConfigError(f"'{path}' holds something else than weights by their names")
    own = {
        name: value
        for name, value in model.state_dict().items()
        if not policies_only or name.startswith("policies.")
    }
    missing = [name for name in own if name not in weights]
    others = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    if missing or others:
        said = (
            f"it has no '{missing[0]}'"
            if missing
            else f"'{others[0]}' is of shape {tuple(weights[others[0]].shape)} there and of"
            f" {tuple(own[others[0]].shape)} here"
        )
        raise ConfigError(
            f"the weights in '{path}' are of another model: {said}. Use the model of the training"
            " (without model=... it is taken from input_dir)."
        )
    model.load_state_dict({name: weights[name] for name in own}, strict=False)
