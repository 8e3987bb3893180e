"""The supply chain: its rules by a worked example, what stages see, and policies for them."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maze
from maze.core.agent.random_policy import RandomPolicy
from maze.core.env.structured_env import ActorID, StructuredEnv
from maze.core.errors import ConfigError
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.seeding import Seeding
from maze_envs.logistics.supply_chain.core_env import PlannerCoreEnv, Rules
from maze_envs.logistics.supply_chain.demand import (
    ConstantDemand,
    PoissonDemand,
    SeasonalDemand,
    StepDemand,
)
from maze_envs.logistics.supply_chain.env import supply_chain_env
from maze_envs.logistics.supply_chain.events import Demanded
from maze_envs.logistics.supply_chain.policies import base_stock_policy, sterman_policy
from maze_envs.logistics.supply_chain.reward import CostReward
from maze_envs.logistics.supply_chain.state import Orders, SupplyChainState, stage_names
from tests.contracts import EnvContract, PolicyContract


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)


class TestSupplyChain(EnvContract):
    def make_env(self):
        return supply_chain_env()


class TestSupplyChainWithClosures(EnvContract):
    def make_env(self):
        return supply_chain_env(n_stages=3, closures=0.4, demand="seasonal")


class TestPlanner(EnvContract):
    def make_env(self):
        return supply_chain_env(one_planner=True, closures=0.2)


class TestBaseStockPolicy(PolicyContract):
    def make_env(self):
        return supply_chain_env(max_episode_steps=6)

    def make_policy(self, env):
        return base_stock_policy(env.action_spaces)


class TestStermanPolicy(PolicyContract):
    def make_env(self):
        return supply_chain_env(max_episode_steps=6, one_planner=True)

    def make_policy(self, env):
        return sterman_policy(env.action_spaces)


# Rules.


def test_the_example_of_the_rules_comes_out_as_it_is_written():
    env = PlannerCoreEnv(Rules(n_stages=2), ConstantDemand(10))
    rng = np.random.default_rng(0)
    env.reset(rng)
    told = []
    for orders in ((9, 5), (10, 6), (11, 7)):
        state, terminated, truncated = env.step(Orders(orders))
        assert not terminated
        assert not truncated
        told.append(
            [
                (
                    stage.received,
                    stage.incoming_order,
                    stage.shipped,
                    stage.inventory,
                    stage.backlog,
                    0.5 * stage.inventory + 1.0 * stage.backlog,
                )
                for stage in state.stages
            ]
        )
    assert told == [
        [(4, 10, 10, 6, 0, 3.0), (4, 4, 4, 12, 0, 6.0)],
        [(4, 10, 10, 0, 0, 0.0), (4, 9, 9, 7, 0, 3.5)],
        [(4, 10, 4, 0, 6, 6.0), (5, 10, 10, 2, 0, 1.0)],
    ]
    assert [period.cost for period in state.history] == [9.0, 3.5, 7.0]
    retailer, factory = state.stages
    assert (retailer.orders_under_way, retailer.goods_under_way) == ((11,), (9, 10))
    assert factory.goods_under_way == (6, 7)
    # What is owed goes first: of 9 units, 3 are left for those who want 10 now.
    env.events.clear()
    (state, *_), demanded = env.step(Orders((0, 0))), env.events
    assert (state.stages[0].shipped, state.stages[0].backlog) == (9, 7)
    assert Demanded(10, at_once=3) in demanded


def test_what_is_ordered_is_there_after_the_lead_time():
    rules = Rules()
    env = PlannerCoreEnv(rules, ConstantDemand(4))
    env.reset(np.random.default_rng(0))
    arrived = []
    for time in range(7):
        # More than usual, once, so that it can be recognised.
        state, *_ = env.step(Orders((9 if time == 0 else 4, 4, 4, 9 if time == 0 else 4)))
        arrived.append([stage.received for stage in state.stages])
    assert rules.lead_times == (4, 4, 4, 3)
    assert [row[0] for row in arrived] == [4, 4, 4, 9, 4, 4, 4]
    assert [row[3] for row in arrived] == [4, 4, 9, 4, 4, 4, 4]


def units_in(state: SupplyChainState) -> int:
    return sum(stage.inventory + sum(stage.goods_under_way) for stage in state.stages)


@settings(max_examples=60)
@given(
    st.integers(2, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.lists(st.integers(0, 20), min_size=5, max_size=5), min_size=1, max_size=25),
    st.integers(0, 10_000),
)
def test_goods_are_neither_made_nor_lost_on_the_way(n_stages, lead, production, orders, seed):
    rules = Rules(n_stages, lead, lead, production, initial_inventory=2, initial_flow=1)
    env = PlannerCoreEnv(rules, PoissonDemand(5.0))
    before = env.reset(np.random.default_rng(seed))
    owed = 0
    for of_stages in orders:
        state, *_ = env.step(Orders(tuple(of_stages[:n_stages])))
        made, delivered = of_stages[n_stages - 1], state.stages[0].shipped
        assert units_in(state) == units_in(before) + made - delivered
        # What is wanted is delivered or owed.
        owed += state.history[-1].demand - delivered
        assert state.stages[0].backlog == owed
        for i, stage in enumerate(state.stages):
            assert min(stage.inventory, stage.backlog) == 0
            assert state.on_order(i) >= 0
        before = state


@given(st.integers(0, 50))
def test_a_steady_demand_that_is_ordered_each_period_changes_nothing(n_periods):
    env = PlannerCoreEnv(Rules(), ConstantDemand(4))
    state = env.reset(np.random.default_rng(0))
    first = state.stages
    for _ in range(n_periods):
        state, *_ = env.step(Orders((4,) * 4))
    assert state.stages == first


def test_stages_order_one_after_the_other_and_then_the_period_goes_by():
    env = supply_chain_env()
    env.reset(seed=0)
    times = []
    for _ in range(8):
        times.append((env.env_time(), env.actor_id()))
        env.step({"order": 4})
    assert times == [(t, ActorID("order", i)) for t in (0, 1) for i in range(4)]


def test_closed_stages_do_not_order():
    env = supply_chain_env(closures=0.5, max_episode_steps=30)
    env.reset(seed=3)
    core_env = cast(Any, env.unwrapped).core_env
    numbers, is_last = set(), False
    while not is_last:
        open_stages = core_env.state.open_stages
        numbers.add(len(open_stages))
        for stage in open_stages:
            assert env.actor_id().agent_id == stage
            _, _, _, is_last, _ = env.step({"order": 5})
        placed = core_env.state.history[-1].orders
        assert all(units == (5 if i in open_stages else 0) for i, units in enumerate(placed))
    assert len(numbers) > 1
    assert min(numbers) >= 1


# Reward.


@pytest.mark.parametrize("team_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("closures", [0.0, 0.4])
def test_the_shares_of_the_stages_are_the_reward(team_share, closures):
    env = supply_chain_env(closures=closures, reward=CostReward(team_share))
    policy = RandomPolicy(env.action_spaces)
    memory = policy.start_episode(1)
    env.reset(seed=1)
    core_env = cast(Any, env.unwrapped).core_env
    for _ in range(120):
        n_open = len(core_env.state.open_stages)
        time = env.env_time()
        _, reward, _, truncated, _ = env.step(policy.act({}, env.actor_id(), memory, False))
        if env.env_time() == time:
            assert reward == 0.0
            continue
        assert float(reward) == -core_env.state.history[-1].cost
        shares = env.actor_rewards()
        assert shares is not None
        assert len(shares) == n_open
        assert sum(shares) == pytest.approx(float(reward))
        if team_share == 1.0:
            assert len({round(share, 9) for share in shares}) == 1
        if truncated:
            break


# Demand.


def test_demands_are_what_they_say():
    rng = np.random.default_rng(1)
    assert [StepDemand().units(t, rng) for t in range(6)] == [4, 4, 4, 4, 8, 8]
    assert ConstantDemand(3).units(9, rng) == 3
    drawn = [PoissonDemand(6.0).units(0, rng) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(6.0, abs=0.15)
    assert np.var(drawn) == pytest.approx(6.0, abs=0.6)
    wave = SeasonalDemand(8.0, amplitude=1.0, n_periods=4)
    means = [np.mean([wave.units(t, rng) for _ in range(500)]) for t in range(4)]
    assert means == pytest.approx([8.0, 16.0, 8.0, 0.0], abs=0.6)


# Policies.


def run(env: StructuredEnv, policy: Any, n_episodes: int = 20) -> Any:
    runner = SequentialRolloutRunner(
        n_episodes=n_episodes, max_episode_steps=0, record_trajectory=False
    )
    return runner.run_with(env, policy, seeding=Seeding(1, 2))


@pytest.mark.parametrize("make_policy", [base_stock_policy, sterman_policy])
def test_policies_order_the_same_for_stages_and_for_a_planner(make_policy):
    returns = []
    for one_planner in (False, True):
        env = supply_chain_env(one_planner=one_planner)
        result = run(env, make_policy(env.action_spaces), n_episodes=3)
        returns.append([row.episode_return for row in result.episodes])
    assert returns[0] == returns[1]


def test_theory_beats_people_and_people_beat_chance():
    env = supply_chain_env()
    theory, people, chance = (
        run(env, policy)
        for policy in (
            base_stock_policy(env.action_spaces),
            sterman_policy(env.action_spaces),
            RandomPolicy(env.action_spaces),
        )
    )
    assert theory.mean_return > people.mean_return / 2
    assert people.mean_return > chance.mean_return / 4


def test_people_make_a_bullwhip():
    env = supply_chain_env(demand="step")
    result = run(env, sterman_policy(env.action_spaces), n_episodes=1)
    (row,) = result.episodes
    statistics = row.statistics
    deviations = [statistics[f"Ordered.std/{name}"] for name in stage_names(4)]
    assert deviations == sorted(deviations)
    assert statistics["kpi.bullwhip_ratio"] > 4.0
    assert 0.0 <= statistics["kpi.fill_rate"] <= 1.0
    assert statistics["kpi.cost_per_period"] == pytest.approx(-row.episode_return / 52)


def test_a_level_is_filled_up_to():
    env = supply_chain_env(demand="constant")
    policy = base_stock_policy(env.action_spaces, levels=[30, 30, 30, 30])
    observation, _ = env.reset(seed=0)
    # 12 in stock, 4 ordered and 8 shipped to it.
    action = policy.act(observation, env.actor_id(), policy.start_episode(0), True)
    assert action == {"order": 30 - 12 - 12}


# Laws.


def test_episodes_do_not_depend_on_processes_and_lanes_and_play_again(tmp_path):
    env = {
        "_target_": "maze_envs.logistics.supply_chain.env.supply_chain_env",
        "closures": 0.3,
        "max_episode_steps": 12,
    }

    def digests(name: str, runner: Any) -> list[str]:
        result = runner.run_with(env, seeding=Seeding(5, 6), output_dir=tmp_path / name)
        return [row.digest for row in result.episodes]

    one = digests("one", SequentialRolloutRunner(n_episodes=6))
    assert digests("lanes", SequentialRolloutRunner(n_episodes=6, n_lanes=4)) == one
    assert digests("two", ParallelRolloutRunner(n_processes=2, n_episodes=6)) == one
    assert len(set(one)) == 6
    assert maze.verify(tmp_path / "two", replay="all").is_good


# Drawings.


@pytest.mark.parametrize("options", [{}, {"n_stages": 7}, {"one_planner": True, "closures": 0.5}])
def test_each_state_can_be_drawn(options):
    pytest.importorskip("matplotlib")
    env = supply_chain_env(**options, render_mode="rgb_array")
    env.reset(seed=0)
    frames: list[Any] = [env.render()]
    policy = RandomPolicy(env.action_spaces)
    memory = policy.start_episode(3)
    for _ in range(9):
        env.step(policy.act({}, env.actor_id(), memory, False))
        frames.append(env.render())
    assert {frame.shape for frame in frames} == {(540, 960, 3)}
    assert not np.array_equal(frames[0], frames[-1])


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_stages": 1}, "n_stages.*1"),
        ({"demand": "poison"}, "Did you mean 'poisson'"),
        ({"closures": 1.5}, "closures"),
        ({"holding_cost": -1}, "holding_cost"),
        ({"max_order": 0}, "max_order"),
        ({"order_lead_time": 0}, "order_lead_time"),
    ],
)
def test_bad_options_are_told(options, message):
    with pytest.raises(ConfigError, match=message):
        supply_chain_env(**options)


def test_policies_say_for_which_environments_they_are():
    import gymnasium as gym

    spaces = {0: gym.spaces.Dict({"action": gym.spaces.Discrete(2)})}
    with pytest.raises(ConfigError, match="plays supply chains"):
        base_stock_policy(cast(Any, spaces))
    env = supply_chain_env()
    for service_level in (0.0, 1.0, 2.0):
        with pytest.raises(ConfigError, match="service_level"):
            base_stock_policy(env.action_spaces, service_level=service_level)
