"""A heuristic that looks ahead: it guesses the coming orders, and plans the cuts for them.

It knows no more than what it observes. Orders that have repeated themselves until now are expected
to go on doing so; where they have not, only the current one is planned. What is left after the
planned cuts is judged by how much of it the sizes that were ordered so far could use up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from gymnasium import spaces

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation, StepKey
from maze.core.errors import ContractError
from maze_envs.logistics.cutting_2d.greedy_policy import order_in, pieces_in
from maze_envs.logistics.cutting_2d.pieces import Piece, fits, leftovers, rotated

_LARGEST_SIDE = 3_603_600
"""To whole numbers of this are sides scaled that are none: most numbers up to 100 divide it."""

_N_MATCHES = 3
"""Orders that have to come again before a period is believed in."""


_N_SIZES = 16
"""Sizes of orders by which the worth of pieces is judged: those that came most often."""

_PREFERS_LARGE = 0.2
"""Power of a piece's area by which its worth grows. Found by trying: with 0 large pieces are cut
up needlessly."""


class LookaheadPolicy(StructuredPolicy):
    """Plans the cuts for the coming orders, with as few raw pieces as possible.

    A beam search over piece, rotation and cutting order: after each planned order only the best
    ways to get there are kept. The plan is followed as long as the orders come as expected.

    Nothing is random. Sizes may be in any unit, as long as it is the same for all of them.

    Args:
        action_spaces: the environment's, by step key.
        n_planned_orders: how many orders a plan is made for, at most.
        beam_width: how many ways are kept. More are better, and slower in proportion.
        n_pieces_tried: of how many sizes of pieces, the smallest into which an order fits, one is
            chosen.
    """

    def __init__(
        self,
        action_spaces: Mapping[StepKey, spaces.Dict],
        n_planned_orders: int = 12,
        beam_width: int = 24,
        n_pieces_tried: int = 6,
    ) -> None:
        self.action_spaces = dict(action_spaces)
        self.n_planned_orders = n_planned_orders
        self.beam_width = beam_width
        self.n_pieces_tried = n_pieces_tried

    def start_episode(self, seed: int) -> _Memory:
        """Return an empty memory."""
        return _Memory()

    def act(
        self, observation: Observation, actor: ActorID, memory: _Memory, deterministic: bool
    ) -> Action:
        """Return the piece, its cut, or both, as the action space asks.

        Raises:
            ContractError: If the order fits into no piece.
        """
        if "selected_piece" not in observation:
            memory.choice = self._choose(observation, memory)
        return {head: memory.choice[head] for head in self.action_spaces[actor.step_key].spaces}

    def _choose(self, observation: Observation, memory: _Memory) -> dict[str, int]:
        pieces, order = _in_whole_units(pieces_in(observation), order_in(observation))
        memory.orders.add(_lying(order))
        if not memory.plan or not memory.plan[0].serves(order, pieces):
            coming = [_lying(order), *memory.orders.expected(self.n_planned_orders - 1)]
            memory.plan = self._plan(pieces, coming, memory.orders.sizes())
        cut = memory.plan.pop(0)
        return {
            "piece_idx": pieces.index(cut.piece),
            "cut_rotation": int(cut.demand != order),
            "cut_order": int(cut.reverse_cutting_order),
        }

    def _plan(
        self, pieces: Sequence[Piece], orders: Sequence[Piece], sizes: Sequence[Piece]
    ) -> list[_Cut]:
        raw = max(pieces, key=_area)
        worth = _Worth(sizes, raw)
        stock = list(pieces)
        stock.remove(raw)
        useful = tuple(sorted((p for p in stock if worth.of(p) or _fits(p, orders[0])), key=_area))
        ways = [_Way(0.0, useful, ())]
        for order in orders:
            following: dict[tuple[Piece, ...], _Way] = {}
            for way in ways:
                self._go_on(way, order, raw, worth, following)
            if not following:
                raise ContractError(
                    f"an order of {order} can be cut from none of the {len(pieces)} pieces in the"
                    " inventory. Are they measured in the same unit?"
                )
            ways = sorted(following.values(), key=_cost)[: self.beam_width]
        return _cuts_of(ways[0])

    def _go_on(
        self,
        way: _Way,
        order: Piece,
        raw: Piece,
        worth: _Worth,
        following: dict[tuple[Piece, ...], _Way],
    ) -> None:
        fitting = dict.fromkeys(piece for piece in way.pieces if _fits(piece, order))
        demands = (order,) if order[0] == order[1] else (order, rotated(order))
        for piece in (*islice(fitting, self.n_pieces_tried), raw):
            others = way.pieces
            if piece is raw:
                cost = way.cost + float(_area(raw))
            else:
                index = others.index(piece)
                others = others[:index] + others[index + 1 :]
                cost = way.cost + worth.of(piece)
            for demand in demands:
                if not fits(piece, demand):
                    continue
                is_one_cut = demand[0] == piece[0] or demand[1] == piece[1]
                for reverse in (False,) if is_one_cut else (False, True):
                    left = [p for p in leftovers(piece, demand, reverse) if worth.of(p)]
                    new_cost = cost - sum(map(worth.of, left))
                    key = tuple(sorted((*others, *left), key=_by_area)) if left else others
                    known = following.get(key)
                    if known is None or new_cost < known.cost:
                        following[key] = _Way(
                            new_cost, key, (way.cuts, _Cut(piece, demand, reverse))
                        )


class _Cut(NamedTuple):
    """A planned cut."""

    piece: Piece
    demand: Piece
    """The order, turned as it is cut."""
    reverse_cutting_order: bool

    def serves(self, order: Piece, pieces: Sequence[Piece]) -> bool:
        """Return whether it can be done, and is for that order."""
        return _lying(self.demand) == _lying(order) and self.piece in pieces


class _Way(NamedTuple):
    """A way to cut the orders so far."""

    cost: float
    """Area of the raw pieces cut, less what the leftovers are worth."""
    pieces: tuple[Piece, ...]
    """In stock and of use, but for the raw one, smallest first."""
    cuts: tuple[Any, ...]
    """Empty, or the cuts before the last one, in this form, and the last one: a further cut then
    takes no copy."""


class _Worth:
    """How much of a piece may be used up by orders of some sizes."""

    def __init__(self, sizes: Sequence[Piece], raw: Piece) -> None:
        self._sizes = [turned for size in sizes for turned in {size, rotated(size)}]
        self._raw_area = _area(raw)
        self._of: dict[Piece, float] = {}
        self._in_rows: dict[Piece, int] = {}

    def of(self, piece: Piece) -> float:
        """Return an area, 0 for a piece of no use. Of equal use, a larger piece is worth more."""
        worth = self._of.get(piece)
        if worth is None:
            use = max(
                (self._use(piece, size) for size in self._sizes if fits(piece, size)), default=0
            )
            worth = use * (_area(piece) / self._raw_area) ** _PREFERS_LARGE if use else 0.0
            self._of[piece] = worth
        return worth

    def _use(self, piece: Piece, size: Piece) -> int:
        """Return the area that is used by rows of a size, and by rows in what they leave."""
        (x, y), (w, h) = piece, size
        filled = x - x % w, y - y % h
        return _area(filled) + max(
            sum(map(self._rows, leftovers(piece, filled, reverse))) for reverse in (False, True)
        )

    def _rows(self, piece: Piece) -> int:
        """Return the area that is used if a piece is filled with rows of the best size."""
        used = self._in_rows.get(piece)
        if used is None:
            x, y = piece
            used = max(((x - x % w) * (y - y % h) for w, h in self._sizes), default=0)
            self._in_rows[piece] = used
        return used


class _Orders:
    """The orders until now, and those that can be expected."""

    def __init__(self) -> None:
        self._orders: list[Piece] = []
        # Numbers of orders after which all that has come until now has repeated itself.
        self._periods: list[int] = []

    def add(self, order: Piece) -> None:
        orders, n = self._orders, len(self._orders)
        self._periods = [period for period in self._periods if orders[n - period] == order]
        if n and orders[0] == order:
            self._periods.append(n)
        orders.append(order)

    def expected(self, n: int) -> list[Piece]:
        """Return the next orders, at most ``n``; none if there is no pattern in what came."""
        orders = self._orders
        for period in self._periods:
            if len(orders) - period >= _N_MATCHES:
                last = orders[-period:]
                return [last[i % period] for i in range(n)]
        return []

    def sizes(self) -> list[Piece]:
        """Return the sizes that came most often."""
        return [size for size, _ in Counter(self._orders).most_common(_N_SIZES)]


@dataclass
class _Memory:
    """What is remembered of an episode."""

    orders: _Orders = field(default_factory=_Orders)
    plan: list[_Cut] = field(default_factory=list)
    choice: dict[str, int] = field(default_factory=dict)


def _in_whole_units(
    pieces: Sequence[tuple[float, float]], order: tuple[float, float]
) -> tuple[list[Piece], Piece]:
    """Return sizes in whole numbers, as they are if they are such."""
    sizes = [*pieces, order]
    if not all(x.is_integer() and y.is_integer() for x, y in sizes):
        # The largest side is always the same, that of the raw piece.
        unit = max(map(max, sizes)) / _LARGEST_SIDE
        sizes = [(x / unit, y / unit) for x, y in sizes]
    *whole, whole_order = [(round(x), round(y)) for x, y in sizes]
    return whole, whole_order


def _lying(piece: Piece) -> Piece:
    """Return a size with the longer side first: orders may come turned."""
    return piece if piece[0] >= piece[1] else rotated(piece)


def _area(piece: Piece) -> int:
    return piece[0] * piece[1]


def _by_area(piece: Piece) -> tuple[int, Piece]:
    return piece[0] * piece[1], piece


def _fits(piece: Piece, order: Piece) -> bool:
    (x, y), (w, h) = piece, order
    return (w <= x and h <= y) or (h <= x and w <= y)


def _cost(way: _Way) -> float:
    return way.cost


def _cuts_of(way: _Way) -> list[_Cut]:
    cuts: list[_Cut] = []
    nested = way.cuts
    while nested:
        nested, cut = nested
        cuts.append(cut)
    return cuts[::-1]
