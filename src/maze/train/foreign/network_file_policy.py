"""What policies from files of networks share: what goes in, and what comes out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey
from maze.core.errors import ConfigError, ContractError
from maze.train.distributions import Distribution, distributions_of
from maze.train.observations import ObservationEncoder
from maze.train.torch_policy import Noise

Output: TypeAlias = Literal["logits", "action"]


class NetworkFilePolicy(StructuredPolicy):
    """Plays what a network says that was trained elsewhere.

    The network is asked for a batch: 32-bit floats of shape (n, ...) for each entry of the
    observation (see ``ObservationEncoder``; with a single entry, for it alone). It returns, for
    each row, the action itself or the logits of its distribution.

    Args:
        observation_spaces: of the environment, which has one step key.
        action_spaces: likewise, with one head.
        output: ``logits`` (for a ``Discrete`` its log-probabilities up to a constant, for a ``Box``
            means and then logarithms of deviations) or ``action``, as the environment takes it.
        distributions: which distribution logits are of, see ``distributions_of``.

    Raises:
        ConfigError: If the environment has several step keys or heads.
    """

    def __init__(
        self,
        observation_spaces: Mapping[StepKey, spaces.Dict],
        action_spaces: Mapping[StepKey, spaces.Dict],
        output: Output = "logits",
        distributions: Mapping[str, str] | None = None,
    ) -> None:
        if len(action_spaces) != 1 or len(next(iter(action_spaces.values())).spaces) != 1:
            raise ConfigError(
                f"{type(self).__name__} is for environments with one kind of decision and one head,"
                f" this one has {dict(action_spaces)}. Write a StructuredPolicy that asks a network"
                " for each."
            )
        if output not in get_args(Output):
            raise ConfigError(f"'output' has to be logits or action, got {output!r}")
        (space,) = action_spaces.values()
        ((self._head, self._space),) = space.spaces.items()
        self._encoder = ObservationEncoder(next(iter(observation_spaces.values())))
        self._names = list(self._encoder.shapes)
        self._distribution: Distribution | None = None
        if output == "logits":
            self._distribution = distributions_of(space, distributions)[self._head]

    def start_episode(self, seed: int) -> Any:
        """Return the random numbers of an episode, and the network's state."""
        distribution = self._distribution
        n_uniform = 0 if distribution is None else distribution.n_uniform
        n_normal = 0 if distribution is None else distribution.n_normal
        return {"noise": Noise(seed, n_uniform, n_normal), "state": None}

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        """Return the most likely action, or a sampled one."""
        return self.act_batch([observation], [actor], [memory], deterministic)[0]

    def act_batch(
        self,
        observations: Sequence[Observation],
        actors: Sequence[ActorID],
        memories: Sequence[Any],
        deterministic: bool,
    ) -> Sequence[Action]:
        """Ask the network for all at once."""
        tensors = self._encoder.tensors(self._encoder.stack(observations))
        given = self._ask({name: t.numpy() for name, t in tensors.items()}, memories)
        if len(given) != len(observations):
            raise ContractError(
                f"the network returned {len(given)} rows for {len(observations)} observations"
            )
        distribution = self._distribution
        if distribution is None:
            return [{self._head: self._as_action(row)} for row in given]
        logits = np.asarray(given, np.float32).reshape(len(given), -1)
        if logits.shape[1] != distribution.n_logits:
            raise ContractError(
                f"the network returned {logits.shape[1]} numbers, but {type(distribution).__name__}"
                f" for {self._space} takes {distribution.n_logits} logits. If they are the action"
                " itself, say output=action."
            )
        if deterministic:
            codes = distribution.mode(logits)
        else:
            drawn = [memory["noise"].next() for memory in memories]
            codes = distribution.sample(
                logits, np.array([u for u, _ in drawn]), np.array([n for _, n in drawn])
            )
        return [{self._head: value} for value in distribution.to_env(codes)]

    @abstractmethod
    def _ask(
        self, arrays: Mapping[str, NDArray[np.float32]], memories: Sequence[Any]
    ) -> NDArray[Any]:
        """Return what the network says, a row for each observation."""

    def _as_action(self, row: NDArray[Any]) -> Any:
        space = self._space
        if isinstance(space, spaces.Discrete):
            return int(np.asarray(row).reshape(()))
        return np.asarray(row, space.dtype).reshape(space.shape)


def existing_file(path: str | Path, what: str) -> Path:
    """Return the path of a file.

    Raises:
        ConfigError: If it is not there.
    """
    if not path or not Path(path).is_file():
        raise ConfigError(f"there is no {what} '{path}' (policy.path)")
    return Path(path)
