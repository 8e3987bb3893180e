"""Which of two policies is better? Play both in the same environments and look at differences.

The seeds of the environment do not depend on the policy: episode 7 begins in the same state for
both. What one state makes easier or harder for both then cancels in the difference, whose
confidence interval is mostly much narrower than that of two separate means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import maze


def by_angle(observation: Any) -> int:
    """Push to where the pole leans."""
    return int(observation[2] > 0)


def by_angle_and_velocity(observation: Any) -> int:
    """Push to where the pole will lean in a moment."""
    return int(observation[2] + 0.2 * observation[3] > 0)


def returns(policy: Any, n_episodes: int) -> NDArray[np.float64]:
    """Play and return the episodes' returns, in episode order."""
    result = maze.rollout(
        "CartPole-v1", policy, n_episodes=n_episodes, max_episode_steps=200, seed=1
    )
    assert result.request_met, "some episode failed: its pair would be missing"
    return np.array([episode.episode_return for episode in result.episodes])


def main() -> None:
    n_episodes = 200
    a, b = returns(by_angle, n_episodes), returns(by_angle_and_velocity, n_episodes)
    differences = b - a
    standard_error = differences.std(ddof=1) / np.sqrt(n_episodes)
    print(f"by angle               {a.mean():8.2f}")
    print(f"by angle and velocity  {b.mean():8.2f}")
    print(f"paired difference      {differences.mean():8.2f} ± {1.96 * standard_error:.2f}")
    print(f"better in {np.mean(differences > 0):.0%} of {n_episodes} episodes")


if __name__ == "__main__":
    main()
