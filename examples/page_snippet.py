"""The runners without the command line: an environment, a policy and a wrapper as objects."""

from __future__ import annotations

from maze.core.agent.dummy_cartpole_policy import DummyCartPolePolicy
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv

WRAPPERS = {"maze.core.wrappers.reward_scaling_wrapper.RewardScalingWrapper": {"scale": 0.1}}


def main() -> None:
    env = GymMazeEnv("CartPole-v1")
    agent = DummyCartPolePolicy()

    # Wrappers are given to the runner, for all that it runs ...
    sequential = SequentialRolloutRunner(
        n_episodes=10,
        max_episode_steps=200,
        record_trajectory=False,
        record_event_logs=False,
        wrappers=WRAPPERS,
    )
    print(sequential.run_with(env=env, agent=agent))

    # ... or to one run. A runner can be used again.
    parallel = ParallelRolloutRunner(
        n_processes=2, n_episodes=10, record_trajectory=False, record_event_logs=False
    )
    print(parallel.run_with(env=env, agent=agent, wrappers=WRAPPERS))
    print(parallel.run_with(env=env, agent=agent))


if __name__ == "__main__":
    main()
