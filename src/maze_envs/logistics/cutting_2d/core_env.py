"""The rules: rectangular pieces are cut for orders, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from maze.core.env.core_env import CoreEnv
from maze.core.env.structured_env import ActorID, EpisodeSummary, StepKey
from maze.core.errors import ConfigError
from maze_envs.logistics.cutting_2d.demand import DemandGenerator
from maze_envs.logistics.cutting_2d.events import (
    InvalidCut,
    InvalidPieceSelected,
    PieceDiscarded,
    PieceReplenished,
    PiecesInInventory,
    ValidCut,
)
from maze_envs.logistics.cutting_2d.pieces import (
    Piece,
    fits,
    fits_somehow,
    leftovers,
    rotated,
    to_piece,
)
from maze_envs.logistics.cutting_2d.state import (
    CutAction,
    Cutting2DAction,
    Cutting2DState,
    SelectAction,
)

SELECT, CUT = 0, 1
"""Step keys of the two sub-steps."""


class Cutting2DCoreEnv(CoreEnv[Cutting2DState, CutAction]):
    """Cuts each order from a piece of the inventory, with as few raw pieces as possible.

    A step is an order. What an action does:

        the piece is not in the inventory    ``InvalidPieceSelected``, nothing else
        the order does not fit into it       ``InvalidCut``, nothing else
        otherwise                            ``ValidCut``: the piece is taken out, its leftovers go
                                             to the end of the inventory

    A raw piece that is cut is replaced at once, after the leftovers (``PieceReplenished``). When
    a piece comes into a full inventory, the oldest one is discarded first (``PieceDiscarded``).
    Should that be the raw piece, it is replaced, too. So there is exactly one raw piece after each
    step, and each order can be cut from something.

    Whatever happened, a step ends with ``PiecesInInventory`` and the next order: an order that was
    not cut is lost. The first raw piece comes in the reset, as ``PieceReplenished`` too. Episodes
    never end by themselves.

    Args:
        raw_piece_size: of the pieces that come from outside, (x, y).
        max_pieces_in_inventory: how many pieces the inventory takes, at least 1.
        demand: generates the orders.

    Raises:
        ConfigError: If an argument makes no sense, or if the generator has an order that does not
            fit into a raw piece.
    """

    state: Cutting2DState
    """After the last step, or the reset."""

    def __init__(
        self, raw_piece_size: Any, max_pieces_in_inventory: int, demand: DemandGenerator
    ) -> None:
        super().__init__()
        self.raw_piece_size = to_piece(raw_piece_size, "raw_piece_size")
        if not isinstance(max_pieces_in_inventory, int) or max_pieces_in_inventory < 1:
            raise ConfigError(
                "'max_pieces_in_inventory' has to be a whole number of at least 1, got"
                f" {max_pieces_in_inventory!r}"
            )
        self.max_pieces_in_inventory = max_pieces_in_inventory
        self.demand = demand
        for order in demand.possible_orders() or ():
            self._check_fits(order)

    def reset(self, rng: np.random.Generator) -> Cutting2DState:
        """Start with one raw piece and the first order."""
        self.demand.reset(rng)
        self.events.append(PieceReplenished())
        self.state = Cutting2DState(
            (self.raw_piece_size,),
            self._next_demand(),
            self.raw_piece_size,
            self.max_pieces_in_inventory,
        )
        return self.state

    def step(self, action: CutAction) -> tuple[Cutting2DState, bool, bool]:
        """Cut the current order, if that is possible, and take the next one."""
        state, events, raw, slots = (
            self.state,
            self.events,
            self.raw_piece_size,
            self.max_pieces_in_inventory,
        )
        inventory, n_raw_pieces = state.inventory, state.n_raw_pieces
        index, rotate, reverse = action.piece_index, action.rotate, action.reverse_cutting_order
        if not 0 <= index < len(inventory):
            events.append(InvalidPieceSelected(index))
        else:
            piece, ordered = inventory[index], state.current_demand
            demand = rotated(ordered) if rotate else ordered
            if not fits(piece, demand):
                events.append(InvalidCut(*piece, *ordered, rotate))
            else:
                events.append(ValidCut(*piece, *ordered, rotate, reverse))
                pieces = [*inventory[:index], *inventory[index + 1 :]]
                pieces += leftovers(piece, demand, reverse)
                has_raw = piece != raw
                while len(pieces) > slots:
                    if self._discard(pieces) == raw:
                        has_raw = False
                if not has_raw:
                    if len(pieces) == slots:
                        self._discard(pieces)
                    pieces.append(raw)
                    n_raw_pieces += 1
                    events.append(PieceReplenished())
                inventory = tuple(pieces)
        events.append(PiecesInInventory(len(inventory)))
        self.state = Cutting2DState(
            inventory, self._next_demand(), raw, slots, None, state.n_steps + 1, n_raw_pieces
        )
        return self.state, False, False

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        """Return ``raw_piece_usage_per_step``: raw pieces that came, by steps."""
        n_raw_pieces = summary.statistics.get("PieceReplenished.count", 0.0)
        return {"raw_piece_usage_per_step": n_raw_pieces / max(summary.n_steps, 1)}

    def _discard(self, pieces: list[Piece]) -> Piece:
        """Throw the oldest piece away, and return it."""
        oldest = pieces.pop(0)
        self.events.append(PieceDiscarded(*oldest))
        return oldest

    def _next_demand(self) -> Piece:
        order = self.demand.next_demand()
        self._check_fits(order)
        return order

    def _check_fits(self, order: Piece) -> None:
        if not fits_somehow(self.raw_piece_size, order):
            raise ConfigError(
                f"an order of {list(order)} cannot be cut from raw pieces of"
                f" {list(self.raw_piece_size)}: make orders smaller or raw pieces larger"
            )


class SelectThenCutCoreEnv(CoreEnv[Cutting2DState, Cutting2DAction]):
    """Asks for the piece first, and then how to cut it, under the same rules.

        step key 0    ``SelectAction``    nothing happens, but that the state has a selected piece
        step key 1    ``CutAction``       the step of the rules

    Time advances with the cut. A selected piece that does not exist is taken as well: the cut that
    follows yields ``InvalidPieceSelected``, whatever it is.

    Args:
        core_env: the rules.
    """

    agent_counts: Mapping[StepKey, int] = MappingProxyType({SELECT: 1, CUT: 1})

    state: Cutting2DState
    """After the last sub-step, or the reset."""

    def __init__(self, core_env: Cutting2DCoreEnv) -> None:
        super().__init__()
        self.core_env = core_env
        # One list, so that nothing needs to be handed on.
        self.events = core_env.events

    def reset(self, rng: np.random.Generator) -> Cutting2DState:
        """Start an episode with a selection."""
        self.state = self.core_env.reset(rng)
        return self.state

    def step(self, action: Cutting2DAction) -> tuple[Cutting2DState, bool, bool]:
        """Select the piece, or cut the one that is selected."""
        terminated = truncated = False
        if isinstance(action, SelectAction):
            self.state = self.core_env.state.with_selected_piece(action.piece_index)
        else:
            self.state, terminated, truncated = self.core_env.step(action)
        return self.state, terminated, truncated

    def actor_id(self) -> ActorID:
        """Return the selection's or the cut's actor."""
        return _SELECTS if self.state.selected_piece is None else _CUTS

    def env_time(self) -> int:
        """Return the number of orders dealt with."""
        return self.state.n_steps

    def kpis(self, summary: EpisodeSummary) -> Mapping[str, float]:
        """Return the rules' key figures."""
        return self.core_env.kpis(summary)


_SELECTS, _CUTS = ActorID(SELECT, 0), ActorID(CUT, 0)
