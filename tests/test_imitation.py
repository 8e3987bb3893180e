"""Learning from recordings: behavioural cloning, its data loaders, and going on from it."""

from __future__ import annotations

import csv
import json
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
from maze.core.agent.policy import StructuredPolicy
from maze.core.errors import ConfigError
from maze.core.seeding import Seeding
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.datasets.recordings import Recordings, Rows
from maze.train.datasets import TransitionDataset, TransitionStream, data_loader
from maze.train.models.build import build_model
from maze.train.specs import EnvSpecs
from maze.train.teacher import TeacherWrapper
from maze.train.trained_policy import TrainedPolicy
from maze.train.trainers.bc import BC, _check_allowed, decisions_of
from maze.train.trainers.dagger import DAgger
from maze.train.training_runner import TrainingRunner
from tests.contracts import WrapperContract
from tests.envs import EchoEnv
from tests.test_datasets import CUTTING, NORMALIZATION

OPTIONS: dict[str, Any] = {
    "n_steps": 6_000,
    "eval_every_steps": 2_000,
    "n_eval_episodes": 4,
    "tensorboard": False,
    "learning_curve": False,
}


def balance(observation: Any) -> int:
    """Keep the pole up: some 500 steps long."""
    x, speed, angle, spin = observation
    return int(angle + 0.3 * spin + 0.02 * x + 0.05 * speed > 0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    maze.rollout("CartPole-v1", balance, n_episodes=10, seed=1, output_dir=folder)
    return folder


def clone(env: Any, dataset: Any, directory: Path, **changes: Any) -> Any:

    options = {**OPTIONS, **changes.pop("options", {})}
    runner = TrainingRunner(show_progress=False, dataset={"dir_or_file": dataset})
    algorithm = {"_target_": "maze.train.trainers.bc.BC", **changes.pop("algorithm", {})}
    return runner.run_with(
        env, algorithm, options=options, seeding=Seeding(3, 3), output_dir=directory, **changes
    )


def maze_run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maze.cli.maze_run", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
    )


def log_of(directory: Path) -> list[dict[str, str]]:
    with (directory / "training_log.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_clone_does_what_its_teacher_did(teacher, tmp_path):
    result = clone(
        "CartPole-v1",
        str(teacher),
        tmp_path / "clone",
        options={"n_steps": 100_000, "eval_every_steps": 20_000},
    )
    assert result.best_return > 450
    rows = log_of(tmp_path / "clone")
    assert float(rows[-1]["accuracy"]) > 0.8
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    validated = [row for row in rows if row["validation_accuracy"] != "nan"]
    assert float(validated[-1]["validation_accuracy"]) > 0.8
    assert 0 < float(rows[-1]["entropy"]) < float(rows[0]["entropy"])
    policy = TrainedPolicy(tmp_path / "clone")
    assert maze.rollout("CartPole-v1", policy, n_episodes=5, seed=9).statistics["return"].mean > 450


def test_the_command_of_the_manual_clones_and_rolls_out(tmp_path):
    maze.rollout("CartPole-v1", balance, n_episodes=3, seed=1, output_dir=tmp_path / "one")
    maze.rollout("CartPole-v1", balance, n_episodes=2, seed=2, output_dir=tmp_path / "two")
    done = maze_run(
        *("-cn", "conf_train", "algorithm=bc", "env.name=CartPole-v1", "model=vector_obs"),
        *("wrappers=vector_obs", f"runner.dataset.dir_or_file=[one,{tmp_path / 'two'}]"),
        *("training.n_steps=4000", "training.n_eval_episodes=2", "hydra.run.dir=clone"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "learns from 5 recorded episodes" in done.stdout
    assert "valid. accuracy" in done.stdout
    assert (tmp_path / "clone" / "converted").is_dir()
    assert maze.verify(tmp_path / "clone" / "converted").is_good
    rolled = maze_run(
        *("policy=torch_policy", "input_dir=clone", "runner=sequential", "runner.n_episodes=2"),
        cwd=tmp_path,
    )
    assert rolled.returncode == 0, rolled.stderr
    tuned = maze_run(
        *("-cn", "conf_train", "algorithm=ppo", "env.name=CartPole-v1", "model=vector_obs"),
        *("wrappers=vector_obs", "input_dir=clone", "algorithm.critic_burn_in_updates=2"),
        *("training.n_steps=4096", "training.eval_every_steps=2048", "hydra.run.dir=tuned"),
        *("training.n_eval_episodes=2",),
        cwd=tmp_path,
    )
    assert tuned.returncode == 0, tuned.stderr
    before, after = (
        torch.load(tmp_path / name / "state_dict_last.pt", weights_only=True)
        for name in ("clone", "tuned")
    )
    # The critic alone has learnt in these two updates.
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    statistics = [
        dict(np.load(tmp_path / name / "observation_statistics.npz")) for name in ("clone", "tuned")
    ]
    assert all(np.array_equal(statistics[0][key], statistics[1][key]) for key in statistics[0])


def test_a_structured_environment_with_masks_is_cloned(tmp_path):
    flat = {"_target_": "maze_envs.logistics.cutting_2d.greedy_policy.GreedyPolicy"}
    greedy = {
        "_target_": "maze.core.agent.flat_policies.FlatPolicies",
        "policies": {0: flat, 1: flat},
    }
    maze.rollout(
        CUTTING, greedy, n_episodes=6, max_episode_steps=30, seed=1, output_dir=tmp_path / "run"
    )
    clone(
        CUTTING,
        tmp_path / "run",
        tmp_path / "clone",
        options={"max_episode_steps": 30, "n_eval_episodes": 2},
    )
    rows = log_of(tmp_path / "clone")
    for name in ("accuracy_0", "accuracy_1"):
        assert float(rows[-1][name]) > 0.9, rows[-1]
    assert any(row["validation_accuracy_1"] != "nan" for row in rows)


class ReachEnv(gym.Env[Any, Any]):
    """Several heads: what is seen has to be said again, in numbers, choices and bits."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Dict(
            {
                "move": spaces.Box(-2, 2, (2,), np.float32),
                "side": spaces.Discrete(2, start=1),
                "gears": spaces.MultiDiscrete([2, 3]),
                "lamps": spaces.MultiBinary(2),
            }
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._n = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self._n += 1
        reward = -float(np.abs(action["move"] - 2 * self._seen[:2]).sum())
        return self._observe(), reward, self._n == 20, False, {}

    def _observe(self) -> Any:
        self._seen = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self._seen


def says_it_again(observation: Any) -> Any:
    a, b, c = observation
    return {
        "move": np.array([2 * a, 2 * b], np.float32),
        "side": int(a > 0) + 1,
        "gears": np.array([b > 0, int(c > -0.3) + int(c > 0.3)], np.int64),
        "lamps": np.array([c > 0, a > b], np.int8),
    }


@pytest.mark.parametrize("box_loss", ["likelihood", "squared_error"])
def test_heads_of_every_kind_are_cloned(tmp_path, box_loss):
    maze.rollout(ReachEnv, says_it_again, n_episodes=60, seed=1, output_dir=tmp_path / "run")
    clone(
        ReachEnv,
        tmp_path / "run",
        tmp_path / "clone",
        algorithm={"box_loss": box_loss, "learning_rate": 0.003, "batch_size": 64},
        options={"n_steps": 60_000, "eval_every_steps": 20_000},
    )
    last = log_of(tmp_path / "clone")[-1]
    assert float(last["validation_accuracy"]) > 0.6  # Of four heads, all of them right.
    assert float(last["validation_action_error"]) < 0.25
    # It is the policy of this environment, which has bits among its actions.
    policy = {
        "_target_": "maze.train.trained_policy.TrainedPolicy",
        "input_dir": str(tmp_path / "clone"),
    }
    result = maze.rollout(ReachEnv, policy, n_episodes=2, seed=3)
    assert result.endings["terminated"] == 2


def test_decisions_go_to_the_networks_of_their_agents():

    specs = EnvSpecs(
        {0: spaces.Dict({"observation": spaces.Box(-1, 1, (1,), np.float32)})},
        {0: spaces.Dict({"action": spaces.Discrete(3)})},
        {0: 2},
        {},
    )
    dense = {"_target_": "maze.train.models.blocks.DenseBlock", "hidden_units": [4]}
    model = build_model(
        {
            "_target_": "maze.train.models.template.TemplateModel",
            "modalities": {"vector": dense},
            "hidden": dense,
            "separate_agent_networks": [0],
        },
        specs,
    )
    rows = Rows(
        4,
        {
            "observations": {"observation": np.array([[0.1], [0.2], [0.3], [0.4]], np.float32)},
            "actions": {"action": np.array([0, 1, 2, 1])},
            "agent_id": np.array([0, 1, 0, 1]),
        },
    )
    found = decisions_of(model, {0: rows})
    assert {name: one.codes["action"].ravel().tolist() for name, one in found.items()} == {
        "0_agent_0": [0, 2],
        "0_agent_1": [1, 1],
    }


def test_validation_episodes_are_not_learnt_from(teacher, tmp_path):

    algorithm = BC(validation_share=0.3)

    TrainingRunner(show_progress=False, dataset={"dir_or_file": teacher}).run_with(
        "CartPole-v1", algorithm, options=OPTIONS, seeding=Seeding(1, 1), output_dir=tmp_path
    )
    learnt, held_back = algorithm._learnt, algorithm._held_back
    assert held_back is not None
    assert (learnt.n_episodes, held_back.n_episodes) == (7, 3)
    sets = [{one.place(i)[1] for i in range(one.n_episodes)} for one in (learnt, held_back)]
    assert not sets[0] & sets[1]


def test_without_evaluations_the_lowest_validation_loss_counts(teacher, tmp_path):
    clone(
        "CartPole-v1",
        teacher,
        tmp_path,
        options={"n_eval_episodes": 0, "n_steps": 8_000, "eval_every_steps": 1_000},
        algorithm={"learning_rate": 0.3},  # So large that it gets worse at times.
    )
    losses = [float(row["validation_loss"]) for row in log_of(tmp_path)]
    losses = [loss for loss in losses if loss == loss]
    kept = torch.load(tmp_path / "state_dict.pt", weights_only=True)
    last = torch.load(tmp_path / "state_dict_last.pt", weights_only=True)
    is_last_best = losses[-1] == min(losses)
    assert is_last_best == all(torch.equal(kept[name], last[name]) for name in kept)
    assert len(losses) >= 4


def test_a_killed_cloning_goes_on_as_if_nothing_had_happened(teacher, tmp_path):

    class Killed(BC):
        def update(self, workers, n_steps_done):
            if n_steps_done > 4_000:
                raise SystemError("killed")
            return super().update(workers, n_steps_done)

    def train(directory: Path, algorithm: BC, resume: bool = False) -> None:
        TrainingRunner(show_progress=False, dataset={"dir_or_file": teacher}).run_with(
            "CartPole-v1",
            algorithm,
            wrappers={NORMALIZATION: {}},
            options=OPTIONS,
            seeding=Seeding(1, 1),
            output_dir=directory,
            resume=resume,
        )

    train(tmp_path / "whole", BC(batch_size=64))
    with pytest.raises(SystemError):
        train(tmp_path / "parts", Killed(batch_size=64))
    train(tmp_path / "parts", BC(batch_size=64), resume=True)
    whole, parts = (
        torch.load(tmp_path / name / "state_dict_last.pt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [log_of(tmp_path / name) for name in ("whole", "parts")]
    for rows in zip(*logs, strict=True):
        assert {**rows[0], "steps_per_second": ""} == {**rows[1], "steps_per_second": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": None}, "say where they are, with runner.dataset.dir_or_file"),
        ({"algorithm": {"box_loss": "huber"}}, "'algorithm.box_loss' has to be one of likelihood"),
        ({"algorithm": {"validation_share": 1.0}}, "'algorithm.validation_share' has to be"),
        ({"env": "MountainCar-v0"}, "recorded actions are not those"),
    ],
)
def test_what_cannot_be_cloned_is_an_error(teacher, tmp_path, changes, message):
    env, dataset = changes.pop("env", "CartPole-v1"), changes.pop("dataset", teacher)
    with pytest.raises(ConfigError, match=message):
        clone(env, dataset, tmp_path / "clone", **changes)


def test_other_algorithms_refuse_recordings(teacher, tmp_path):
    runner = TrainingRunner(show_progress=False, dataset={"dir_or_file": teacher})
    with pytest.raises(ConfigError, match="PPO learns from what it plays"):
        runner.run_with("CartPole-v1", "ppo", options=OPTIONS, output_dir=tmp_path / "x")


def test_an_action_that_the_mask_forbids_is_noticed(tmp_path):

    with pytest.raises(ConfigError, match="the mask 'mask' does not allow"):
        _check_allowed("action", "mask", torch.tensor([-0.5, -1e8]))


# Loaders.


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_loader_gives_every_transition_once_with_any_number_of_workers(teacher, n_workers):
    loader = data_loader(
        teacher, 100, ("observations", "actions", "episode", "step"), n_workers=n_workers
    )
    found = [
        (int(e), int(s))
        for batch in loader
        for e, s in zip(batch["episode"], batch["step"], strict=True)
    ]
    assert len(found) == len(set(found)) == Recordings(teacher).n_steps


def test_each_pass_of_a_stream_has_another_order(teacher):
    stream = TransitionStream(Recordings(teacher), 100, ("step",))
    first, second = next(iter(stream))["step"], next(iter(stream))["step"]
    assert first.tolist() != second.tolist()
    stream.epoch = 0
    assert next(iter(stream))["step"].tolist() == first.tolist()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_each_pass_of_a_loader_has_another_order(teacher, n_workers):
    loader = data_loader(teacher, 5_000, ("step",), n_workers=n_workers)
    first, second = ([step for batch in loader for step in batch["step"].tolist()] for _ in "ab")
    assert first != second
    assert sorted(first) == sorted(second)


def test_transitions_can_be_had_by_number(teacher):
    recordings = Recordings(teacher)
    dataset = TransitionDataset(recordings, ("observations", "actions", "step"))
    assert len(dataset) == recordings.n_steps
    trajectory = maze.load(teacher).trajectory(0)
    one = dataset[5]
    assert one["observations"]["observation"].tolist() == trajectory.observations[5].tolist()
    batch = dataset[[len(dataset) - 1, 5, -1]]
    assert batch["observations"]["observation"][1].tolist() == trajectory.observations[5].tolist()
    assert batch["step"][0] == batch["step"][2]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_sequences_can_be_had_by_number(teacher):
    dataset = TransitionDataset(Recordings(teacher), ("observations",), sequence_length=50)
    assert dataset[3]["observations"]["observation"].shape == (50, 4)
    assert dataset[3]["mask"].all()


def test_a_space_without_a_fixed_shape_is_refused_with_a_way_out(tmp_path):

    space = spaces.Sequence(spaces.Discrete(3))
    maze.rollout(
        lambda: EchoEnv(space, spaces.Discrete(2)),
        n_episodes=1,
        max_episode_steps=5,
        output_dir=tmp_path,
    )
    with pytest.raises(ConfigError, match=r"is in a Sequence space.*ObservationWrapper"):
        data_loader(tmp_path)


def test_the_result_says_what_was_learnt_from(teacher, tmp_path):

    clone("CartPole-v1", str(teacher), tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["runner"]["dataset"]["dir_or_file"] == str(teacher)
    assert json.loads((tmp_path / "training.json").read_text())["algorithm"] == "BC"


# A teacher who labels what the student visits.


class BalanceByHand(StructuredPolicy):
    """The teacher of above as a policy that wants to see raw numbers."""

    def act(self, observation: Any, actor: Any, memory: Any, deterministic: bool) -> Any:
        return {"action": balance(observation["observation"])}


class TestTeacher(WrapperContract):
    def wrap(self, env):
        return TeacherWrapper(env, BalanceByHand())  # It is not asked here.


class TestTeacherOfAFlatEnvironment(WrapperContract):
    def make_inner(self):
        return GymMazeEnv("CartPole-v1")

    def wrap(self, env):
        return TeacherWrapper(env, BalanceByHand(), {NORMALIZATION: {}})


def dagger(directory: Path, *, n_processes: int | None = None, **changes: Any) -> Any:
    algorithm = {
        "_target_": "maze.train.trainers.dagger.DAgger",
        "teacher": {"_target_": f"{__name__}.BalanceByHand"},
        "n_lanes": 4,
        "n_rollout_steps": 64,
        "n_batches": 16,
        **changes.pop("algorithm", {}),
    }
    return TrainingRunner(n_processes=n_processes, show_progress=False).run_with(
        changes.pop("env", "CartPole-v1"),
        algorithm,
        wrappers=changes.pop("wrappers", {NORMALIZATION: {}}),
        options={**OPTIONS, "n_steps": 5_000, "n_eval_episodes": 3, **changes.pop("options", {})},
        seeding=Seeding(3, 3),
        output_dir=directory,
        **changes,
    )


def test_a_student_learns_from_a_teacher_who_sees_other_observations(tmp_path):
    result = dagger(tmp_path)
    assert result.best_return > 400
    rows = log_of(tmp_path)
    assert float(rows[-1]["agreement"]) > 0.8
    assert float(rows[-1]["decisions"]) > 4_000


def test_in_the_first_rounds_the_teacher_plays(tmp_path):
    result = dagger(tmp_path, options={"n_steps": 256, "n_eval_episodes": 0})
    assert result.n_updates == 1
    assert float(log_of(tmp_path)[0]["agreement"]) == 1.0


def test_several_processes_learn_the_same_from_the_teacher(tmp_path):
    options = {"n_steps": 1_000, "n_eval_episodes": 0, "batch_size": 4}
    dagger(tmp_path / "one", options=options)
    dagger(tmp_path / "two", options=options, n_processes=2)
    one, two = (
        torch.load(tmp_path / name / "state_dict_last.pt", weights_only=True)
        for name in ("one", "two")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_killed_dagger_goes_on_as_if_nothing_had_happened(tmp_path):
    class Killed(DAgger):
        def update(self, workers, n_steps_done):
            if n_steps_done > 2_400:
                raise SystemError("killed")
            return super().update(workers, n_steps_done)

    teacher = {"_target_": f"{__name__}.BalanceByHand"}

    def train(directory: Path, kind: type[DAgger], resume: bool = False) -> None:
        TrainingRunner(show_progress=False).run_with(
            "CartPole-v1",
            kind(teacher=teacher, n_lanes=4, n_rollout_steps=64, n_batches=8),
            options={**OPTIONS, "n_steps": 4_000, "eval_every_steps": 1_000, "n_eval_episodes": 1},
            seeding=Seeding(1, 1),
            output_dir=directory,
            resume=resume,
        )

    train(tmp_path / "whole", DAgger)
    with pytest.raises(SystemError):
        train(tmp_path / "parts", Killed)
    train(tmp_path / "parts", DAgger, resume=True)
    whole, parts = (
        torch.load(tmp_path / name / "state_dict_last.pt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_sub_steps_are_labelled_by_the_teacher(tmp_path):
    flat = {"_target_": "maze_envs.logistics.cutting_2d.greedy_policy.GreedyPolicy"}
    TrainingRunner(show_progress=False).run_with(
        CUTTING,
        {
            "_target_": "maze.train.trainers.dagger.DAgger",
            "teacher": {
                "_target_": "maze.core.agent.flat_policies.FlatPolicies",
                "policies": {0: flat, 1: flat},
            },
            "n_lanes": 2,
            "n_rollout_steps": 32,
        },
        options={**OPTIONS, "n_steps": 500, "n_eval_episodes": 0},
        seeding=Seeding(3, 3),
        output_dir=tmp_path,
    )
    rows = log_of(tmp_path)
    assert float(rows[-1]["accuracy_0"]) > 0.5
    assert float(rows[-1]["accuracy_1"]) > 0.5


def test_dagger_without_a_teacher_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"policy@algorithm.teacher=lunar_lander_heuristics"):
        dagger(tmp_path, algorithm={"teacher": None})


def test_a_teacher_whose_wrapper_changes_actions_is_refused(tmp_path):
    discretize = "maze.core.wrappers.discretize_actions_wrapper.DiscretizeActionsWrapper"
    wrappers = {discretize: {"discretization_config": {"action": {"num_bins": 3}}}}
    with pytest.raises(ConfigError, match="a wrapper of the teacher changes its actions"):
        dagger(tmp_path, env="Pendulum-v1", algorithm={"teacher_wrappers": wrappers})


def test_the_command_of_the_manual_trains_with_a_teacher(tmp_path):
    done = maze_run(
        *(
            "-cn",
            "conf_train",
            "algorithm=dagger",
            "policy@algorithm.teacher=dummy_cartpole_policy",
        ),
        *("model=vector_obs", "wrappers=vector_obs", "training.n_steps=2000"),
        *("training.n_eval_episodes=1", "training.eval_every_steps=2000", "hydra.run.dir=student"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "agreement" in done.stdout
