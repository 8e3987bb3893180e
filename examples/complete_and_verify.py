"""Extend a recorded run, check it, and look at its worst episode again.

The episodes of a run are fixed by its seeds, so one that was played in two goes is the same as one
that was played in one. That is also how it can be checked: by playing some of it again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import maze


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_two_goes, in_one_go = Path(folder) / "in_two_goes", Path(folder) / "in_one_go"
        maze.rollout("Acrobot-v1", n_episodes=10, seed=1, output_dir=in_two_goes)
        result = maze.resume(in_two_goes, n_episodes=30)

        whole = maze.rollout("Acrobot-v1", n_episodes=30, seed=1, output_dir=in_one_go)
        print("as in one go:", result.episodes.has_equal_episodes(whole.episodes))

        verification = maze.verify(in_two_goes, replay=0.2)
        print(verification)
        assert verification.is_good

        worst = min(result.episodes, key=lambda episode: episode.episode_return)
        print(maze.replay(in_two_goes, worst.episode_index))


if __name__ == "__main__":
    main()
