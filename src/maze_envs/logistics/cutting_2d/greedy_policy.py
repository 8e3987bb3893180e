"""A simple heuristic: cut from the smallest piece that does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from maze.core.agent.policy import FlatPolicy
from maze.core.env.structured_env import Action, Observation
from maze.core.errors import ContractError

Size = tuple[float, float]


class GreedyPolicy(FlatPolicy):
    """Takes the piece of the smallest area into which the order fits, the oldest of equal ones.

    The order is cut unrotated if it fits so, and along x first always. It serves each step key of
    each variant: it answers what the action space asks, for the selected piece where there is one.

    Sizes may be in any unit, as long as it is the same for all of them. So it works with wrappers
    that multiply inventory and order, and need not have the numbers of pieces.

    Args:
        action_space: of the step key, from which it takes what is asked.
    """

    def __init__(self, action_space: spaces.Dict) -> None:
        self.action_space = action_space
        self._heads = frozenset(action_space.spaces)

    def act(self, observation: Observation, memory: Any, deterministic: bool) -> Action:
        """Return the piece, its cut, or both.

        Raises:
            ContractError: If the order fits into no piece, or into the selected one not.
        """
        order = order_in(observation)
        selected = selected_piece_in(observation)
        if selected is None:
            pieces = pieces_in(observation)
            index = _smallest(pieces, order)
            piece = pieces[index]
        else:
            index, piece = 0, selected
            if not _fits_somehow(piece, order):
                raise ContractError(
                    f"an order of {order} cannot be cut from the selected piece of {piece}: has"
                    " another policy selected it?"
                )
        choices = {
            "piece_idx": index,
            "cut_rotation": 0 if order[0] <= piece[0] and order[1] <= piece[1] else 1,
            "cut_order": 0,
        }
        return {head: choice for head, choice in choices.items() if head in self._heads}


def order_in(observation: Observation) -> Size:
    """Return the size of the current order."""
    x, y = _entry(observation, "ordered_piece").tolist()
    return x, y


def selected_piece_in(observation: Observation) -> Size | None:
    """Return the size of the selected piece; ``None`` if none is shown."""
    if "selected_piece" not in observation:
        return None
    x, y = observation["selected_piece"].tolist()
    return x, y


def pieces_in(observation: Observation) -> list[Size]:
    """Return the sizes of the pieces, oldest first. Slots without one are zeros, at the end."""
    return [(x, y) for x, y in _entry(observation, "inventory").tolist() if x > 0]


def _entry(observation: Mapping[str, Any], key: str) -> Any:
    try:
        return observation[key]
    except KeyError:
        raise ContractError(
            f"the observation has no '{key}', which this policy of the cutting environment reads."
            f" It has: {', '.join(map(str, observation))}."
        ) from None


def _smallest(pieces: list[Size], order: Size) -> int:
    # Relative to the largest one and rounded, so that pieces of equal areas stay equal in
    # whatever unit they are measured.
    largest = max((x * y for x, y in pieces), default=1.0)
    fitting = [
        (round(piece[0] * piece[1] / largest, 6), index)
        for index, piece in enumerate(pieces)
        if _fits_somehow(piece, order)
    ]
    if not fitting:
        raise ContractError(
            f"an order of {order} can be cut from none of the {len(pieces)} pieces in the"
            " inventory. Are they measured in the same unit?"
        )
    return min(fitting)[1]


def _fits_somehow(piece: Size, order: Size) -> bool:
    (x, y), (w, h) = piece, order
    return (w <= x and h <= y) or (h <= x and w <= y)
