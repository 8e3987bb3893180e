"""Policies that were trained elsewhere: Stable-Baselines3, TorchScript, ONNX."""

# Options are passed as mappings, and some are wrong on purpose.
# mypy: disable-error-code="arg-type"

import gymnasium as gym
import numpy as np
import onnx
import pytest
import stable_baselines3
import torch
from onnx import TensorProto, helper
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from maze.core.errors import ConfigError, ContractError
from maze.core.rollout.job import build_policy
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.train.foreign.onnx_policy import OnnxPolicy
from maze.train.foreign.sb3_policy import SB3Policy
from maze.train.foreign.torchscript_policy import TorchScriptPolicy
from tests.envs import TwoStepEnv

SILENT = {"record_trajectory": False, "record_event_logs": False, "max_episode_steps": 0}
SEEDS = [11, 22, 33, 44, 55]


class SeededResets(gym.Wrapper):
    """Resets with the seeds of a list, one after the other."""

    def __init__(self, env, seeds):
        super().__init__(env)
        self.seeds = list(seeds)

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=self.seeds.pop(0) if self.seeds else 0, options=options)


def returns(policy, env_id, n_lanes=1, n_processes=None, deterministic=True):
    options = {"n_episodes": len(SEEDS), "n_lanes": n_lanes, "deterministic": deterministic}
    runner = (
        SequentialRolloutRunner(**options, **SILENT)
        if n_processes is None
        else ParallelRolloutRunner(n_processes=n_processes, **options, **SILENT)
    )
    seeding = Seeding(explicit_env_seeds=SEEDS, agent_base_seed=1)
    return list(runner.run_with(env_id, policy, seeding=seeding).episodes["return"])


@pytest.fixture(scope="module")
def ppo(tmp_path_factory):
    path = tmp_path_factory.mktemp("sb3") / "ppo.zip"
    model = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=256, seed=1, device="cpu")
    model.learn(1024).save(path)
    return path


@pytest.mark.parametrize(
    ("algorithm", "env_id", "options"),
    [
        ("PPO", "CartPole-v1", {"n_steps": 256}),
        ("SAC", "Pendulum-v1", {"learning_starts": 100}),
        pytest.param("DQN", "CartPole-v1", {"learning_starts": 100}, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_of_sb3_gives_the_mean_of_its_own_evaluation(
    algorithm, env_id, options, tmp_path
):
    kind = getattr(stable_baselines3, algorithm)
    model = kind("MlpPolicy", env_id, seed=1, device="cpu", **options).learn(300)
    model.save(tmp_path / "model.zip")
    env = DummyVecEnv([lambda: SeededResets(gym.make(env_id), SEEDS)])
    mean, std = evaluate_policy(model, env, n_eval_episodes=len(SEEDS), warn=False)
    policy = {"_target_": SB3Policy, "path": str(tmp_path / "model.zip"), "algorithm": algorithm}
    for n_lanes in (1, 3):
        ours = returns(policy, env_id, n_lanes)
        assert np.mean(ours) == pytest.approx(mean, rel=1e-4)
        assert np.std(ours) == pytest.approx(std, rel=1e-3, abs=1e-3)


def test_statistics_of_vec_normalize_are_used(tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]), norm_reward=False)
    model = stable_baselines3.A2C("MlpPolicy", env, seed=1, device="cpu").learn(300)
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "statistics.pkl"))
    fresh = DummyVecEnv([lambda: SeededResets(gym.make("CartPole-v1"), SEEDS)])
    evaluated = VecNormalize.load(str(tmp_path / "statistics.pkl"), fresh)
    evaluated.training = False
    mean, _ = evaluate_policy(model, evaluated, n_eval_episodes=len(SEEDS), warn=False)
    policy = {
        "_target_": SB3Policy, "path": str(tmp_path / "model.zip"), "algorithm": "A2C",
        "vec_normalize": str(tmp_path / "statistics.pkl"),
    }  # fmt: skip
    assert np.mean(returns(policy, "CartPole-v1")) == pytest.approx(mean)


def test_sampled_actions_come_from_the_episodes_seeds(ppo):
    policy = {"_target_": SB3Policy, "path": str(ppo)}
    sampled = returns(policy, "CartPole-v1", deterministic=False)
    assert sampled == returns(policy, "CartPole-v1", n_processes=2, deterministic=False)
    assert sampled == returns(policy, "CartPole-v1", n_lanes=3, deterministic=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "nowhere.zip"}, "no file of Stable-Baselines3 'nowhere.zip'"),
        ({"algorithm": "PP"}, "Did you mean 'PPO'"),
        ({"algorithm": "SAC"}, "cannot be loaded by SAC"),
        ({"algorithm": "TQC"}, "sb3-contrib"),
    ],
)
def test_what_sb3_cannot_load_is_refused(ppo, options, said):
    policy = {"_target_": SB3Policy, "path": str(ppo), **options}
    with pytest.raises(ConfigError, match=said):
        returns(policy, "CartPole-v1")


def test_a_model_of_sb3_for_another_environment_is_refused(ppo):
    with pytest.raises(ConfigError, match="was trained for observations in"):
        returns({"_target_": SB3Policy, "path": str(ppo)}, "Acrobot-v1")
    env = TwoStepEnv()
    with pytest.raises(ConfigError, match="one kind of decision"):
        SB3Policy(ppo, env.observation_spaces, env.action_spaces)


# TorchScript.


class Balance(nn.Module):
    """Logits that push the cart under its pole."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        lean = observation[:, 2] + 0.5 * observation[:, 3]
        return torch.stack([-lean, lean], 1) * 10


class Remembers(nn.Module):
    """Pushes left and right in turn: what it did last is its state."""

    @torch.jit.export
    def initial_state(self) -> torch.Tensor:
        return torch.zeros(1, 1)

    def forward(
        self, observation: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return state[:, 0], 1 - state


def saved(module, path):
    torch.jit.script(module).save(str(path))
    return str(path)


def test_a_torchscript_module_is_played_in_lanes_and_processes(tmp_path):
    policy = {"_target_": TorchScriptPolicy, "path": saved(Balance(), tmp_path / "a.pt")}
    alone = returns(policy, "CartPole-v1")
    assert min(alone) > 150
    assert alone == returns(policy, "CartPole-v1", n_lanes=3)
    env = GymMazeEnv("CartPole-v1")
    made = TorchScriptPolicy(policy["path"], env.observation_spaces, env.action_spaces)
    assert alone == returns(made, "CartPole-v1", n_processes=2)
    sampled = returns(policy, "CartPole-v1", deterministic=False)
    assert sampled == returns(policy, "CartPole-v1", n_lanes=3, deterministic=False)
    assert sampled != alone


def test_a_recurrent_module_has_a_state_in_each_episode(tmp_path):
    policy = {
        "_target_": TorchScriptPolicy, "path": saved(Remembers(), tmp_path / "a.pt"),
        "output": "action", "recurrent": True,
    }  # fmt: skip
    runner = SequentialRolloutRunner(3, 6, n_lanes=2, output_dir=tmp_path / "run")
    result = runner.run_with("CartPole-v1", policy, seeding=Seeding(1, 1))
    import maze

    run = maze.load(result.output_directory)
    assert [run.trajectory(i).actions.tolist() for i in range(3)] == [[0, 1, 0, 1, 0, 1]] * 3


def act_once(policy):
    env = GymMazeEnv("CartPole-v1")
    made = build_policy(policy, env)
    observation, _ = env.reset(seed=1)
    return made.act(observation, env.actor_id(), made.start_episode(1), True)


@pytest.mark.parametrize(
    ("module", "options", "error", "said"),
    [
        (nn.Linear(4, 3), {}, ContractError, "returned 3 numbers"),
        (nn.Linear(4, 2), {"output": "actions"}, ConfigError, "logits or action"),
        (nn.Linear(4, 2), {"recurrent": True}, ConfigError, r"exports no initial_state\(\)"),
        (None, {}, ConfigError, "cannot be read as TorchScript"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(module, options, error, said, tmp_path):
    path = tmp_path / "a.pt"
    if module is None:
        path.write_text("nothing of that kind")
    else:
        saved(module, path)
    policy = {"_target_": TorchScriptPolicy, "path": str(path), **options}
    with pytest.raises(error, match=said):
        act_once(policy)


# ONNX.


def onnx_file(path, input_name="x", n_inputs=1):
    """A model whose logits are those of ``Balance``."""
    weight = np.array([[0, 0], [0, 0], [-10, 10], [-5, 5]], np.float32)
    inputs = [
        helper.make_tensor_value_info(f"{input_name}{i or ''}", TensorProto.FLOAT, ["n", 4])
        for i in range(n_inputs)
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [input_name, "w"], ["y"])],
        "balance",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.ravel().tolist())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)


def test_an_onnx_model_plays_as_the_same_network_in_torchscript(tmp_path):
    policy = {"_target_": OnnxPolicy, "path": onnx_file(tmp_path / "a.onnx")}
    script = {"_target_": TorchScriptPolicy, "path": saved(Balance(), tmp_path / "a.pt")}
    alone = returns(policy, "CartPole-v1")
    assert alone == returns(script, "CartPole-v1")
    assert alone == returns(policy, "CartPole-v1", n_lanes=3)
    env = GymMazeEnv("CartPole-v1")
    made = OnnxPolicy(policy["path"], env.observation_spaces, env.action_spaces)
    assert alone == returns(made, "CartPole-v1", n_processes=2)


def test_an_onnx_model_that_does_not_fit_is_refused(tmp_path):
    env = GymMazeEnv("CartPole-v1")
    spaces = env.observation_spaces, env.action_spaces
    with pytest.raises(ConfigError, match="takes x, x1, but observations have: observation"):
        OnnxPolicy(onnx_file(tmp_path / "a.onnx", n_inputs=2), *spaces)
    (tmp_path / "b.onnx").write_text("nothing of that kind")
    with pytest.raises(ConfigError, match="cannot be read as an ONNX model"):
        OnnxPolicy(tmp_path / "b.onnx", *spaces)
    other = TwoStepEnv()
    with pytest.raises(ConfigError, match="one kind of decision"):
        OnnxPolicy(tmp_path / "b.onnx", other.observation_spaces, other.action_spaces)
