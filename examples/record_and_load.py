"""Record a run, and open it again: episodes as a table, trajectories as numpy arrays."""

from __future__ import annotations

import tempfile
from pathlib import Path

import maze


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        maze.rollout("Acrobot-v1", n_episodes=20, seed=1, output_dir=directory)

        run = maze.load(directory)
        columns = ["episode_index", "ending", "return", "n_steps", "env_seed"]
        print(run.episodes[columns].head())

        trajectory = run.trajectory(3)
        print("observations", trajectory.observations.shape, trajectory.observations.dtype)
        print("actions     ", trajectory.actions.shape, trajectory.actions.dtype)
        print("rewards     ", trajectory.rewards.shape, trajectory.rewards.dtype)

        # One trajectory at a time is in memory.
        highest = max(float(trajectory.observations[:, 0].max()) for trajectory in run)
        print(f"largest cosine of the first angle in {len(run)} episodes: {highest:.4f}")


if __name__ == "__main__":
    main()
