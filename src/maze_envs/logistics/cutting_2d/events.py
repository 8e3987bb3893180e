"""What happens while orders are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from maze.core.events.event import Event, EventStatistic


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class ValidCut(Event):
    """An order was cut from a piece."""

    piece_x: int
    """Size of the piece along x, before the cut."""
    piece_y: int
    demand_x: int
    """Size of the order along x, as it was ordered."""
    demand_y: int
    rotate: bool
    """Whether the order was cut turned by 90 degrees."""
    reverse_cutting_order: bool
    """Whether it was cut along y first."""


@dataclass(frozen=True)
class InvalidPieceSelected(Event):
    """A piece was to be cut that is not in the inventory."""

    piece_index: int


@dataclass(frozen=True)
class InvalidCut(Event):
    """An order was to be cut from a piece into which it does not fit, turned as it was."""

    piece_x: int
    piece_y: int
    demand_x: int
    """Size of the order along x, as it was ordered."""
    demand_y: int
    rotate: bool


@dataclass(frozen=True)
class PieceDiscarded(Event):
    """The oldest piece was thrown away, since the inventory was full."""

    piece_x: int
    piece_y: int


@dataclass(frozen=True)
class PieceReplenished(Event):
    """A raw piece came from outside."""


@dataclass(frozen=True)
class PiecesInInventory(Event):
    """How many pieces there were in the inventory, at the end of each step."""

    value: int

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("mean", _mean, "value"),
        EventStatistic("max", max, "value"),
    )
