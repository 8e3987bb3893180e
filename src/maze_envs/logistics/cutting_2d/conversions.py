"""How policies see the cutting environment, and in what form they act.

All observations are arrays of 32-bit floats, sizes in units of length:

    inventory         (max_pieces_in_inventory, 2)  sizes of the pieces, oldest first, then zeros
    inventory_size    (1,)                          number of pieces
    ordered_piece     (2,)                          size of the current order
    selected_piece    (2,)                          size of the selected piece; zeros if the index
                                                    that was selected is none of a piece
    inventory_mask    (max_pieces_in_inventory,)    1 for pieces from which the order can be cut
    cutting_mask      (2,)                          whether it fits unrotated, and rotated

In the masked variant the inventory's mask allows something in every state. The mask of the
cut allows nothing if the selection did not keep to its own.

All actions are choices: ``piece_idx`` (the place in the inventory), ``cut_rotation`` (1: turn
the order by 90 degrees) and ``cut_order`` (1: along y first, then along x).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.conversion import ActionConversion, ObservationConversion
from maze.core.env.structured_env import Action, ActorID, Observation
from maze_envs.logistics.cutting_2d.pieces import Piece, fits, rotated
from maze_envs.logistics.cutting_2d.state import (
    CutAction,
    Cutting2DAction,
    Cutting2DState,
    SelectAction,
)


class InventoryObservation(ObservationConversion[Cutting2DState]):
    """Shows the inventory and the order, for selecting a piece or for selecting and cutting it.

    Args:
        raw_piece_size: of the environment.
        max_pieces_in_inventory: of the environment.
        with_mask: whether ``inventory_mask`` is shown, too.
    """

    def __init__(
        self, raw_piece_size: Piece, max_pieces_in_inventory: int, with_mask: bool = False
    ) -> None:
        self.raw_piece_size = raw_piece_size
        self.max_pieces_in_inventory = max_pieces_in_inventory
        self.with_mask = with_mask

    def space(self) -> spaces.Dict:
        """Return the space."""
        slots, raw = self.max_pieces_in_inventory, self.raw_piece_size
        sizes = np.tile(np.array(raw, np.float32) + 1, (slots, 1))
        space: dict[str, spaces.Space[Any]] = {
            "inventory": spaces.Box(np.zeros_like(sizes), sizes, dtype=np.float32),
            "inventory_size": spaces.Box(0.0, slots + 1, (1,), np.float32),
            "ordered_piece": _order_space(raw),
        }
        if self.with_mask:
            space["inventory_mask"] = spaces.Box(0.0, 1.0, (slots,), np.float32)
        return spaces.Dict(space)

    def maze_to_space(self, state: Cutting2DState, actor: ActorID) -> Observation:
        """Return the inventory and the order."""
        pieces, order = state.inventory, state.current_demand
        inventory = np.zeros((self.max_pieces_in_inventory, 2), np.float32)
        # The way through an array of Python's takes half the time of one through numpy's.
        sizes = np.frombuffer(array("f", chain.from_iterable(pieces)), np.float32)
        inventory.reshape(-1)[: len(sizes)] = sizes
        observation = {
            "inventory": inventory,
            "inventory_size": np.array((len(pieces),), np.float32),
            "ordered_piece": np.array(order, np.float32),
        }
        if self.with_mask:
            observation["inventory_mask"] = self._mask(pieces, order)
        return observation

    def action_masks(self) -> Mapping[str, str]:
        """Return that ``inventory_mask`` masks ``piece_idx``, if it is shown."""
        return {"piece_idx": "inventory_mask"} if self.with_mask else {}

    def _mask(self, pieces: tuple[Piece, ...], order: Piece) -> NDArray[np.float32]:
        w, h = order
        mask = np.zeros(self.max_pieces_in_inventory, np.float32)
        fitting = [
            index
            for index, (x, y) in enumerate(pieces)
            if (w <= x and h <= y) or (h <= x and w <= y)
        ]
        mask[fitting] = 1.0
        return mask


class CutObservation(ObservationConversion[Cutting2DState]):
    """Shows the selected piece and the order.

    Args:
        raw_piece_size: of the environment.
        with_mask: whether ``cutting_mask`` is shown, too.
    """

    def __init__(self, raw_piece_size: Piece, with_mask: bool = False) -> None:
        self.raw_piece_size = raw_piece_size
        self.with_mask = with_mask

    def space(self) -> spaces.Dict:
        """Return the space."""
        raw = self.raw_piece_size
        sizes = np.array(raw, np.float32) + 1
        space: dict[str, spaces.Space[Any]] = {
            "selected_piece": spaces.Box(np.zeros_like(sizes), sizes, dtype=np.float32),
            "ordered_piece": _order_space(raw),
        }
        if self.with_mask:
            space["cutting_mask"] = spaces.Box(0.0, 1.0, (2,), np.float32)
        return spaces.Dict(space)

    def maze_to_space(self, state: Cutting2DState, actor: ActorID) -> Observation:
        """Return the selected piece and the order."""
        piece, order = state.piece_selected or (0, 0), state.current_demand
        observation = {
            "selected_piece": np.array(piece, np.float32),
            "ordered_piece": np.array(order, np.float32),
        }
        if self.with_mask:
            allowed = fits(piece, order), fits(piece, rotated(order))
            observation["cutting_mask"] = np.array(allowed, np.float32)
        return observation

    def action_masks(self) -> Mapping[str, str]:
        """Return that ``cutting_mask`` masks ``cut_rotation``, if it is shown."""
        return {"cut_rotation": "cutting_mask"} if self.with_mask else {}


class SelectAndCutConversion(ActionConversion[Cutting2DState, CutAction]):
    """Takes piece and cut at once.

    Args:
        max_pieces_in_inventory: of the environment.
    """

    def __init__(self, max_pieces_in_inventory: int) -> None:
        self.max_pieces_in_inventory = max_pieces_in_inventory

    def space(self) -> spaces.Dict:
        """Return the space."""
        return spaces.Dict({"piece_idx": spaces.Discrete(self.max_pieces_in_inventory), **_cuts()})

    def space_to_maze(self, action: Action, state: Cutting2DState, actor: ActorID) -> CutAction:
        """Return the cut."""
        return CutAction(
            int(action["piece_idx"]), action["cut_rotation"] == 1, action["cut_order"] == 1
        )

    def maze_to_space(self, action: CutAction, state: Cutting2DState, actor: ActorID) -> Action:
        """Return the policy's action."""
        return {"piece_idx": action.piece_index, **_cut_choices(action)}


class SelectConversion(ActionConversion[Cutting2DState, Cutting2DAction]):
    """Takes the piece.

    Args:
        max_pieces_in_inventory: of the environment.
    """

    def __init__(self, max_pieces_in_inventory: int) -> None:
        self.max_pieces_in_inventory = max_pieces_in_inventory

    def space(self) -> spaces.Dict:
        """Return the space."""
        return spaces.Dict({"piece_idx": spaces.Discrete(self.max_pieces_in_inventory)})

    def space_to_maze(self, action: Action, state: Cutting2DState, actor: ActorID) -> SelectAction:
        """Return the selection."""
        return SelectAction(int(action["piece_idx"]))

    def maze_to_space(
        self, action: Cutting2DAction, state: Cutting2DState, actor: ActorID
    ) -> Action:
        """Return the policy's action."""
        return {"piece_idx": action.piece_index}


class CutConversion(ActionConversion[Cutting2DState, Cutting2DAction]):
    """Takes how the selected piece is cut."""

    def space(self) -> spaces.Dict:
        """Return the space."""
        return spaces.Dict(_cuts())

    def space_to_maze(self, action: Action, state: Cutting2DState, actor: ActorID) -> CutAction:
        """Return the cut of the selected piece."""
        assert state.selected_piece is not None
        return CutAction(
            state.selected_piece, action["cut_rotation"] == 1, action["cut_order"] == 1
        )

    def maze_to_space(
        self, action: Cutting2DAction, state: Cutting2DState, actor: ActorID
    ) -> Action:
        """Return the policy's action."""
        assert isinstance(action, CutAction)
        return _cut_choices(action)


def _order_space(raw_piece_size: Piece) -> spaces.Box:
    return spaces.Box(0.0, max(raw_piece_size) + 1, (2,), np.float32)


def _cuts() -> dict[str, spaces.Space[Any]]:
    return {"cut_rotation": spaces.Discrete(2), "cut_order": spaces.Discrete(2)}


def _cut_choices(action: CutAction) -> Action:
    return {
        "cut_rotation": int(action.rotate),
        "cut_order": int(action.reverse_cutting_order),
    }
