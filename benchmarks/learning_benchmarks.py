"""What the algorithms learn, by seed: the figures in docs/benchmarks.md.

    python benchmarks/learning_benchmarks.py                 all of them, which takes hours
    python benchmarks/learning_benchmarks.py ppo-cartpole    some

Prints a line for each seed: the best evaluation (ten episodes, always the same ones, actions chosen
deterministically), when it was, when the target was first met, and the time that it took. The kept
weights are then played on a hundred other episodes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import maze
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze.train.statistics_files import with_statistics
from maze.train.trained_policy import TrainedPolicy
from maze.train.training_runner import TrainingRunner

CONF = Path(maze.__file__).parent / "conf"


@dataclass(frozen=True)
class Experiment:
    env: str
    algorithm: str
    n_steps: int
    target: float
    seeds: Sequence[int] = (1, 2, 3)
    model: str = "flatten_concat"
    wrappers: str = "no_wrappers"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the algorithm."""
    eval_every_steps: int = 10_000


EXPERIMENTS = {
    "ppo-cartpole": Experiment("CartPole-v1", "ppo", 100_000, 475, (1, 2, 3, 4, 5)),
    "ppo-lunarlander": Experiment(
        "LunarLander-v3", "ppo", 1_000_000, 200, model="vector_obs", wrappers="vector_obs",
        eval_every_steps=25_000,
    ),
    "a2c-cartpole": Experiment("CartPole-v1", "a2c", 300_000, 475),
    "es-cartpole": Experiment("CartPole-v1", "es", 1_000_000, 475, eval_every_steps=50_000),
    "sac-pendulum": Experiment("Pendulum-v1", "sac", 20_000, -200, model="flatten_concat_sac",
                               eval_every_steps=2_000),
    "sac-lunarlander": Experiment(
        "LunarLanderContinuous-v3", "sac", 200_000, 200, model="flatten_concat_sac",
        eval_every_steps=10_000,
        options={"learning_rate": 7.3e-4, "tau": 0.01, "initial_steps": 10_000},
    ),
    "ppo-cutting": Experiment(
        "tutorial_cutting_2d_struct_masked", "ppo", 100_000, -32.55,
        model="tutorial_cutting_2d_struct_masked", wrappers="tutorial_cutting_2d",
    ),
}  # fmt: skip


def main(names: Sequence[str]) -> None:
    for name in names or EXPERIMENTS:
        experiment = EXPERIMENTS[name]
        for seed in experiment.seeds:
            print(f"{name:<18} seed {seed}  {run(experiment, seed)}", flush=True)


def run(experiment: Experiment, seed: int) -> str:
    env = load("env", experiment.env)
    algorithm = {**load("algorithm", experiment.algorithm), **experiment.options}
    wrappers = load("wrappers", experiment.wrappers)
    with tempfile.TemporaryDirectory() as folder:
        result = TrainingRunner(show_progress=False).run_with(
            env,
            algorithm,
            load("model", experiment.model),
            wrappers,
            {
                "n_steps": experiment.n_steps,
                "eval_every_steps": experiment.eval_every_steps,
                "tensorboard": False,
                "learning_curve": False,
            },
            seeding=Seeding(seed, seed),
            output_dir=folder,
        )
        met = [one.n_steps for one in result.evaluations if one.returns.mean >= experiment.target]
        played = SequentialRolloutRunner(
            n_episodes=100, max_episode_steps=0, record_trajectory=False, record_event_logs=False,
            n_lanes=10,
        ).run_with(
            env,
            TrainedPolicy(folder),
            with_statistics(wrappers, Path(folder)),
            seeding=Seeding(10_000, 10_000),
        )  # fmt: skip
    assert result.best is not None
    after = played.statistics["return"]
    return (
        f"best {result.best_return:.1f} at {result.best.n_steps:,}"
        f" · >= {experiment.target:g} from {f'{met[0]:,}' if met else 'never'}"
        f" · last {result.evaluations[-1].returns.mean:.1f}"
        f" · 100 other episodes {after.mean:.1f} ± {after.ci_half_width:.1f}"
        f" · {result.seconds:.0f} s, {result.steps_per_second:,.0f} steps/s"
    )


def load(group: str, name: str) -> Any:
    """Return an option of a config group; an unknown environment is a Gymnasium id."""
    path = CONF / group / f"{name}.yaml"
    if not path.exists():
        return name
    content = yaml.safe_load(path.read_text())
    for default in content.pop("defaults", []):
        if default != "_self_":
            content = merged(load(group, default), content)
    return content


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        is_both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if is_both else value
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
