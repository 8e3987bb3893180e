"""Transitions for learning off-policy: kept in a ring, sampled evenly.

A transition leads from a decision to the next one of its chain. Where these are of different
networks, with sub-steps, their observations have other shapes; so there is a ring for each pair of
networks that follow each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maze.train.collect import CUT, GOES_ON, Segment
from maze.train.observations import Arrays


class Transitions(NamedTuple):
    """Rows that were sampled, or are to be added."""

    observations: Arrays
    codes: Mapping[str, NDArray[Any]]
    reward: NDArray[np.float32]
    discount: NDArray[np.float32]
    """Of the value of what follows: 0 after a termination."""
    next_observations: Arrays


class ReplayBuffer:
    """The last transitions.

    Args:
        capacity: transitions that are kept for each pair of networks.
        discount: per structured step.
    """

    def __init__(self, capacity: int, discount: float) -> None:
        self._capacity, self._discount = capacity, discount
        self._rings: dict[tuple[str, str], _Ring] = {}

    def __len__(self) -> int:
        return sum(ring.n_filled for ring in self._rings.values())

    def add(self, segment: Segment) -> int:
        """Add the transitions of a segment; return how many there were."""
        follows = segment.follows
        index = np.flatnonzero(follows != CUT)
        goes_on = follows[index] == GOES_ON
        # What follows a termination is never looked at: the decision itself stands for it.
        successor = np.where(goes_on, index + 1, index)
        elapsed = segment.time[successor] - segment.time[index]
        discount = np.where(goes_on, self._discount**elapsed, 0.0).astype(np.float32)
        network, following = segment.network[index], segment.network[successor]
        for pair in sorted(set(zip(network.tolist(), following.tolist(), strict=True))):
            of_pair = (network == pair[0]) & (following == pair[1])
            chosen = index[of_pair]
            names = segment.networks[pair[0]], segment.networks[pair[1]]
            rows, next_rows = segment.row[chosen], segment.row[successor[of_pair]]
            here, there = segment.rows[names[0]], segment.rows[names[1]]
            transitions = Transitions(
                {name: array[rows] for name, array in here.observations.items()},
                {head: codes[rows] for head, codes in here.codes.items()},
                segment.reward[chosen].astype(np.float32),
                discount[of_pair],
                {name: array[next_rows] for name, array in there.observations.items()},
            )
            if names not in self._rings:
                self._rings[names] = _Ring(self._capacity, transitions)
            self._rings[names].add(transitions)
        return len(index)

    def sample(
        self, rng: np.random.Generator, batch_size: int
    ) -> dict[tuple[str, str], Transitions]:
        """Return about so many transitions, by the pair of networks, drawn with replacement."""
        n_all = len(self)
        return {
            pair: ring.take(rng.integers(ring.n_filled, size=size))
            for pair, ring in self._rings.items()
            if (size := max(1, round(batch_size * ring.n_filled / n_all)))
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return all that is kept, for a checkpoint."""
        return {
            f"{names[0]}\n{names[1]}\n{key}": tensor
            for names, ring in self._rings.items()
            for key, tensor in ring.tensors().items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what ``tensors`` returned."""
        by_pair: dict[tuple[str, str], dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            first, second, key = name.split("\n", 2)
            by_pair.setdefault((first, second), {})[key] = tensor
        self._rings = {
            pair: _Ring.restored(self._capacity, of_pair) for pair, of_pair in by_pair.items()
        }


class _Ring:
    """Transitions of one pair of networks."""

    def __init__(self, capacity: int, like: Transitions) -> None:
        self._capacity = capacity
        self._columns = {
            # Not touched before it is written, so that it takes no memory before.
            name: np.empty((capacity, *array.shape[1:]), array.dtype)
            for name, array in _named(like).items()
        }
        self._n_added = 0

    @property
    def n_filled(self) -> int:
        return min(self._n_added, self._capacity)

    def add(self, transitions: Transitions) -> None:
        n = len(transitions.reward)
        places = np.arange(self._n_added, self._n_added + n) % self._capacity
        for name, array in _named(transitions).items():
            self._columns[name][places] = array
        self._n_added += n

    def take(self, rows: NDArray[np.int64]) -> Transitions:
        return _transitions({name: column[rows] for name, column in self._columns.items()})

    def tensors(self) -> dict[str, Tensor]:
        n = self.n_filled
        return {
            "n_added": torch.tensor(self._n_added),
            **{name: torch.from_numpy(column[:n]) for name, column in self._columns.items()},
        }

    @classmethod
    def restored(cls, capacity: int, tensors: Mapping[str, Tensor]) -> _Ring:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items() if name != "n_added"}
        ring = cls(capacity, _transitions(arrays))
        ring._n_added = int(tensors["n_added"])
        for name, array in arrays.items():
            ring._columns[name][: len(array)] = array
        return ring


def _named(transitions: Transitions) -> dict[str, NDArray[Any]]:
    return {
        **{f"observation {name}": array for name, array in transitions.observations.items()},
        **{f"code {head}": codes for head, codes in transitions.codes.items()},
        "reward": transitions.reward,
        "discount": transitions.discount,
        **{f"next {name}": array for name, array in transitions.next_observations.items()},
    }


def _transitions(arrays: Mapping[str, NDArray[Any]]) -> Transitions:
    parts: dict[str, dict[str, NDArray[Any]]] = {"observation": {}, "code": {}, "next": {}}
    for name, array in arrays.items():
        kind, _, rest = name.partition(" ")
        if kind in parts:
            parts[kind][rest] = array
    return Transitions(
        parts["observation"], parts["code"], arrays["reward"], arrays["discount"], parts["next"]
    )
