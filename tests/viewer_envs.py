"""Environments that the viewer is tested with. They draw themselves, in colours that say where."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from maze.core.events.event import Event
from tests.envs import TwoStepEnv, WalkEnv


class DrawnWalkEnv(WalkEnv):
    """Draws its step as a shade of grey; breaks in the episode of env seed 3."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, n_steps: int = 40, render_mode: str | None = None) -> None:
        super().__init__(n_steps)
        self.render_mode = render_mode

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.seed == 3 and self.count == 4:
            raise ValueError("the <script>alert(1)</script> broke")
        return super().step(action)

    def render(self) -> Any:
        return np.full((24, 32, 3), 5 * self.count, dtype=np.uint8)


class ChangingEnv(DrawnWalkEnv):
    """Observes what its seed does not determine, from the fourth step on."""

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, *rest = super().step(action)
        if self.count > 3:
            observation = np.random.default_rng().random(2, dtype=np.float32)
        return (observation, *rest)


class DiesDrawingEnv(DrawnWalkEnv):
    """Ends its process when the second frame is drawn."""

    def render(self) -> Any:
        if self.count == 1:
            os._exit(7)
        return super().render()


@dataclass(frozen=True)
class Said(Event):
    """A text."""

    text: str


class HostileEventsEnv(TwoStepEnv):
    """Says in an event what no page should run."""

    def step(self, action: Any) -> Any:
        self.events.append(Said("<script>alert(1)</script> & \t </td>"))
        return super().step(action)
