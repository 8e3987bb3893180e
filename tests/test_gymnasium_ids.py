"""Gymnasium's own environments, of every kind, recorded in full and replayed."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from maze.core.errors import MissingExtraError
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from tests.runs import SEEDING, is_same, open_run

N_STEPS = 20

CLASSIC_CONTROL = [
    *("CartPole-v0", "CartPole-v1", "Acrobot-v1", "MountainCar-v0"),
    *("MountainCarContinuous-v0", "Pendulum-v1"),
]
TOY_TEXT = [
    *("Blackjack-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1"),
    *("FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4"),
]
BOX2D = [
    "BipedalWalker-v3",
    "BipedalWalkerHardcore-v3",
    "LunarLander-v3",
    "LunarLanderContinuous-v3",
]
MUJOCO = [
    *("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5"),
    *("InvertedDoublePendulum-v5", "InvertedPendulum-v5", "Pusher-v5", "Reacher-v5"),
    *("Swimmer-v5", "Walker2d-v5"),
]
OTHERS = ["CarRacing-v3"]  # images
ATARI = ["ALE/Pong-v5", "ALE/Breakout-v5", "BreakoutNoFrameskip-v4"]


@pytest.mark.filterwarnings("ignore:.*is out of date")
@pytest.mark.parametrize("name", [*CLASSIC_CONTROL, *TOY_TEXT, *BOX2D, *MUJOCO, *OTHERS, *ATARI])
def test_it_is_recorded_as_it_was_and_replays(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves a log file there
    runner = SequentialRolloutRunner(2, N_STEPS, output_dir=tmp_path / "run")
    try:
        result = runner.run_with(name, seeding=SEEDING)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert result.request_met, result.failures
    run = open_run(result)
    # All of Gymnasium's layers are on: its checks and limits are the witnesses.
    env = gym.make(name)
    for row in result.episodes:
        trajectory = run.trajectory(row.episode_index)
        assert 0 < row.n_steps == len(trajectory) <= N_STEPS
        observation, _ = env.reset(seed=row.env_seed)
        terminated = truncated = False
        for t in range(len(trajectory)):
            assert not terminated
            assert not truncated
            assert is_same(value_at(trajectory.observations, t), as_arrays(observation))
            action = trajectory.actions[t]
            assert env.action_space.contains(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            assert reward == trajectory.rewards[t]
        assert is_same(value_at(trajectory.observations, len(trajectory)), as_arrays(observation))
        assert row.ending == ("terminated" if terminated else "truncated")
        assert row.truncated_by == ("" if terminated else "env" if truncated else "runner")
    env.close()


def value_at(nested: Any, t: int) -> Any:
    if isinstance(nested, tuple):
        return tuple(value_at(part, t) for part in nested)
    return np.asarray(nested[t])


def as_arrays(observation: Any) -> Any:
    if isinstance(observation, tuple):
        return tuple(map(as_arrays, observation))
    return np.asarray(observation)
