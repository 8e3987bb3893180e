"""A window that shows images, for environments that draw themselves as one."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maze.core.errors import MissingExtraError


class Window:
    """Shows one image after the other. It opens with the first one.

    Args:
        title: of the window.
        frames_per_second: ``show`` waits as long as is needed not to be faster than that.

    Raises:
        MissingExtraError: If pygame is not installed.
    """

    def __init__(self, title: str, frames_per_second: float) -> None:
        try:
            import pygame
        except ImportError:
            raise MissingExtraError("pygame, which opens windows,", "render") from None
        self._pygame: Any = pygame
        self._title = title
        self._seconds = 1.0 / frames_per_second
        self._surface: Any = None
        self._shown_at = 0.0

    def show(self, image: NDArray[np.uint8]) -> None:
        """Show an image of shape (height, width, 3)."""
        pygame = self._pygame
        if self._surface is None:
            pygame.display.init()
            pygame.display.set_caption(self._title)
            self._surface = pygame.display.set_mode((image.shape[1], image.shape[0]))
        # Its first axis runs along the width.
        pygame.surfarray.blit_array(self._surface, image.swapaxes(0, 1))
        time.sleep(max(0.0, self._shown_at + self._seconds - time.monotonic()))
        pygame.event.pump()
        pygame.display.flip()
        self._shown_at = time.monotonic()

    def close(self) -> None:
        """Close the window."""
        if self._surface is not None:
            self._surface = None
            self._pygame.display.quit()
