"""Trainings from their start to their end, in Python and on the command line."""

# Wrong arguments are passed on purpose, and modules are of no known type.
# mypy: disable-error-code="arg-type, index, operator, union-attr"

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces

import maze
from maze.cli import sweep_table
from maze.cli.input_directory import take_from_input_directory
from maze.core.errors import ConfigError, OutputError, RunStoppedError
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze.train.models.blocks import DenseBlock
from maze.train.models.template import TemplateModel
from maze.train.options import TrainingOptions
from maze.train.statistics_files import with_statistics
from maze.train.trained_policy import TrainedPolicy
from maze.train.trainers.a2c import A2C
from maze.train.trainers.es import ES
from maze.train.trainers.ppo import PPO
from maze.train.trainers.sac import SAC
from maze.train.training_runner import TrainingRunner
from tests.commands import started
from tests.envs import TwoStepEnv

QUIET = {"tensorboard": False, "learning_curve": False}
VECTOR_OBS = {
    "maze.core.wrappers.observation_normalization_wrapper.ObservationNormalizationWrapper": {
        "default_strategy": "mean_zero_std_one",
        "n_samples": 200,
    }
}


class ShowsTheAnswerEnv(gym.Env):
    """Ten questions an episode, each answered by the number that is observed."""

    observation_space = spaces.Discrete(4)
    action_space: spaces.Space[Any] = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_asked, self.asked = 0, int(self.np_random.integers(4))
        return self.asked, {}

    def step(self, action):
        reward = self.reward(action)
        self.n_asked += 1
        self.asked = int(self.np_random.integers(4))
        return self.asked, reward, self.n_asked == 10, False, {}

    def reward(self, action):
        return float(action == self.asked)


class ShowsTheNumberEnv(ShowsTheAnswerEnv):
    """The answer is a number from -1 to 1; the reward is minus the squared distance."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reward(self, action):
        return -float((action[0] - (self.asked / 1.5 - 1)) ** 2)


class ShowsManyAnswersEnv(ShowsTheAnswerEnv):
    """Answers of several kinds at once."""

    action_space = spaces.Dict(
        {
            "number": spaces.Discrete(4),
            "pair": spaces.MultiDiscrete([2, 2]),
            "bits": spaces.MultiBinary(2),
            "real": spaces.Box(-1.0, 1.0, (1,), np.float32),
        }
    )

    def reward(self, action):
        bits = np.array([self.asked // 2, self.asked % 2])
        return float(
            (action["number"] == self.asked)
            + (action["pair"] == bits).mean()
            + (action["bits"] == bits).mean()
            + 1
            - abs(action["real"][0] - (self.asked / 1.5 - 1))
        )


def train(env, algorithm, directory, n_steps, *, n_processes=None, seed=1, **more):
    options = {
        "n_steps": n_steps, "eval_every_steps": n_steps, "n_eval_lanes": 4, **QUIET,
        **more.pop("options", {}),
    }  # fmt: skip
    return TrainingRunner(n_processes, show_progress=False).run_with(
        env, algorithm, options=options, seeding=Seeding(seed, seed), output_dir=directory, **more
    )


def table(path, without=("steps_per_second",)):
    with path.open() as file:
        return [
            {name: value for name, value in row.items() if name not in without}
            for row in csv.DictReader(file)
        ]


def curves(directory):
    return table(directory / "training_log.csv"), table(directory / "evaluations.csv")


def small_model(**options):
    block = {"_target_": DenseBlock, "hidden_units": [32]}
    blocks = {"modalities": {"vector": block}, "hidden": block}
    return {"_target_": TemplateModel, **blocks, **options}


# They learn.

SLOW = pytest.mark.slow

LEARNERS = [
    ("ppo", ShowsTheAnswerEnv, PPO(n_lanes=8, n_rollout_steps=32, batch_size=64), 6_000, 9.5),
    ("a2c", ShowsTheAnswerEnv, A2C(n_lanes=8, learning_rate=0.01), 8_000, 9.5),
    ("es", ShowsTheAnswerEnv, ES(n_pairs=10, learning_rate=0.1), 8_000, 9.5),
    ("ppo, numbers", ShowsTheNumberEnv, PPO(n_lanes=8, n_rollout_steps=32), 16_000, -1.0),
    ("ppo, several heads", ShowsManyAnswersEnv, PPO(n_lanes=8, n_rollout_steps=64), 16_000, 33.0),
]


@pytest.mark.parametrize(
    ("env", "algorithm", "n_steps", "enough"),
    [
        pytest.param(*row[1:], id=row[0], marks=SLOW if row[0] == "ppo, numbers" else ())
        for row in LEARNERS
    ],
)
def test_an_algorithm_learns(env, algorithm, n_steps, enough, tmp_path):
    result = train(env, algorithm, tmp_path, n_steps)
    assert result.best_return >= enough
    assert result.n_steps >= n_steps


@pytest.mark.parametrize(
    ("env", "distributions", "enough"),
    [
        (ShowsTheNumberEnv, {"Box": "squashed_gaussian"}, -0.6),
        pytest.param(ShowsTheAnswerEnv, {}, 9.5, marks=SLOW),
    ],
    ids=["numbers", "choices"],
)
def test_soft_actor_critic_learns(env, distributions, enough, tmp_path):
    model = small_model(distributions=distributions, state_dependent_std=True)
    sac = SAC(batch_size=64, n_batches=1, initial_steps=200, learning_rate=5e-3, gamma=0.5)
    assert train(env, sac, tmp_path, 2_400, model=model).best_return >= enough


@pytest.mark.parametrize(
    "critic", ["delta", *(pytest.param(c, marks=SLOW) for c in ("step", "shared"))]
)
def test_sub_steps_are_learnt_with_any_kind_of_critic(critic, tmp_path):
    # Four pieces of random size, three times: 2.4 if the largest is selected, 1.5 by chance.
    model = small_model(critic=critic)
    result = train(TwoStepEnv, PPO(n_lanes=8, n_rollout_steps=48), tmp_path, 8_000, model=model)
    assert result.best_return > 2.1


def test_soft_actor_critic_plays_sub_steps(tmp_path):
    model = small_model(distributions={"Box": "squashed_gaussian"}, state_dependent_std=True)
    sac = SAC(n_lanes=2, batch_size=32, initial_steps=50, n_batches=1)
    assert train(TwoStepEnv, sac, tmp_path, 200, model=model).n_steps >= 200


@pytest.mark.parametrize("separate", [[], ["order"]], ids=["one network", "four networks"])
def test_several_agents_are_trained(separate, tmp_path):
    from maze_envs.logistics.supply_chain.env import supply_chain_env

    model = small_model(separate_agent_networks=separate)
    ppo = PPO(n_lanes=2, n_rollout_steps=40)
    assert train(supply_chain_env, ppo, tmp_path, 200, model=model).best is not None


@SLOW
def test_ppo_solves_cartpole(tmp_path):
    result = train("CartPole-v1", "ppo", tmp_path, 60_000, options={"eval_every_steps": 20_000})
    assert result.best_return > 475


# Rolling out what was learnt.


@pytest.fixture(scope="module")
def lander(tmp_path_factory):
    """A short training, with statistics of observations."""
    directory = tmp_path_factory.mktemp("lander")
    ppo = PPO(n_lanes=4, n_rollout_steps=64, batch_size=64)
    train("LunarLander-v3", ppo, directory, 1_000, wrappers=VECTOR_OBS, model=small_model())
    return directory


def roll_out(runner, directory, **options):
    return runner.run_with(
        "LunarLander-v3",
        TrainedPolicy(directory, **options),
        with_statistics(VECTOR_OBS, directory),
        seeding=Seeding(1, 1),
    )


def test_a_rollout_on_the_seeds_of_an_evaluation_gives_its_returns(lander):
    evaluated = [float(row["return"]) for row in table(lander / "evaluations.csv")]
    runner = SequentialRolloutRunner(
        10, 0, record_trajectory=False, record_event_logs=False, n_lanes=4
    )
    result = roll_out(runner, lander)
    last = evaluated[-10:]
    weights = roll_out(runner, lander, weights="state_dict_last.pt")
    assert list(weights.episodes["return"]) == pytest.approx(last, abs=1e-6)
    assert result.statistics["return"].mean >= np.mean(last) - 1e-6


def test_with_a_batch_size_episodes_are_equal_for_any_lanes_and_processes(lander):
    silent = {"record_trajectory": False, "record_event_logs": False, "deterministic": False}
    runners = [
        SequentialRolloutRunner(6, 60, **silent),
        SequentialRolloutRunner(6, 60, n_lanes=4, **silent),
        ParallelRolloutRunner(n_episodes=6, max_episode_steps=60, n_processes=2, **silent),
    ]
    digests = [
        list(roll_out(runner, lander, batch_size=8).episodes["digest"]) for runner in runners
    ]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests[0])) == 6


def test_decisions_are_recorded_when_asked_for(lander, tmp_path):
    runner = SequentialRolloutRunner(2, 5, output_dir=tmp_path / "run")
    result = roll_out(runner, lander, record_decisions=True)
    rows = list(
        csv.DictReader((tmp_path / "run/event_logs/PolicyDecision.tsv").open(), delimiter="\t")
    )
    assert len(rows) == 10
    assert len(json.loads(rows[0]["logits"])["action"]) == 4
    assert float(rows[0]["value"]) == float(rows[0]["value"])
    assert 0 < result.statistics["PolicyDecision.entropy"].mean <= np.log(4) + 1e-6


def test_another_environment_than_that_of_the_training_is_refused(lander):
    config = {"_target_": TrainedPolicy, "input_dir": str(lander)}
    with pytest.raises(ConfigError, match="trained for another environment"):
        SequentialRolloutRunner(1, 5).run_with("CartPole-v1", config)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / "state_dict.pt").write_bytes(b"x"), "cannot be read as weights"),
        (lambda d: (d / "state_dict.pt").unlink(), "no weights"),
        (lambda d: (d / "spaces.json").unlink(), r"no spaces.json"),
        (lambda d: (d / "spaces.json").write_text("[]"), "cannot be read"),
        (lambda d: (d / "config.yaml").unlink(), "config of the training"),
    ],
)
def test_a_damaged_training_is_refused(lander, damage, said, tmp_path):
    copy = Path(shutil.copytree(lander, tmp_path / "copy"))
    damage(copy)
    with pytest.raises(ConfigError, match=said):
        TrainedPolicy(copy)


def test_a_model_of_somebody_elses_code_is_not_imported(lander, tmp_path):
    copy = Path(shutil.copytree(lander, tmp_path / "copy"))
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("DenseBlock", "EvilBlock"))
    with pytest.raises(ConfigError, match=r"EvilBlock.*If you trust"):
        TrainedPolicy(copy)


# Going on.

RESUMED = [
    ("ppo", ShowsTheAnswerEnv, PPO(n_lanes=4, n_rollout_steps=16, batch_size=32)),
    ("a2c", ShowsTheAnswerEnv, A2C(n_lanes=4, n_rollout_steps=16)),
    ("es", ShowsTheAnswerEnv, ES(n_pairs=4)),
    ("sac", ShowsTheNumberEnv, SAC(batch_size=16, initial_steps=100, n_batches=1)),
    ("ppo, sub-steps", TwoStepEnv, PPO(n_lanes=4, n_rollout_steps=16, batch_size=32)),
]


@pytest.mark.parametrize(
    ("env", "algorithm"),
    [
        pytest.param(*row[1:], id=row[0], marks=SLOW if row[0] in ("ppo", "a2c") else ())
        for row in RESUMED
    ],
)
def test_a_resumed_training_is_the_undisturbed_one(env, algorithm, tmp_path, monkeypatch):
    model = small_model(distributions={"Box": "squashed_gaussian"})
    options = {"eval_every_steps": 320, "log_every_steps": 1}
    whole = train(env, algorithm, tmp_path / "whole", 960, model=model, options=options)

    collect_or_try = "collect" if algorithm.n_lanes else "try_out"
    from maze.train import workers

    original, calls = getattr(workers.OwnProcess, collect_or_try), []

    def dies(self, *arguments):
        calls.append(1)
        if len(calls) == whole.n_updates * 2 // 3 + 1:
            raise RuntimeError("the power is gone")
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(workers.OwnProcess, collect_or_try, dies)
        with pytest.raises(RuntimeError, match="power"):
            train(env, algorithm, tmp_path / "cut", 960, model=model, options=options)
    again = train(env, algorithm, tmp_path / "cut", 960, model=model, options=options, resume=True)
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")
    assert again.best_return == whole.best_return
    for name in ("state_dict.pt", "state_dict_last.pt"):
        one, other = (
            torch.load(tmp_path / run / name, weights_only=True) for run in ("cut", "whole")
        )
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_several_processes_train_the_same_with_a_batch_size(tmp_path):
    options = {"batch_size": 8, "eval_every_steps": 300}
    ppo = {"_target_": PPO, "n_lanes": 4, "n_rollout_steps": 32, "batch_size": 32}
    for name, n_processes in (("one", None), ("two", 2)):
        train("CartPole-v1", ppo, tmp_path / name, 600, n_processes=n_processes, options=options)
    assert curves(tmp_path / "one") == curves(tmp_path / "two")


def test_evolution_shares_its_trials_out(tmp_path):
    es = {"_target_": ES, "n_pairs": 3}
    for name, n_processes in (("one", None), ("two", 2)):
        train(
            ShowsTheAnswerEnv, es, tmp_path / name, 200, n_processes=n_processes,
            options={"batch_size": 8},
        )  # fmt: skip
    assert curves(tmp_path / "one") == curves(tmp_path / "two")


def test_a_training_that_is_complete_is_extended(tmp_path):
    train(ShowsTheAnswerEnv, "a2c", tmp_path, 512, options={"eval_every_steps": 256})
    result = train(
        ShowsTheAnswerEnv, "a2c", tmp_path, 1024, options={"eval_every_steps": 256}, resume=True
    )
    assert result.n_steps == 1024
    assert [one.n_steps for one in result.evaluations] == [256, 512, 768, 1024]


def test_weights_of_another_training_are_the_first_ones(lander, tmp_path):
    nothing = PPO(n_lanes=4, n_rollout_steps=64, learning_rate=0.0)
    train(
        "LunarLander-v3", nothing, tmp_path, 200, wrappers=with_statistics(VECTOR_OBS, lander),
        model=small_model(), input_dir=lander,
    )  # fmt: skip
    best = torch.load(lander / "state_dict.pt", weights_only=True)
    kept = torch.load(tmp_path / "state_dict_last.pt", weights_only=True)
    assert all(torch.equal(best[name], kept[name]) for name in best)
    with pytest.raises(ConfigError, match="another environment"):
        train("CartPole-v1", nothing, tmp_path / "x", 200, model=small_model(), input_dir=lander)


def test_in_a_burn_in_only_the_critic_learns(tmp_path):
    ppo = PPO(n_lanes=4, n_rollout_steps=32, critic_burn_in_updates=100)
    train(ShowsTheAnswerEnv, ppo, tmp_path, 300, model=small_model())
    fresh = train(
        ShowsTheAnswerEnv, PPO(n_lanes=4, n_rollout_steps=32, learning_rate=0.0), tmp_path / "f",
        300, model=small_model(),
    )  # fmt: skip
    learnt = torch.load(tmp_path / "state_dict_last.pt", weights_only=True)
    first = torch.load(fresh.output_directory / "state_dict_last.pt", weights_only=True)
    same = {name: torch.equal(learnt[name], first[name]) for name in first}
    assert all(same[name] for name in same if name.startswith("policies."))
    assert not all(same[name] for name in same if name.startswith("critics."))


# Ends.


def test_a_training_ends_when_it_is_good_enough_or_gets_no_better(tmp_path):
    good = train(
        ShowsTheAnswerEnv, "a2c", tmp_path / "good", 50_000,
        options={"eval_every_steps": 256, "target_return": 3.0},
    )  # fmt: skip
    assert good.n_steps < 50_000
    assert "target_return" in good.stopped_because
    stuck = train(
        ShowsTheAnswerEnv, A2C(learning_rate=0.0), tmp_path / "stuck", 50_000,
        options={"eval_every_steps": 256, "patience": 2},
    )  # fmt: skip
    assert [one.n_steps for one in stuck.evaluations] == [256, 512, 768]
    assert "patience" in str(stuck)


def test_the_last_weights_are_evaluated_and_the_best_are_kept(tmp_path):
    result = train(
        ShowsTheAnswerEnv, A2C(learning_rate=0.05), tmp_path, 2_000,
        options={"eval_every_steps": 256},
    )  # fmt: skip
    assert result.evaluations[-1].n_steps == result.n_steps
    assert result.best_return == max(one.returns.mean for one in result.evaluations)


def test_without_evaluations_the_last_weights_are_kept(tmp_path):
    result = train(ShowsTheAnswerEnv, "a2c", tmp_path, 300, options={"n_eval_episodes": 0})
    assert result.best is None
    kept = [(tmp_path / name).read_bytes() for name in ("state_dict.pt", "state_dict_last.pt")]
    assert len(kept[0]) == len(kept[1])
    assert not (tmp_path / "evaluations.csv").exists()


class FailsSometimesEnv(ShowsTheAnswerEnv):
    def step(self, action):
        if self.n_asked == 5 and self.asked == 3:
            raise ValueError("the simulator has lost its licence")
        return super().step(action)


def test_episodes_that_fail_are_counted_and_too_many_end_the_training(tmp_path):
    result = train(FailsSometimesEnv, "a2c", tmp_path / "a", 500, options={"max_failures": 1000})
    assert sum(float(row["n_failed"]) for row in table(tmp_path / "a/training_log.csv")) > 0
    assert 0 < result.evaluations[-1].n_failed < 10
    with pytest.raises(RunStoppedError, match=r"max_failures=2.*\n?.*licence"):
        train(FailsSometimesEnv, "a2c", tmp_path / "b", 500, options={"max_failures": 2})


class KillsItselfEnv(ShowsTheAnswerEnv):
    def step(self, action):
        if self.n_asked == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def test_a_worker_that_dies_ends_the_training_with_a_word_about_it(tmp_path):
    with pytest.raises(RunStoppedError, match=r"was killed by SIGKILL.*maze resume"):
        train(KillsItselfEnv, "a2c", tmp_path, 500, n_processes=2)


class CannotBeBuiltEnv(ShowsTheAnswerEnv):
    n_built = 0

    def __init__(self):
        raise ValueError("no display")


def test_an_environment_that_cannot_be_built_is_told(tmp_path):
    with pytest.raises(ValueError, match="no display"):
        train(CannotBeBuiltEnv, "a2c", tmp_path, 500)


def test_two_trainings_do_not_write_into_one_directory(tmp_path):
    from maze.core.ledger.lock import DirectoryLock

    lock = DirectoryLock(tmp_path)
    with pytest.raises(OutputError, match="is being written to"):
        train(ShowsTheAnswerEnv, "a2c", tmp_path, 300)
    lock.release()


def test_a_training_leaves_torch_as_it_found_it(tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train(ShowsTheAnswerEnv, "a2c", tmp_path, 300)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


# Options.


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PPO(n_lanes=0), "n_lanes"),
        (lambda: PPO(gamma=1.5), "gamma"),
        (lambda: PPO(batch_size=1), "batch_size"),
        (lambda: PPO(clip_range=0), "clip_range"),
        (lambda: PPO(target_kl=-1.0), "target_kl"),
        (lambda: PPO(credit="mine"), "credit"),
        (lambda: A2C(normalize_advantages=1), "true or false"),
        (lambda: ES(noise_std=0.0), "noise_std"),
        (lambda: ES(deterministic="yes"), "true or false"),
        (lambda: SAC(tau=0.0), "tau"),
        (lambda: SAC(tune_alpha=None), "true or false"),
        (lambda: TrainingOptions(n_steps=0), "n_steps"),
        (lambda: TrainingOptions(patience=0), "patience"),
        (lambda: TrainingOptions(target_return="high"), "target_return"),
        (lambda: TrainingOptions(tensorboard=1), "tensorboard"),
        (lambda: TrainingRunner(n_processes=0), "n_processes"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"algorithm": "pro"}, "no algorithm 'pro'"),
        ({"algorithm": {"_target_": PPO, "lr": 1}}, r"'algorithm.lr' is not an option of PPO"),
        ({"algorithm": "ppo", "options": {"n_step": 1}}, r"Did you mean 'training.n_steps'"),
        ({"algorithm": "sac"}, "SquashedGaussian"),
        ({"algorithm": "ppo", "model": {"_target_": "maze.train.models.nix"}}, "nix"),
    ],
)
def test_what_cannot_be_trained_is_told_before_it_begins(arguments, said, tmp_path):
    algorithm = arguments.pop("algorithm")
    with pytest.raises(ConfigError, match=said):
        TrainingRunner(show_progress=False).run_with(
            ShowsTheNumberEnv, algorithm, output_dir=tmp_path,
            **({"options": {**QUIET, "n_steps": 3_000}} | arguments),
        )  # fmt: skip


CONF = Path(maze.__file__).parent / "conf"


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("algorithm/ppo.yaml", PPO), ("algorithm/a2c.yaml", A2C), ("algorithm/es.yaml", ES),
        ("algorithm/sac.yaml", SAC), ("training/default.yaml", TrainingOptions),
    ],
)  # fmt: skip
def test_the_config_file_has_the_options_and_defaults_of_the_class(file, kind):
    content = yaml.safe_load((CONF / file).read_text())
    content.pop("_target_", None)
    assert content == {field.name: field.default for field in dataclasses.fields(kind)}


def test_a_start_that_fails_leaves_no_directory(tmp_path):
    command(
        *MAZE_RUN, "-cn", "conf_train", "algorithm=sac", "env.name=Pendulum-v1",
        "wrappers=vector_obs", cwd=tmp_path, expect=2,
    )  # fmt: skip
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# On the command line.

MAZE_RUN = (sys.executable, "-m", "maze.cli.maze_run")
MAZE = (sys.executable, "-m", "maze.cli.maze")
SMALL = (
    "algorithm.n_lanes=4", "algorithm.n_rollout_steps=32", "algorithm.batch_size=64",
    "training.n_steps=512", "training.eval_every_steps=256", "training.n_eval_episodes=3",
    "seeding.env_base_seed=1", "seeding.agent_base_seed=1",
)  # fmt: skip


def command(*arguments, cwd, expect=0):
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=100)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stderr


@pytest.fixture(scope="module")
def cutting(tmp_path_factory):
    """The first command of the page, shortened."""
    where = tmp_path_factory.mktemp("page")
    variant = "tutorial_cutting_2d_struct_masked"
    printed = command(
        *MAZE_RUN, "-cn", "conf_train", f"env={variant}", "wrappers=tutorial_cutting_2d",
        f"model={variant}", *SMALL, cwd=where,
    )  # fmt: skip
    (directory,) = (where / "outputs" / f"{variant}-{variant}-ppo-dev").iterdir()
    assert str(directory) in printed
    return where, directory.relative_to(where)


def test_a_training_leaves_all_that_there_is_to_know(cutting):
    where, directory = cutting
    names = {path.name for path in (where / directory).iterdir()}
    assert {
        *("config.yaml", "state_dict.pt", "state_dict_last.pt", "spaces.json", "training.json"),
        *("observation_statistics.npz", "training_log.csv", "evaluations.csv", "checkpoints"),
        *("learning_curve.png", ".hydra", "maze_run.log", "versions.yaml"),
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not any(path.suffix == ".pkl" for path in (where / directory).rglob("*"))


def test_the_second_command_of_the_page_plays_what_the_first_has_learnt(cutting):
    where, directory = cutting
    variant = "tutorial_cutting_2d_struct_masked"
    printed = command(
        *MAZE_RUN, "policy=torch_policy", f"env={variant}", "wrappers=tutorial_cutting_2d",
        f"model={variant}", f"input_dir={directory}", "runner=sequential", "runner.n_episodes=2",
        "runner.max_episode_steps=20", cwd=where,
    )  # fmt: skip
    assert "TrainedPolicy · 2 episodes" in printed


def test_the_short_command_takes_the_rest_from_the_training(cutting):
    where, directory = cutting
    printed = command(
        *MAZE_RUN, "policy=torch_policy", f"input_dir={where / directory}", "runner=sequential",
        "runner.n_episodes=2", "runner.max_episode_steps=20", cwd=where,
    )  # fmt: skip
    assert "from input_dir: model, env, wrappers" in printed


def taken(directory, overrides=(), trust=False, **config):
    config = {
        "input_dir": str(directory),
        "env": "mine",
        "wrappers": {},
        "model": {},
        "policy": {"_target_": "x", "input_dir": str(directory)},
        **config,
    }
    return take_from_input_directory(config, overrides, trust), config


def test_what_the_command_does_not_name_is_taken_from_the_training(cutting):
    where, directory = cutting
    groups, config = taken(where / directory)
    assert groups == ["model", "env", "wrappers"]
    assert config["policy"]["model"] == config["model"]
    (arguments,) = config["wrappers"].values()
    assert arguments["statistics"] == str(where / directory / "observation_statistics.npz")
    groups, config = taken(where / directory, ["env.name=x", "+wrappers=vector_obs"])
    assert groups == ["model"]
    assert config["env"] == "mine"
    assert taken(where / directory, use_input_dir_config=False)[0] == []
    assert taken(where / directory, ["env=x"], use_input_dir_config=True)[0] == groups_of_all()
    only = {"use_input_dir_env": True, "use_input_dir_model": False}
    assert taken(where / directory, use_input_dir_config=only)[0] == ["env"]
    for wrong in (3, {"use_input_dir_nix": True}, {"use_input_dir_env": 1}):
        with pytest.raises(ConfigError, match="use_input_dir_config"):
            taken(where / directory, use_input_dir_config=wrong)


def groups_of_all():
    return ["model", "env", "wrappers"]


def test_a_training_of_somebody_elses_code_has_to_be_trusted(cutting, tmp_path):
    where, directory = cutting
    text = (where / directory / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("maze_envs.logistics", "evil"))
    with pytest.raises(ConfigError, match=r"(?s)evil.cutting_2d.models.*trust"):
        taken(tmp_path)
    assert taken(tmp_path, trust=True)[0] == groups_of_all()


def test_only_a_policy_that_needs_one_insists_on_the_directory_of_a_training(tmp_path):
    assert taken(tmp_path, policy={"_target_": "x"})[0] == []
    with pytest.raises(ConfigError, match=r"no config.yaml"):
        taken(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("policy=torch_policy",), "input_dir"),
        (("policy=torch_policy", "input_dir=nowhere"), "nowhere"),
        (("-cn", "conf_train", "algorithm=pop"), "Did you mean 'ppo'"),
        (("-cn", "conf_train", "algorithm.lr=1"), "algorithm.lr"),
    ],
)
def test_a_mistake_ends_in_one_message(arguments, said, tmp_path):
    stderr = command(*MAZE_RUN, *arguments, cwd=tmp_path, expect=2)
    assert said in stderr
    assert "Traceback" not in stderr


def test_a_killed_training_goes_on_and_learns_what_an_undisturbed_one_does(tmp_path):
    options = (
        *MAZE_RUN, "-cn", "conf_train", *SMALL, "training.n_steps=3584",
        "training.learning_curve=false", "training.tensorboard=false",
    )  # fmt: skip
    command(*options, "hydra.run.dir=whole", cwd=tmp_path)
    checkpoints = tmp_path / "killed" / "checkpoints"

    def has_begun(process):
        return checkpoints.is_dir() and any(checkpoints.glob("*/state.json"))

    with started([*options, "hydra.run.dir=killed"], has_begun, cwd=tmp_path) as process:
        process.kill()
        process.wait(20)
    n_before = len(table(tmp_path / "killed/evaluations.csv"))
    assert 0 < n_before < 42
    command(*MAZE, "resume", "killed", cwd=tmp_path)
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")


def test_a_training_that_is_interrupted_keeps_what_it_has_learnt(tmp_path):
    options = (
        *MAZE_RUN, "-cn", "conf_train", *SMALL, "training.n_steps=10000000",
        "hydra.run.dir=run",
    )  # fmt: skip
    log = tmp_path / "run" / "training_log.csv"
    with started(options, lambda process: log.exists(), cwd=tmp_path) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        printed = process.communicate()[0]
    assert "go on with maze resume" in printed
    n_steps = json.loads((tmp_path / "run" / "training.json").read_text())["n_steps"]
    printed = command(*MAZE, "resume", "run", f"training.n_steps={n_steps + 500}", cwd=tmp_path)
    assert "steps" in printed
    for wrong, said in (
        ("algorithm.gamma=0.5", "cannot be changed"),
        ("--retry-failed", "--retry-failed"),
    ):
        assert said in command(*MAZE, "resume", "run", wrong, cwd=tmp_path, expect=2)


def test_a_sweep_compares_trainings_and_their_curves_are_drawn(tmp_path):
    printed = command(
        *MAZE_RUN, "-cn", "conf_train", "--multirun", "algorithm.learning_rate=0.001,0.01", *SMALL,
        cwd=tmp_path,
    )  # fmt: skip
    (sweep,) = (tmp_path / "outputs" / "sweep").iterdir()
    table_lines = sweep_table.sweep_table(sweep).splitlines()
    assert len(table_lines) == 4
    assert table_lines[1].split()[1] == "algorithm.learning_rate=0.001"
    assert table_lines[1] in printed
    command(*MAZE, "plot", f"{sweep}=both", "-o", "curves.svg", cwd=tmp_path)
    assert (tmp_path / "curves.svg").read_text().lstrip().startswith("<?xml")
    command(*MAZE, "plot", str(sweep), f"{sweep}/0=one", cwd=tmp_path)
    assert (tmp_path / "learning_curves.png").stat().st_size > 5_000
    (tmp_path / "empty").mkdir()
    for wrong in ("nowhere", "empty"):
        assert wrong in command(*MAZE, "plot", wrong, cwd=tmp_path, expect=2)
    assert "format" in command(*MAZE, "plot", str(sweep), "-o", "x.nix", cwd=tmp_path, expect=2)
