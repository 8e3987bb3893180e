"""Tiny policies that show one property each.

They are apart from the tests, so that a worker that plays them need not import those.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maze.core.agent.policy import FlatPolicy, StructuredPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from tests.envs import WalkEnv


class DeterministicSaysTwo(FlatPolicy):
    def act(self, observation, memory, deterministic):
        return {"action": 2 if deterministic else 1}


class SpoilingPolicy(StructuredPolicy):
    """Acts 0, but for the third time in the episode whose first observation is given."""

    def __init__(self, action: Any, first_observation: float) -> None:
        self.action, self.first_observation = action, first_observation

    def start_episode(self, seed):
        return []

    def act(self, observation, actor, memory, deterministic):
        memory.append(float(observation["observation"][0]))
        is_bad = memory[0] == self.first_observation and len(memory) == 3
        return self.action if is_bad else {"action": 0}


class ShortBatches(StructuredPolicy):
    def act(self, observation, actor, memory, deterministic):
        return {"action": 1}

    def act_batch(self, observations, actors, memories, deterministic):
        return [{"action": 1}] * (len(observations) - 1)


class FailingPolicy(StructuredPolicy):
    """Plays the undisturbed run's random actions, and fails where some episodes start."""

    def __init__(self, first_numbers: set[float], when: int) -> None:
        self.first_numbers, self.when = first_numbers, when
        self.policy = RandomPolicy(GymMazeEnv(WalkEnv()).action_spaces)

    def start_episode(self, seed):
        return {"actions": self.policy.start_episode(seed), "seen": []}

    def act(self, observation, actor, memory, deterministic):
        seen = memory["seen"]
        seen.append(float(observation["observation"][0]))
        if len(seen) == self.when + 1 and seen[0] in self.first_numbers:
            raise ValueError("no idea what to do")
        return self.policy.act(observation, actor, memory["actions"], deterministic)


class FailsThirdTime(StructuredPolicy):
    """Fails at the second placement, the fourth sub-step."""

    def start_episode(self, seed):
        return []

    def act(self, observation, actor, memory, deterministic):
        memory.append(actor)
        if len(memory) == 4:
            raise RuntimeError("the third placement")
        if actor.step_key == "select":
            return {"piece": 1}
        return {"position": np.zeros(2, np.float32), "rotation": 0}
