"""Drawings of the cutting environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maze.core.env.renderer import LastStep, Renderer
from maze_envs.logistics.cutting_2d.state import Cutting2DState

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Cutting2DRenderer(Renderer[Cutting2DState, Any]):
    """Draws the last cut on the left, the inventory on the right."""

    def draw(self, figure: Figure, state: Cutting2DState, last: LastStep | None) -> None:
        """Draw a state."""
        figure.text(0.1, 0.5, str(state))
