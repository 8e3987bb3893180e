"""Speed of training beside Stable-Baselines3, and of policies with networks in rollouts.

    python benchmarks/training_benchmarks.py

PPO with the same networks (two tanh layers of 64 each for policy and critic), the same number of
environments, rollout steps, batch size and epochs, in one process with one thread each; one after
the other in the same run, several times. Steps per second of collecting and learning together,
without evaluations; the first two updates of each are not counted.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import gymnasium as gym
import torch

from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.train.models.build import build_model
from maze.train.specs import EnvSpecs
from maze.train.torch_policy import TorchPolicy
from maze.train.trainers.ppo import PPO
from maze.train.training_runner import TrainingRunner

N_ENVS, N_ROLLOUT_STEPS, BATCH_SIZE, N_EPOCHS = 16, 128, 256, 10
N_UPDATES = 12
REPEATS = 5


def main() -> None:
    torch.set_num_threads(1)
    for env_id in ("CartPole-v1", "LunarLander-v3"):
        ours, theirs = alternating([partial(maze_ppo, env_id), partial(sb3_ppo, env_id)])
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(
            f"PPO, {env_id:<15} Maze {statistics.median(ours):>7,.0f} steps/s"
            f"   Stable-Baselines3 {statistics.median(theirs):>7,.0f} steps/s"
            f"   {statistics.median(ratios):.2f} times ({min(ratios):.2f}-{max(ratios):.2f})",
            flush=True,
        )
    one, many, bare = alternating([lambda: rollout(1), lambda: rollout(64), bare_torch])
    ratios = [a / b for a, b in zip(many, one, strict=True)]
    against_bare = [a / b for a, b in zip(many, bare, strict=True)]
    print(
        "torch policy, CartPole, sampled, recorded: one call a step"
        f" {1e6 / statistics.median(one):.0f} us a step, 64 lanes"
        f" {1e6 / statistics.median(many):.1f} us:"
        f" {statistics.median(ratios):.1f} times ({min(ratios):.1f}-{max(ratios):.1f});"
        f" against a bare loop with one call of torch a step"
        f" ({1e6 / statistics.median(bare):.0f} us) {statistics.median(against_bare):.1f} times"
    )


def alternating(measures: Sequence[Callable[[], float]]) -> list[list[float]]:
    results: list[list[float]] = [[] for _ in measures]
    for _ in range(REPEATS):
        for measure, of_one in zip(measures, results, strict=True):
            of_one.append(measure())
    return results


def maze_ppo(env_id: str) -> float:
    times: list[float] = []

    class Timed(PPO):
        def update(self, workers: Any, n_steps_done: int) -> Any:
            times.append(perf_counter())
            return super().update(workers, n_steps_done)

    with tempfile.TemporaryDirectory() as folder:
        TrainingRunner(show_progress=False).run_with(
            env_id,
            Timed(
                n_lanes=N_ENVS,
                n_rollout_steps=N_ROLLOUT_STEPS,
                batch_size=BATCH_SIZE,
                n_optimization_epochs=N_EPOCHS,
                target_kl=None,
            ),
            options={
                "n_steps": N_ENVS * N_ROLLOUT_STEPS * N_UPDATES,
                "n_eval_episodes": 0,
                "tensorboard": False,
                "learning_curve": False,
            },
            seeding=Seeding(1, 1),
            output_dir=folder,
        )
    return speed(times)


def sb3_ppo(env_id: str) -> float:
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    times: list[float] = []

    class Timer(BaseCallback):
        def _on_rollout_start(self) -> None:
            times.append(perf_counter())

        def _on_step(self) -> bool:
            return True

    model = stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env(env_id, N_ENVS, seed=1),
        n_steps=N_ROLLOUT_STEPS,
        batch_size=BATCH_SIZE,
        n_epochs=N_EPOCHS,
        learning_rate=1e-3,
        gamma=0.995,
        gae_lambda=0.97,
        ent_coef=0.01,
        seed=1,
        device="cpu",
    )
    model.learn(N_ENVS * N_ROLLOUT_STEPS * N_UPDATES, callback=Timer())
    return speed(times)


def speed(times: Sequence[float]) -> float:
    """Return steps per second between the starts of updates, the first two left out."""
    return N_ENVS * N_ROLLOUT_STEPS * (len(times) - 3) / (times[-1] - times[2])


def make_policy() -> TorchPolicy:
    return TorchPolicy(build_model(None, EnvSpecs.of(GymMazeEnv("CartPole-v1")), seed=1))


def rollout(n_lanes: int) -> float:
    n_episodes = 400 if n_lanes == 1 else 3000
    with tempfile.TemporaryDirectory() as folder:
        result = SequentialRolloutRunner(
            n_episodes, 0, deterministic=False, n_lanes=n_lanes, output_dir=Path(folder) / "run"
        ).run_with("CartPole-v1", make_policy(), seeding=Seeding(1, 1))
    return result.n_steps / result.wall_seconds


def bare_torch() -> float:
    """Step an environment with one call of torch for each action, and record nothing."""
    env = gym.make("CartPole-v1", disable_env_checker=True).unwrapped
    model = make_policy().model.policies["0"]
    started, n_steps = perf_counter(), 0
    with torch.inference_mode():
        for episode in range(200):
            observation, _ = env.reset(seed=episode)
            terminated = False
            while not terminated and n_steps < 10_000:
                logits = model({"observation": torch.as_tensor(observation).unsqueeze(0)})
                action = torch.distributions.Categorical(logits=logits["action"]).sample().item()
                observation, _, terminated, _, _ = env.step(int(action))
                n_steps += 1
    return n_steps / (perf_counter() - started)


if __name__ == "__main__":
    main()
