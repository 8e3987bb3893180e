"""The simplest policy that does something sensible: CartPole, pushed to where the pole leans."""

from __future__ import annotations

from typing import Any

from maze.core.agent.checks import wrong_observation
from maze.core.agent.policy import StructuredPolicy
from maze.core.env.structured_env import Action, ActorID, Observation


class DummyCartPolePolicy(StructuredPolicy):
    """Pushes the cart to the right (1) if the pole leans to the right, else to the left (0).

    It keeps the pole up for some 40 steps. The observation is that of Gymnasium's CartPole,
    shape (4,): position, velocity, pole angle in radians (positive to the right), angular velocity.
    """

    def act(
        self, observation: Observation, actor: ActorID, memory: Any, deterministic: bool
    ) -> Action:
        """Return the push.

        Raises:
            ContractError: If the observation is not CartPole's.
        """
        try:
            state = observation["observation"]
            is_cartpole = state.shape == (4,)
        except (KeyError, IndexError, AttributeError, TypeError):
            is_cartpole = False
        if not is_cartpole:
            raise wrong_observation(self, "CartPole", (4,), observation)
        return {"action": 1 if state[2] > 0.0 else 0}
