"""A two-point controller: a policy that remembers something during an episode."""

from __future__ import annotations

from dataclasses import dataclass

from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation


@dataclass
class Switch:
    """What one episode remembers."""

    is_on: bool = False


class TwoPointController(StructuredPolicy):
    """Switches on below a band around the target and off above it.

    Args:
        band: half of the band's width, in degrees.
    """

    def __init__(self, band: float = 0.5) -> None:
        self.band = band

    def start_episode(self, seed: int) -> Switch:
        return Switch()

    def act(
        self, observation: Observation, actor: ActorID, memory: Switch, deterministic: bool
    ) -> Action:
        difference = observation["observation"][0]
        if difference < -self.band:
            memory.is_on = True
        elif difference > self.band:
            memory.is_on = False
        return {"action": int(memory.is_on)}
