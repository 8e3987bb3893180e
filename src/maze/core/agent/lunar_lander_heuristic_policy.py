"""A good policy for LunarLander without any learning: a baseline, and a teacher for imitation."""

from __future__ import annotations

from typing import Any

from maze.core.agent.checks import wrong_observation
from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation

NO_ENGINE, LEFT_ENGINE, MAIN_ENGINE, RIGHT_ENGINE = 0, 1, 2, 3
"""The actions of the discrete LunarLander."""


class LunarLanderHeuristicPolicy(StructuredPolicy):
    """Steers with two proportional-derivative controllers, one for the angle and one for height.

    The angle should point towards the pad, the more so the further off and the faster the lander
    is, up to 0.4 radians; the height should be 0.55 times the horizontal distance. Once a leg
    touches the ground only the fall is slowed. It lands safely in most episodes.

    The observation is that of Gymnasium's LunarLander, shape (8,): position x, y, velocity x, y,
    angle, angular velocity, contact of left and right leg. Actions are those of the discrete
    variant (``LunarLander-v3`` with its default arguments).

    Source: the heuristic documented with Gymnasium's LunarLander environment.
    """

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        """Return which engine to fire.

        Raises:
            ContractError: If the observation is not LunarLander's.
        """
        try:
            # Python numbers: scalar arithmetic on array elements costs ten times as much.
            x, y, speed_x, speed_y, angle, spin, left_leg, right_leg = observation[
                "observation"
            ].tolist()
        except (KeyError, IndexError, AttributeError, TypeError, ValueError):
            raise wrong_observation(self, "LunarLander", (8,), observation) from None
        if left_leg or right_leg:
            turn, lift = 0.0, -0.5 * speed_y
        else:
            angle_target = min(max(0.5 * x + speed_x, -0.4), 0.4)
            turn = 0.5 * (angle_target - angle) - spin
            lift = 0.5 * (0.55 * abs(x) - y) - 0.5 * speed_y
        if lift > abs(turn) and lift > 0.05:
            return {"action": MAIN_ENGINE}
        if turn < -0.05:
            return {"action": RIGHT_ENGINE}
        if turn > 0.05:
            return {"action": LEFT_ENGINE}
        return {"action": NO_ENGINE}
