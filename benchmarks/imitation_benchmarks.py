"""Collect, clone, go on with PPO: the workflow of docs/imitation.md, by seed, with its figures.

    python benchmarks/imitation_benchmarks.py [--seeds 1 2 3] [--picture docs/images/imitation.png]

Runs the commands of that page, then plays each policy in a thousand other episodes, always the same
ones. Prints mean returns with 95 % confidence intervals. DAgger has the same teacher, and plays as
many steps as are in the recording.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LANDER = ("env.name=LunarLander-v3",)
NETWORK = ("model=vector_obs", "wrappers=vector_obs")
TEACHER = "policy=lunar_lander_heuristics"
CUTTING = ("env=tutorial_cutting_2d_struct_masked",)
CUTTING_NETWORK = (
    "model=tutorial_cutting_2d_struct_masked",
    "wrappers=tutorial_cutting_2d",
)
PPO = (
    "algorithm=ppo",
    "training.n_steps=200000",
    "training.eval_every_steps=20000",
    "training.n_eval_episodes=100",
)
TUNING = (
    "algorithm.critic_burn_in_updates=15",
    "algorithm.gamma=0.99",
    "algorithm.gae_lambda=0.98",
    "algorithm.entropy_coef=0.005",
    "algorithm.anneal_learning_rate=true",
)
"""For a policy that is good already: careful steps."""


def maze_run(directory: Path, name: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "maze.cli.maze_run", *arguments, f"hydra.run.dir={name}"],
        cwd=directory,
        check=True,
        capture_output=True,
    )


def seeds(seed: int) -> tuple[str, str]:
    return f"seeding.env_base_seed={seed}", f"seeding.agent_base_seed={seed}"


def play(directory: Path, name: str, *arguments: str, n_episodes: int = 1000) -> dict[str, float]:
    """Play a thousand episodes that nobody has seen; return the mean and half of its interval."""
    maze_run(
        directory,
        name,
        *arguments,
        f"runner.n_episodes={n_episodes}",
        "runner.n_processes=2",
        "runner.n_lanes=50",
        "runner.max_episode_steps=0",
        *seeds(1000),
    )
    of = json.loads((directory / name / "statistics.json").read_text())["statistics"]["return"]
    return {"mean": of["mean"], "half": (of["ci_high"] - of["ci_low"]) / 2}


def lander(directory: Path, seed: int) -> dict[str, dict[str, float]]:
    maze_run(
        directory,
        "landings",
        *LANDER,
        TEACHER,
        "runner.n_episodes=100",
        "runner.max_episode_steps=0",
        *seeds(seed),
    )
    train = ("-cn", "conf_train", *LANDER, *NETWORK, *seeds(seed))
    maze_run(
        directory,
        "clone",
        *train,
        "algorithm=bc",
        "runner.dataset.dir_or_file=landings",
        "training.n_steps=1000000",
        "training.eval_every_steps=50000",
        "training.n_eval_episodes=50",
    )
    maze_run(
        directory,
        "student",
        *train,
        "algorithm=dagger",
        "policy@algorithm.teacher=lunar_lander_heuristics",
        "training.n_steps=25000",
        "training.eval_every_steps=5000",
        "training.n_eval_episodes=50",
    )
    maze_run(directory, "tuned", *train, *PPO, *TUNING, "input_dir=clone")
    maze_run(directory, "scratch", *train, *PPO)
    maze_run(directory, "scratch_careful", *train, *PPO, *TUNING[1:])
    results = {"heuristic": play(directory, "play_heuristic", *LANDER, TEACHER)}
    for name in ("clone", "student", "tuned", "scratch", "scratch_careful"):
        results[name] = play(directory, f"play_{name}", "policy=torch_policy", f"input_dir={name}")
    return results


def cutting(directory: Path, seed: int) -> dict[str, dict[str, float]]:
    teacher = "policy=cutting_2d_lookahead_policy"
    maze_run(
        directory,
        "cuts",
        *CUTTING,
        teacher,
        "runner.n_episodes=100",
        "runner.max_episode_steps=0",
        *seeds(seed),
    )
    maze_run(
        directory,
        "cutter",
        *("-cn", "conf_train", *CUTTING, *CUTTING_NETWORK, *seeds(seed)),
        "algorithm=bc",
        "runner.dataset.dir_or_file=cuts",
        "training.n_steps=200000",
        "training.eval_every_steps=20000",
    )
    return {
        "heuristic": play(directory, "play_cuts", *CUTTING, teacher),
        "clone": play(directory, "play_cutter", "policy=torch_policy", "input_dir=cutter"),
    }


def curve(directory: Path) -> tuple[list[int], list[float]]:
    """Return steps and mean returns of the evaluations of a training."""
    by_step: dict[int, list[float]] = {}
    with (directory / "evaluations.csv").open() as file:
        for row in csv.DictReader(file):
            by_step.setdefault(int(row["n_steps"]), []).append(float(row["return"]))
    return list(by_step), [sum(values) / len(values) for values in by_step.values()]


def draw(folders: Sequence[Path], results: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for folder in folders:
        with (folder / "clone" / "training_log.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["validation_accuracy"] != "nan"]
        steps = [int(row["n_steps"]) for row in rows]
        left.plot(steps, [float(row["validation_accuracy"]) for row in rows], color="#2a6f97")
    left.set(title="1. Cloning", xlabel="decisions", ylabel="accuracy on episodes held back")
    for name, color, label in (
        ("tuned", "#d1495b", "from the clone"),
        ("scratch", "#8d99ae", "from nothing"),
    ):
        curves = [curve(folder / name) for folder in folders]
        x = curves[0][0]
        ys = np.array([y for _, y in curves])
        middle.plot(x, ys.mean(axis=0), color=color, label=label)
        middle.fill_between(x, ys.min(axis=0), ys.max(axis=0), color=color, alpha=0.2)
    mean = np.mean([one["heuristic"]["mean"] for one in results])
    middle.axhline(mean, color="black", linestyle=":", label="heuristic")
    middle.set(title="2. Going on with PPO", xlabel="steps", ylabel="mean return of evaluations")
    middle.legend(loc="lower right")
    names = {"heuristic": "heuristic", "clone": "clone", "tuned": "tuned", "scratch": "PPO alone"}
    for position, name in enumerate(names):
        of_name = [one[name] for one in results]
        spread = np.linspace(-0.15, 0.15, len(of_name)) if len(of_name) > 1 else [0.0]
        right.errorbar(
            [position + shift for shift in spread],
            [one["mean"] for one in of_name],
            yerr=[one["half"] for one in of_name],
            fmt="o",
            color="#2a6f97",
            capsize=3,
        )
    right.set_xticks(range(len(names)), list(names.values()))
    right.set(title="3. A thousand other episodes", ylabel="mean return, 95 % CI")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--folder", type=Path, help="where to work; it is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        results: list[dict[str, dict[str, float]]] = []
        folders: list[Path] = []
        for seed in arguments.seeds:
            directory = folder / f"seed_{seed}"
            directory.mkdir(parents=True, exist_ok=True)
            folders.append(directory)
            of_seed = lander(directory, seed)
            results.append(of_seed)
            for name, one in of_seed.items():
                print(f"LunarLander seed {seed} {name:<16} {one['mean']:8.1f} ± {one['half']:.1f}")
            for name, one in cutting(directory, seed).items():
                print(f"cutting     seed {seed} {name:<16} {one['mean']:8.1f} ± {one['half']:.1f}")
            sys.stdout.flush()
        if arguments.picture:
            draw(folders, results, arguments.picture.resolve())


if __name__ == "__main__":
    main()
