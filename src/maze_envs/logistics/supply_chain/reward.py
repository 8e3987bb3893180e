"""What a period is worth: minus what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from maze.core.env.reward import RewardAggregator
from maze.core.env.structured_env import ActorID
from maze.core.events.event import Event
from maze_envs.logistics.supply_chain.checks import check_numbers
from maze_envs.logistics.supply_chain.events import Paid
from maze_envs.logistics.supply_chain.state import SupplyChainState


class CostReward(RewardAggregator[SupplyChainState]):
    """Minus the cost of all stages. Each stage that ordered gets a share of it.

    The costs of stages that were closed are split evenly among those that ordered, so that the
    shares always sum to the reward.

    Args:
        team_share: in [0, 1]. 0: each stage bears its own cost, as rivals do. 1: all bear the same,
            as a team does. Between: a mixture.
    """

    def __init__(self, team_share: float = 0.0) -> None:
        check_numbers(self, 0.0, 1.0, team_share=team_share)
        self.team_share = team_share

    def reward(self, events: Sequence[Event], state: SupplyChainState) -> float:
        """Return minus the cost of all stages in the period."""
        return -sum(_costs(events))

    def actor_rewards(
        self, events: Sequence[Event], state: SupplyChainState, actors: Sequence[ActorID]
    ) -> Sequence[float] | None:
        """Return each stage's share; ``None`` where a planner ordered for all."""
        costs = _costs(events)
        stages = [actor.agent_id for actor in actors]
        if actors[0].step_key != "order" or not costs:
            return None
        own = [costs[stage] for stage in stages]
        total = sum(costs)
        equal, of_closed = total / len(own), (total - sum(own)) / len(own)
        kept = 1.0 - self.team_share
        return [-(kept * (cost + of_closed) + self.team_share * equal) for cost in own]


def _costs(events: Sequence[Event]) -> list[float]:
    """Return the cost of each stage. There is one event for each, in their order."""
    return [event.holding_cost + event.backlog_cost for event in events if isinstance(event, Paid)]
