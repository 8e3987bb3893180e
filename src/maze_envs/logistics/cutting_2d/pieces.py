"""Rectangular pieces, and how one is cut for an order.

Cuts go through a piece from side to side (guillotine cuts). An order of (w, h), turned by 90
degrees if so chosen, lies in the corner at x = 0, y = 0 of a piece (x, y), and two cuts free it:

    x, then y             the first one cuts (x - w, y) off, over the whole height of the piece;
                          of the strip that is left, of width w, the second one cuts (w, y - h) off
    y, then x (reversed)  the first one cuts (x, y - h) off, over the whole width of the piece;
                          of the strip that is left, of height h, the second one cuts (x - w, h) off

So it is their order that decides what is left. A piece (4, 3) and an order of (1, 2):

    x, then y             leftovers (3, 3) and (1, 1)
    y, then x (reversed)  leftovers (4, 1) and (3, 2)

A cut along which nothing is left is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from maze.core.errors import ConfigError

Piece: TypeAlias = tuple[int, int]
"""Size of a rectangle along x and along y, in whole units of length, each at least 1."""


def to_piece(value: Any, name: str) -> Piece:
    """Return a size given in a config as a piece.

    Raises:
        ConfigError: If it is not two whole numbers of at least 1; ``name`` says what it is.
    """
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) for side in value)
        and min(value) >= 1
    ):
        return value[0], value[1]
    raise ConfigError(
        f"'{name}' has to be a size of two whole numbers of at least 1, such as [4, 3], got"
        f" {value!r}"
    )


def rotated(piece: Piece) -> Piece:
    """Return a piece turned by 90 degrees."""
    return piece[1], piece[0]


def fits(piece: Piece, demand: Piece) -> bool:
    """Return whether an order can be cut from a piece as it is, without rotation."""
    return demand[0] <= piece[0] and demand[1] <= piece[1]


def fits_somehow(piece: Piece, demand: Piece) -> bool:
    """Return whether an order can be cut from a piece, rotated or not."""
    return fits(piece, demand) or fits(piece, rotated(demand))


def leftovers(piece: Piece, demand: Piece, reverse_cutting_order: bool) -> list[Piece]:
    """Return what is left of a piece when an order is cut from it, see above.

    Args:
        piece: the order fits into it as it is.
        demand: the order, already turned as it is to be cut.
        reverse_cutting_order: whether it is cut along y first.

    Returns:
        At most two pieces, in the order in which they are cut off.
    """
    x, y = piece
    w, h = demand
    if reverse_cutting_order:
        left = [(x, y - h)] if y > h else []
        if x > w:
            left.append((x - w, h))
        return left
    left = [(x - w, y)] if x > w else []
    if y > h:
        left.append((w, y - h))
    return left
