"""A policy that is asked from outside acts, measures and records as in a rollout."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import maze
from maze.core.env.structured_env import ActorID
from maze.core.episode_table import TIMING_COLUMNS
from maze.core.errors import ConfigError, ContractError
from maze.core.factory import Factory
from maze.core.rollout.job import EnvRecipe
from maze.core.seeding import Seeding
from maze.deployment.agent_deployment import AgentDeployment, DeploymentClosedError
from tests.envs import CountingEnv
from tests.test_datasets import CUTTING, NORMALIZATION

SEED = 4
MONITORING = "maze.core.wrappers.monitoring_wrapper.MazeEnvMonitoringWrapper"
STACK = "maze.core.wrappers.observation_stack_wrapper.ObservationStackWrapper"
SKIP = "maze.core.wrappers.step_skip_wrapper.StepSkipWrapper"
SCALING = "maze.core.wrappers.reward_scaling_wrapper.RewardScalingWrapper"
LIMIT = "maze.core.wrappers.time_limit_wrapper.TimeLimitWrapper"
DISCRETIZE = "maze.core.wrappers.discretize_actions_wrapper.DiscretizeActionsWrapper"

SETUPS: dict[str, tuple[str, Any, Any]] = {
    "plain": ("CartPole-v1", None, None),
    "function": ("CartPole-v1", lambda observation: int(observation[2] > 0), None),
    "observation wrappers": (
        "CartPole-v1",
        None,
        {
            NORMALIZATION: {},
            STACK: {"stack_config": [{"observation": "observation", "stack_steps": 3}]},
        },
    ),
    "rewards and limits": (
        "CartPole-v1",
        None,
        {SCALING: {"scale": 0.1}, LIMIT: {"max_episode_steps": 15}},
    ),
    "actions that are changed": (
        "Pendulum-v1",
        None,
        {DISCRETIZE: {"discretization_config": {"action": {"num_bins": 5}}}},
    ),
    "monitoring": ("CartPole-v1", None, {MONITORING: {}}),
    "skipped steps": ("CartPole-v1", None, {SKIP: {"n_steps": 3}}),
}


def same_records(one: Path, other: Path) -> None:
    a, b = maze.load(one), maze.load(other)
    for ours, theirs in zip(a.table, b.table, strict=True):
        left, right = (
            {k: v for k, v in row._asdict().items() if k not in TIMING_COLUMNS}
            for row in (ours, theirs)
        )
        assert left == right
    assert a.event_types == b.event_types
    for name in a.event_types:
        assert (one / "event_logs" / f"{name}.tsv").read_bytes() == (
            other / "event_logs" / f"{name}.tsv"
        ).read_bytes()
    for stream, again in zip(a.streams, b.streams, strict=True):
        assert stream.table().equals(again.table())
    assert a.statistics["statistics"] == b.statistics["statistics"]


@pytest.mark.parametrize("name", list(SETUPS))
def test_a_deployment_gives_the_actions_and_records_of_a_rollout(name, tmp_path):
    env_id, policy, wrappers = SETUPS[name]
    n_episodes = 3
    maze.rollout(
        env_id,
        policy,
        n_episodes=n_episodes,
        max_episode_steps=40,
        wrappers=wrappers,
        seed=SEED,
        output_dir=tmp_path / "rollout",
    )
    rows = list(maze.load(tmp_path / "rollout").table)
    with AgentDeployment(
        policy,
        env_id,
        wrappers,
        output_dir=tmp_path / "deployed",
        seeding=SEED,
        max_episode_steps=40,
    ) as deployment:
        for row in rows:
            # The user's own system: here, the bare environment of Gymnasium.
            theirs = gym.make(env_id)
            state, info = theirs.reset(seed=row.env_seed)
            action = deployment.act(state, info=info)
            while action is not None:
                state, reward, terminated, truncated, info = theirs.step(action)
                action = deployment.act(state, float(reward), terminated, truncated, info)
            assert not deployment.is_in_episode
            assert deployment.last_episode is not None
            assert deployment.last_episode.digest == row.digest
        result = deployment.close()
    assert result.n_done == n_episodes
    same_records(tmp_path / "rollout", tmp_path / "deployed")
    assert maze.verify(tmp_path / "deployed").is_good


def test_a_structured_environment_is_deployed_by_its_simulation(tmp_path):
    flat = {"_target_": "maze_envs.logistics.cutting_2d.greedy_policy.GreedyPolicy"}
    policy = {
        "_target_": "maze.core.agent.flat_policies.FlatPolicies",
        "policies": {0: flat, 1: flat},
    }
    env = {**CUTTING, "max_episode_steps": 12}
    wrappers: dict[str, Any] = {MONITORING: {}}
    maze.rollout(
        env, policy, n_episodes=2, wrappers=wrappers, seed=SEED, output_dir=tmp_path / "rollout"
    )
    with AgentDeployment(
        policy, env, wrappers, output_dir=tmp_path / "deployed", seeding=SEED
    ) as deployment:
        assert not deployment.uses_thread
        for row in maze.load(tmp_path / "rollout").table:
            theirs = simulation(env)
            # As Gymnasium makes its generators of a seed.
            state = theirs.reset(gym.utils.seeding.np_random(row.env_seed)[0])
            action = deployment.act(
                state,
                events=list(theirs.events),
                actor_id=theirs.actor_id(),
                env_time=theirs.env_time(),
            )
            theirs.events.clear()
            while action is not None:
                state, terminated, truncated = theirs.step(action)
                events = list(theirs.events)
                theirs.events.clear()
                action = deployment.act(
                    state,
                    None,  # Of the events.
                    terminated,
                    truncated,
                    events=events,
                    actor_id=theirs.actor_id(),
                    env_time=theirs.env_time(),
                    kpis=theirs.kpis,
                )
    same_records(tmp_path / "rollout", tmp_path / "deployed")


def simulation(env: Any) -> Any:
    built = EnvRecipe(env).build()
    while hasattr(built, "env"):
        built = built.env
    return built.core_env  # type: ignore[attr-defined]


def test_no_thread_is_started_where_none_is_needed():
    before = threading.active_count()
    deployment = AgentDeployment(
        None, "CartPole-v1", {NORMALIZATION: {}, LIMIT: {"max_episode_steps": 9}}
    )
    deployment.act(np.zeros(4, np.float32))
    assert not deployment.uses_thread
    assert threading.active_count() == before
    deployment.close()
    skipping = AgentDeployment(None, "CartPole-v1", {SKIP: {"n_steps": 2}})
    skipping.act(np.zeros(4, np.float32))
    assert skipping.uses_thread
    assert threading.active_count() == before + 1
    skipping.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("wrappers", [None, {SKIP: {"n_steps": 2}}], ids=["plain", "thread"])
def test_an_episode_that_is_given_up_is_recorded_as_failed(tmp_path, wrappers):
    deployment = AgentDeployment(None, "CartPole-v1", wrappers, output_dir=tmp_path, seeding=1)
    deployment.act(np.zeros(4, np.float32))
    deployment.act(np.zeros(4, np.float32), 1.0)
    deployment.give_up()
    state = np.zeros(4, np.float32)
    assert deployment.act(state) is not None
    assert deployment.act(state, 1.0, terminated=True) is None
    result = deployment.close()
    assert result.endings == {"terminated": 1, "truncated": 0, "failed": 1}
    row = maze.load(tmp_path).table.row(0)
    assert row.failure is not None
    assert row.failure.exception_type == "DeploymentClosedError"
    with pytest.raises(DeploymentClosedError, match="make a new AgentDeployment"):
        deployment.act(state)


@pytest.mark.parametrize("wrappers", [None, {SKIP: {"n_steps": 2}}], ids=["plain", "thread"])
def test_a_state_of_another_space_is_an_error_and_the_episode_has_failed(wrappers):
    deployment = AgentDeployment(None, "CartPole-v1", wrappers)
    with pytest.raises(ContractError, match=r"observation has shape \(3,\), expected \(4,\)"):
        deployment.act(np.zeros(3, np.float32))
    assert not deployment.is_in_episode
    assert deployment.act(np.zeros(4, np.float32)) in (0, 1)
    deployment.close()


def broken(observation: Any) -> int:
    raise ZeroDivisionError("no idea")


@pytest.mark.parametrize("wrappers", [None, {SKIP: {"n_steps": 2}}], ids=["plain", "thread"])
def test_a_policy_that_raises_is_told(wrappers):
    with (
        AgentDeployment(broken, "CartPole-v1", wrappers) as deployment,
        pytest.raises(ContractError, match="no idea"),
    ):
        deployment.act(np.zeros(4, np.float32))


def test_several_actors_have_to_be_named():
    deployment = AgentDeployment(None, CUTTING)
    state = simulation(CUTTING).reset(np.random.default_rng(1))
    with pytest.raises(ContractError, match="say with actor_id"):
        deployment.act(state)
    with pytest.raises(ContractError, match="env_time"):
        deployment.act(state, actor_id=(0, 0))
    with pytest.raises(ContractError, match="no step key 7"):
        deployment.act(state, actor_id=ActorID(7, 0), env_time=0)
    assert deployment.act(state, actor_id=(0, 0), env_time=0) is not None
    deployment.close()


def test_the_callers_random_generators_are_left_alone():
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    deployment = AgentDeployment(None, "CartPole-v1", seeding=3)
    deployment.act(np.zeros(4, np.float32))
    assert np.random.random() == expected
    deployment.close()


def test_long_episodes_are_recorded_in_parts(tmp_path):
    n = 70_000
    with AgentDeployment(None, CountingEnv, output_dir=tmp_path, seeding=1) as deployment:
        space = CountingEnv().observation_space
        state = space.sample()
        deployment.act(state)
        for i in range(n):
            deployment.act(state, 1.0, truncated=i == n - 1)
    assert maze.load(tmp_path).table.row(0).n_steps == n
    assert maze.verify(tmp_path).is_good
    assert maze.load(tmp_path).journal.entries[-1] is not None  # type: ignore[union-attr]


def test_seeds_that_run_out_are_told():
    deployment = AgentDeployment(
        None, "CartPole-v1", seeding=Seeding(1, 1, explicit_agent_seeds=[5])
    )
    state = np.zeros(4, np.float32)
    deployment.act(state)
    deployment.act(state, 1.0, terminated=True)
    with pytest.raises(ConfigError, match="explicit seeds for 1 episodes"):
        deployment.act(state)
    deployment.close()


def test_an_object_is_a_policy_too():
    policy = Factory(object, where="policy").build(
        {"_target_": "maze.core.agent.dummy_cartpole_policy.DummyCartPolePolicy"}
    )
    with AgentDeployment(policy, gym.make("CartPole-v1")) as deployment:  # type: ignore[arg-type]
        assert deployment.act(np.array([0, 0, 0.1, 0], np.float32)) == 1
