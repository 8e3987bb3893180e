"""Where orders come from.

    StaticDemand          a list, again and again
    MixedPeriodicDemand   a list that raw pieces can be cut into without any waste, again and again
    RandomMixedDemand     sizes drawn by chance, independent of each other

In a config: ``demand: {_target_: maze_envs.logistics.cutting_2d.demand.RandomMixedDemand, ...}``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from maze.core.errors import ConfigError
from maze_envs.logistics.cutting_2d.pieces import Piece, leftovers, rotated, to_piece

_N_DRAWN = 64


class DemandGenerator(ABC):
    """Generates the orders of an episode, one after the other."""

    @abstractmethod
    def reset(self, rng: np.random.Generator) -> None:
        """Start an episode.

        Args:
            rng: everything random in the orders comes from it.
        """

    @abstractmethod
    def next_demand(self) -> Piece:
        """Return the next order. There is always one more."""

    def possible_orders(self) -> Sequence[Piece] | None:
        """Return all orders that may come, to be checked; ``None`` (the default): not known."""
        return None


class StaticDemand(DemandGenerator):
    """Demands the orders of a list in turn, and begins again at its end. Nothing is random.

    Args:
        orders: sizes (x, y), at least one.

    Raises:
        ConfigError: If it is no list of sizes.
    """

    def __init__(self, orders: Any) -> None:
        self.orders = _to_pieces(orders, "static_demand")
        self._n_demanded = 0

    def reset(self, rng: np.random.Generator) -> None:
        """Begin with the first order."""
        self._n_demanded = 0

    def next_demand(self) -> Piece:
        """Return the next order of the list."""
        order = self.orders[self._n_demanded % len(self.orders)]
        self._n_demanded += 1
        return order

    def possible_orders(self) -> Sequence[Piece]:
        """Return the list."""
        return self.orders


class RandomMixedDemand(DemandGenerator):
    """Draws each order from some sizes.

    Args:
        sizes: (x, y) each, at least one.
        weights: how often each of them comes, in any unit. ``None``: all equally often.
        rotate: whether each order is turned by 90 degrees with a probability of one half.

    Raises:
        ConfigError: If it is no list of sizes, or if there is not a weight, at least 0, for each.
    """

    def __init__(
        self, sizes: Any, weights: Sequence[float] | None = None, rotate: bool = False
    ) -> None:
        self.sizes = _to_pieces(sizes, "sizes")
        weights = [1.0] * len(self.sizes) if weights is None else [float(w) for w in weights]
        if len(weights) != len(self.sizes) or not all(0 <= w < np.inf for w in weights):
            raise ConfigError(
                f"'weights' has to have a number of at least 0 for each of the {len(self.sizes)}"
                f" sizes, got {weights}"
            )
        if not sum(weights):
            raise ConfigError("'weights' are all 0: at least one of the sizes has to come")
        self.weights = weights
        self.rotate = rotate
        self._up_to = [total / sum(weights) for total in accumulate(weights)]
        # Sums of weights are rounded; sizes of weight 0 at the end must not come for that.
        last = max(index for index, weight in enumerate(weights) if weight)
        self._up_to = self._up_to[:last]

    def reset(self, rng: np.random.Generator) -> None:
        """Draw from another generator."""
        self._rng = rng
        self._drawn: list[float] = []

    def next_demand(self) -> Piece:
        """Draw an order."""
        order = self.sizes[bisect(self._up_to, self._uniform())]
        return rotated(order) if self.rotate and self._uniform() < 0.5 else order

    def possible_orders(self) -> Sequence[Piece]:
        """Return all sizes. What fits may be turned, so it does not matter how they lie."""
        return self.sizes

    def _uniform(self) -> float:
        if not self._drawn:
            self._drawn = self._rng.random(_N_DRAWN).tolist()
        return self._drawn.pop()


class MixedPeriodicDemand(DemandGenerator):
    """Repeats a sequence of orders that use up a number of raw pieces without any waste.

    The sequence is made by the environment's own cuts, drawn by chance: orders are cut from raw
    pieces and from what is left of them until nothing is. So whoever knew what comes would need
    ``n_raw_pieces`` raw pieces for each period, and nobody can do with fewer, as their
    areas are the same. Orders are in the sequence in an order in which they can be cut; those of
    different raw pieces, and of different leftovers, are mixed.

    Args:
        raw_piece_size: of the environment, which offers it where this is built from a config.
        n_raw_pieces: in a period.
        m_demanded_pieces: orders in a period, at least one for each raw piece.
        rotate: whether each order is turned by 90 degrees with a probability of one half, each time
            that it comes. They can be turned back when they are cut.
        seed: of the sequence, which is then the same in all episodes. ``None``: each episode has
            its own.

    Raises:
        ConfigError: If raw pieces cannot be cut into so many orders.
    """

    orders: tuple[Piece, ...]
    """The sequence of the episode, unrotated."""

    def __init__(
        self,
        raw_piece_size: Any,
        n_raw_pieces: int = 2,
        m_demanded_pieces: int = 12,
        rotate: bool = False,
        seed: int | None = None,
    ) -> None:
        self.raw_piece_size = to_piece(raw_piece_size, "raw_piece_size")
        area = self.raw_piece_size[0] * self.raw_piece_size[1]
        if n_raw_pieces < 1 or not n_raw_pieces <= m_demanded_pieces <= n_raw_pieces * area:
            raise ConfigError(
                f"{n_raw_pieces} raw pieces of {list(self.raw_piece_size)} cannot be cut into"
                f" {m_demanded_pieces} orders: 'n_raw_pieces' has to be at least 1, and"
                " 'm_demanded_pieces' at least that and at most their area"
            )
        self.n_raw_pieces = n_raw_pieces
        self.m_demanded_pieces = m_demanded_pieces
        self.rotate = rotate
        self.seed = seed
        if seed is not None:
            self.orders = self._draw_orders(np.random.default_rng(seed))

    def reset(self, rng: np.random.Generator) -> None:
        """Begin with the first order, of a new sequence if each episode has its own."""
        if self.seed is None:
            self.orders = self._draw_orders(rng)
        self._rng = rng
        self._n_demanded = 0
        self._turns: list[bool] = []

    def next_demand(self) -> Piece:
        """Return the next order of the sequence."""
        order = self.orders[self._n_demanded % len(self.orders)]
        self._n_demanded += 1
        if not self.rotate:
            return order
        if not self._turns:
            self._turns = (self._rng.random(_N_DRAWN) < 0.5).tolist()
        return rotated(order) if self._turns.pop() else order

    def _draw_orders(self, rng: np.random.Generator) -> tuple[Piece, ...]:
        n, m = self.n_raw_pieces, self.m_demanded_pieces
        # What can be cut next: an order can once that is cut from whose leftovers it comes.
        possible = [
            _cut_by_chance(rng, self.raw_piece_size, m // n + (i < m % n)) for i in range(n)
        ]
        orders: list[Piece] = []
        while possible:
            cut = possible.pop(int(rng.integers(len(possible))))
            orders.append(cut.order)
            possible += cut.of_leftovers
        return tuple(orders)


class _Cut(NamedTuple):
    """An order that is cut from a piece, and what is cut from what is left."""

    order: Piece
    of_leftovers: tuple[_Cut, ...]


def _cut_by_chance(rng: np.random.Generator, piece: Piece, n_orders: int) -> _Cut:
    """Cut a piece into a number of orders, at most as many as its area."""
    if n_orders == 1:
        return _Cut(piece, ())
    x, y = piece
    n_left = n_orders - 1
    order = _shorter(rng, x), _shorter(rng, y)
    # A strip, the full side of the piece, leaves one piece: enough for one order, too.
    if n_left == 1 or min(piece) == 1 or rng.random() < 1 / 3:
        is_upright = y == 1 or (x > 1 and rng.random() < x / (x + y))
        order = (order[0], y) if is_upright else (x, order[1])
    if x * y - order[0] * order[1] < n_left:
        # So many orders are left that only the finest cut leaves room for them.
        order = 1, 1
    left = leftovers(piece, order, reverse_cutting_order=rng.random() < 0.5)
    if len(left) == 1:
        return _Cut(order, (_cut_by_chance(rng, left[0], n_left),))
    first, second = (a * b for a, b in left)
    n_first = round(n_left * first / (first + second))
    n_first = min(max(n_first, 1, n_left - second), n_left - 1, first)
    return _Cut(
        order,
        (
            _cut_by_chance(rng, left[0], n_first),
            _cut_by_chance(rng, left[1], n_left - n_first),
        ),
    )


def _shorter(rng: np.random.Generator, side: int) -> int:
    """Draw a part of a side, not too far from its middle; all of it if it cannot be cut."""
    least = max(1, side // 4)
    return int(rng.integers(least, max(least, min(3 * side // 4, side - 1)) + 1))


def _to_pieces(sizes: Any, name: str) -> tuple[Piece, ...]:
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or not sizes:
        raise ConfigError(
            f"'{name}' has to be a list of sizes, such as [[1, 2], [2, 2]], got {sizes!r}"
        )
    return tuple(to_piece(size, f"{name}[{index}]") for index, size in enumerate(sizes))
