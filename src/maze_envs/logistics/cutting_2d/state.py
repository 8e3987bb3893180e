"""State and actions of the cutting environment, in its own terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from maze_envs.logistics.cutting_2d.pieces import Piece


@dataclass(frozen=True)
class Cutting2DState:
    """What there is before a decision."""

    inventory: tuple[Piece, ...]
    """The pieces in stock, oldest first: at least one, ``max_pieces_in_inventory`` at most, and
    exactly one of raw size."""
    current_demand: Piece
    """The order that is to be cut now. It fits into a raw piece, perhaps rotated."""
    raw_piece_size: Piece
    """Size of the pieces that come from outside."""
    max_pieces_in_inventory: int
    """How many pieces the inventory takes."""
    selected_piece: int | None = None
    """Index of the piece that was selected to be cut, whether there is such a piece or not.
    ``None`` where piece and cut are chosen at once, and before the selection."""
    n_steps: int = 0
    """Orders that were dealt with since the reset."""
    n_raw_pieces: int = 1
    """Raw pieces that came from outside since the reset, the one in the inventory included."""

    @property
    def piece_selected(self) -> Piece | None:
        """The selected piece; ``None`` if there is none of that index, or nothing is selected."""
        index = self.selected_piece
        if index is None or not 0 <= index < len(self.inventory):
            return None
        return self.inventory[index]

    def with_selected_piece(self, index: int | None) -> Cutting2DState:
        """Return the same state with another selected piece."""
        return Cutting2DState(
            self.inventory,
            self.current_demand,
            self.raw_piece_size,
            self.max_pieces_in_inventory,
            index,
            self.n_steps,
            self.n_raw_pieces,
        )


@dataclass(frozen=True)
class SelectAction:
    """Which piece is going to be cut."""

    piece_index: int
    """In the inventory. One that is not there makes an invalid step of the cut that follows."""


@dataclass(frozen=True)
class CutAction:
    """Which piece is cut, and how."""

    piece_index: int
    """In the inventory."""
    rotate: bool
    """Whether the order is cut turned by 90 degrees, its x along the piece's y."""
    reverse_cutting_order: bool
    """Whether it is cut to length along y first and along x then, instead of x and then y."""


Cutting2DAction: TypeAlias = SelectAction | CutAction
