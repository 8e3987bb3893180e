"""How good is a policy? Play it in a hundred episodes and look at the statistics.

A policy can be any function from observation to action.
"""

from __future__ import annotations

from typing import Any

import maze


def follow_the_pole(observation: Any) -> int:
    """Push the cart to where the pole is leaning and falling."""
    _, _, angle, angular_velocity = observation
    return int(angle + angular_velocity > 0)


def main() -> None:
    result = maze.rollout("CartPole-v1", follow_the_pole, n_episodes=100, n_processes=2, seed=1)
    print(result)

    returns = result.statistics["return"]
    print(f"\nmean return {returns.mean:.1f}, 95 % sure to lie in", end=" ")
    print(f"[{returns.ci_low:.1f}, {returns.ci_high:.1f}]")

    worst = min(result.episodes, key=lambda episode: episode.episode_return)
    print(f"worst episode: number {worst.episode_index}, return {worst.episode_return:.0f}")


# Not needed: workers do not import this script.
if __name__ == "__main__":
    main()
