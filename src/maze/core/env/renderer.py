"""Drawings of states, with matplotlib, apart from the simulation.

A renderer gets values and draws them; it does not ask the environment. So the same drawing serves
a window, a video, a replay and a viewer, for any state that was kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maze.core.env.core_env import ActionT, StateT
from maze.core.env.structured_env import ActorID
from maze.core.errors import MissingExtraError
from maze.core.events.event import Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 100


class LastStep(NamedTuple):
    """The (sub-)step that led to the state that is drawn."""

    state: Any
    """Before it."""
    action: Any
    """The simulation's action."""
    actor: ActorID
    """Who acted."""
    events: Sequence[Event]
    """What happened in it."""


class Renderer(ABC, Generic[StateT, ActionT]):
    """Draws states of one kind of environment."""

    figure_size: tuple[float, float] = (8.0, 4.5)
    """Width and height in inches of 100 pixels."""

    frames_per_second: float = 4.0
    """How fast steps are shown in a window or a video."""

    @abstractmethod
    def draw(self, figure: Figure, state: StateT, last: LastStep | None) -> None:
        """Draw a state into an empty figure.

        Args:
            figure: has ``figure_size`` and no axes. Use its methods and not ``pyplot``.
            state: to be drawn; may be the last one of an episode.
            last: the step that led to it; ``None`` after a reset.
        """

    def frame(self, state: StateT, last: LastStep | None) -> NDArray[np.uint8]:
        """Return the drawing as an image of shape (height, width, 3).

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingExtraError("matplotlib, which draws states,", "render") from None
        figure = Figure(figsize=self.figure_size, dpi=DOTS_PER_INCH, facecolor="white")
        canvas: Any = FigureCanvasAgg(figure)
        self.draw(figure, state, last)
        canvas.draw()
        return np.array(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3].copy()
