"""What raw material and mistakes cost."""

from __future__ import annotations

from collections.abc import Sequence

from maze.core.env.reward import RewardAggregator
from maze.core.env.structured_env import ActorID
from maze.core.events.event import Event
from maze_envs.logistics.cutting_2d.events import InvalidCut, InvalidPieceSelected, PieceReplenished
from maze_envs.logistics.cutting_2d.state import Cutting2DState


class Cutting2DReward(RewardAggregator[Cutting2DState]):
    """Adds something for each raw piece that came and for each invalid choice.

    The raw piece that comes in the reset counts in the first step. Where a step has two sub-steps,
    each of them gets half of its reward, as both decided.

    Args:
        invalid_action_penalty: for a piece that does not exist and for a cut that cannot be done.
        raw_piece_usage_penalty: for each raw piece.
    """

    def __init__(
        self, invalid_action_penalty: float = -2.0, raw_piece_usage_penalty: float = -1.0
    ) -> None:
        self.invalid_action_penalty = float(invalid_action_penalty)
        self.raw_piece_usage_penalty = float(raw_piece_usage_penalty)

    def reward(self, events: Sequence[Event], state: Cutting2DState) -> float:
        """Return the sum over the events of a step."""
        reward = 0.0
        for event in events:
            if isinstance(event, PieceReplenished):
                reward += self.raw_piece_usage_penalty
            elif isinstance(event, InvalidPieceSelected | InvalidCut):
                reward += self.invalid_action_penalty
        return reward

    def actor_rewards(
        self, events: Sequence[Event], state: Cutting2DState, actors: Sequence[ActorID]
    ) -> Sequence[float]:
        """Return an equal share for each sub-step."""
        return [self.reward(events, state) / len(actors)] * len(actors)
