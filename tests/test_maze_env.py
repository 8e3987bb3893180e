"""What a ``MazeEnv`` makes of a simulation: spaces, rewards, events, KPIs, actors, pictures."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import maze
from maze.core.agent.masked_random_policy import MaskedRandomPolicy
from maze.core.agent.policy import StructuredPolicy
from maze.core.env.maze_env import MazeEnv
from maze.core.env.structured_env import ActorID
from maze.core.errors import ConfigError, ContractError
from maze.core.events.event import Event, EventStatistic, measure_events
from maze.core.wrappers.reward_scaling_wrapper import RewardScalingWrapper
from tests.contracts import EnvContract, PolicyContract, play
from tests.core_envs import (
    Asked,
    DayObservation,
    MarketCoreEnv,
    MarketReward,
    PriceAction,
    Rained,
    Sold,
    TankAction,
    TankCoreEnv,
    TankObservation,
    TankReward,
    market_env,
    tank_env,
)


class TestFlatMazeEnv(EnvContract):
    def make_env(self):
        return tank_env()


class TestMazeEnvWithActorsThatComeAndGo(EnvContract):
    def make_env(self):
        return market_env()


# Rewards and events.


def litres_in(events: list[Event]) -> int:
    return sum(event.litres for event in events if isinstance(event, Rained | Sold))


def test_the_reward_is_made_of_the_events_of_the_step_and_of_the_reset():
    env = tank_env()
    env.reset(seed=1)
    fallen = [event for event in env.events if isinstance(event, Rained)]
    assert fallen  # in the reset, with this seed
    env.events.clear()  # as the episode loop does
    _, reward, *_ = env.step({"sell": 1})
    in_step = litres_in(env.events)
    assert reward == fallen[0].litres + in_step
    env.events.clear()
    _, reward, *_ = env.step({"sell": 0})
    assert reward == litres_in(env.events)


def test_the_reward_can_be_exchanged_by_a_config():
    path = "tests.core_envs.TankReward"
    env = tank_env(reward={"_target_": path, "price": 10.0})
    once = tank_env()
    assert [step.reward for step in play(env)] == [10.0 * step.reward for step in play(once)]


def test_sub_steps_before_the_last_of_a_step_get_no_reward():
    env = market_env()
    env.reset(seed=0)
    rewards = [env.step({"price": price})[1] for price in (0, 3, 0, 1, 2)]
    assert rewards == [0.0, 3.0, 0.0, 0.0, 3.0]


def test_the_reward_is_shared_among_the_sub_steps_and_wrappers_change_the_shares_too():
    env = RewardScalingWrapper(market_env(), 0.5)
    env.reset(seed=0)
    assert env.actor_rewards() is None
    for price in (0, 3, 0, 1):
        env.step({"price": price})
    _, reward, *_ = env.step({"price": 2})
    assert (reward, env.actor_rewards()) == (1.5, [0.0, 0.5, 1.0])


def test_actors_come_and_go():
    steps = play(market_env())
    assert [step.actor for step in steps] == [
        *(ActorID("scout", 0), ActorID("seller", 0)),
        *(ActorID("scout", 0), ActorID("seller", 1), ActorID("seller", 2)),
        *(ActorID("scout", 0), ActorID("seller", 3), ActorID("seller", 4), ActorID("seller", 5)),
    ]
    assert [step.env_time for step in steps] == [0, 1, 1, 1, 2, 2, 2, 2, 3]


# Statistics and KPIs.


def test_kpis_are_statistics_of_the_episode_and_are_logged_in_its_last_step(tmp_path):
    result = maze.rollout(tank_env, n_episodes=3, seed=4, output_dir=tmp_path / "run")
    fallen, sold = (result.episodes[f"{name}.sum"] for name in ("Rained", "Sold"))
    shares = [float(s) / float(f) for s, f in zip(sold, fallen, strict=True)]
    assert list(result.episodes["kpi.sold_share"]) == shares
    assert result.statistics["kpi.left"].n == 3
    lines = (tmp_path / "run" / "event_logs" / "Kpi.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["episode_id", "env_time", "name", "value"]
    last = int(result.episodes["n_steps"][0]) - 1
    assert lines[1].split("\t")[1:] == [str(last), "sold_share", str(shares[0])]


def test_kpis_that_cannot_be_computed_fail_the_episode():
    class NoShareCoreEnv(TankCoreEnv):
        def kpis(self, summary: Any) -> Any:
            return {"share": 1 / 0}

    def make_env() -> Any:
        return MazeEnv(NoShareCoreEnv(), TankObservation(), TankAction(), TankReward())

    result = maze.rollout(make_env, n_episodes=1)
    assert result.endings["failed"] == 1
    assert result.failures[0].failure is not None
    assert result.failures[0].failure.exception_type == "ZeroDivisionError"


def test_statistics_have_a_step_an_episode_and_groups():
    events = [(0, Asked(0, 3)), (1, Asked(1, 1)), (1, Asked(2, 4)), (3, Asked(1, 2))]
    assert measure_events(events, n_steps=5).numbers == {
        "Asked.sum/0": 3.0,
        "Asked.sum/1": 3.0,
        "Asked.sum/2": 4.0,
        "Asked.prices/0/3": 1.0,
        "Asked.prices/1/1": 1.0,
        "Asked.prices/1/2": 1.0,
        "Asked.prices/2/4": 1.0,
        "Asked.dearest": 5.0,
        "Asked.busiest": 2.0,
    }


@dataclass(frozen=True)
class Waited(Event):
    """Somebody waited."""

    minutes: float

    statistics = (
        EventStatistic("mean_per_step", lambda values: sum(values) / len(values), per_step=len),
        EventStatistic(
            "mean_of_longest",
            lambda values: sum(values) / len(values),
            "minutes",
            per_step=max,
        ),
        EventStatistic("steps", len, per_step=len),
        EventStatistic("least", min, "minutes", per_step=sum),
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean_per_step", 3 / 4),  # steps without events count as 0 for a count ...
        ("least", 0.0),  # ... and for a sum
        ("mean_of_longest", (5.0 + 1.0) / 2),  # a maximum of nothing is no number
        ("steps", 2.0),  # how many steps had such events
    ],
)
def test_steps_without_events_count_where_nothing_is_zero(name, expected):
    events = [(0, Waited(2.0)), (0, Waited(5.0)), (2, Waited(1.0))]
    assert measure_events(events, n_steps=4).numbers[f"Waited.{name}"] == expected


def test_policies_emit_events_of_the_step_that_they_decide():
    class Hesitates(StructuredPolicy):
        emits_events = True

        def start_episode(self, seed: int) -> Any:
            return []

        def act(self, observation: Any, actor: Any, memory: Any, deterministic: bool) -> Any:
            memory.append(Waited(float(len(memory) + 1)))
            return {"sell": 1}

        def take_events(self, memory: Any) -> Any:
            taken = list(memory)
            memory.clear()
            return taken

    for n_lanes in (1, 3):
        result = maze.rollout(tank_env, Hesitates(), n_episodes=4, n_lanes=n_lanes, seed=1)
        assert list(result.episodes["Waited.mean_per_step"]) == [1.0] * 4
        assert result.statistics["Sold.sum"].n == 4


# Masks.


class TestMaskedRandomPolicy(PolicyContract):
    def make_env(self):
        return tank_env()

    def make_policy(self, env):
        return MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)


def test_masked_random_actions_are_exactly_the_allowed_ones():
    env = tank_env()
    policy = MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
    memory = policy.start_episode(3)
    for litres in range(4):
        observation = {"allowed": np.arange(4) <= litres}
        drawn = {policy.act(observation, ActorID(0, 0), memory, False)["sell"] for _ in range(200)}
        assert drawn == set(range(litres + 1))


HEAD = spaces.MultiDiscrete([2, 3], start=[0, 5])
BITS = spaces.MultiBinary(3)


@pytest.mark.parametrize(
    ("head", "mask", "expected"),
    [
        # for each number its values, one after the other
        (HEAD, [1, 1, 0, 1, 0], {(0, 6), (1, 6)}),
        (BITS, [1, 0, 1], {(0, 0, 0), (1, 0, 0), (0, 0, 1), (1, 0, 1)}),
        (spaces.Discrete(3, start=7), [0, 1, 1], {(8,), (9,)}),
        (spaces.Discrete(3, dtype=np.int32), [0, 0, 1], {(2,)}),
    ],
)
def test_each_kind_of_head_has_its_form_of_mask(head, mask, expected):
    policy = MaskedRandomPolicy(
        {0: spaces.Dict({"x": head})},
        {0: spaces.Dict({"m": spaces.MultiBinary(len(mask))})},
        {0: {"x": "m"}},
    )
    memory = policy.start_episode(1)
    observation = {"m": np.array(mask, np.int8)}
    drawn = [policy.act(observation, ActorID(0, 0), memory, False)["x"] for _ in range(200)]
    assert all(head.contains(value) for value in drawn)
    assert {tuple(np.ravel(value).tolist()) for value in drawn} == expected


def test_a_mask_that_allows_nothing_is_an_error():
    env = tank_env()
    policy = MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
    with pytest.raises(ContractError, match="'allowed' allows no value of the action 'sell'"):
        policy.act({"allowed": np.zeros(4)}, ActorID(0, 0), policy.start_episode(0), False)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "declares no action masks"),
        ({1: {"sell": "allowed"}}, "for step key 1"),
        ({0: {"buy": "allowed"}}, "there is no such action"),
        ({0: {"sell": "permitted"}}, "there is no such observation"),
        ({0: {"sell": "litres"}}, "has 1 entries, expected 4"),
    ],
)
def test_declared_masks_have_to_fit(masks, message):
    env = tank_env()
    with pytest.raises(ConfigError, match=message):
        MaskedRandomPolicy(env.action_spaces, env.observation_spaces, masks)


# Pictures.


def test_every_state_can_be_drawn_the_first_and_the_last_included():
    env = tank_env(render_mode="rgb_array")
    env.reset(seed=1)
    frames = [env.render()]
    for _ in range(30):
        _, _, terminated, truncated, _ = env.step({"sell": 3})
        frames.append(env.render())
        if terminated or truncated:
            break
    assert {frame.shape for frame in frames} == {(50, 100, 3)}
    assert frames[0].dtype == np.uint8
    assert not np.array_equal(frames[0], frames[1])


def test_a_copy_can_be_made_that_renders():
    env = tank_env()
    assert env.render() is None
    rendering = env.with_render_mode("rgb_array")
    rendering.reset(seed=1)
    assert rendering.render().shape == (50, 100, 3)
    assert (env.render_mode, rendering.render_mode) == (None, "rgb_array")


def test_a_render_mode_needs_a_renderer_and_has_to_exist():
    with pytest.raises(ConfigError, match="without a renderer"):
        market_env().with_render_mode("rgb_array")
    with pytest.raises(ConfigError, match="one of human, rgb_array, got 'ascii'"):
        tank_env(render_mode="ascii")


def test_the_last_step_says_how_the_state_came_about():
    env = tank_env()
    env.reset(seed=1)
    before = env.state
    env.step({"sell": 2})
    assert env.last_step is not None
    assert env.last_step.state is before
    assert env.last_step.action == 2
    assert Sold(min(2, before.litres)) in env.last_step.events
    env.reset(seed=1)
    assert env.last_step is None


# Parts that do not fit.


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        ({"scout": DayObservation()}, PriceAction(), r"\['scout', 'seller'\], got them for"),
        (DayObservation(), {"scout": PriceAction(), "buyer": PriceAction()}, "got them for"),
        (PriceAction(), PriceAction(), "takes an ObservationConversion"),
    ],
)
def test_each_step_key_needs_its_conversions(observations, actions, message):
    with pytest.raises(ConfigError, match=message):
        MazeEnv(MarketCoreEnv(), observations, actions, MarketReward())


def test_a_conversion_without_dictionary_space_is_refused():
    class Plain(DayObservation):
        def space(self) -> Any:
            return spaces.Discrete(4)

    with pytest.raises(ConfigError, match=r"space\(\) of Plain returned Discrete\(4\)"):
        MazeEnv(MarketCoreEnv(), Plain(), PriceAction(), MarketReward())


def test_the_action_that_does_nothing_is_the_conversions():
    assert tank_env().noop_action() == {"sell": 0}
    with pytest.raises(ConfigError, match="PriceAction does not say which action does nothing"):
        market_env().noop_action()


def test_a_copy_in_the_middle_of_an_episode_goes_on_like_the_original():
    env = tank_env()
    env.reset(seed=5)
    env.step({"sell": 1})
    copied = copy.deepcopy(env)
    assert [env.step({"sell": 1})[1] for _ in range(3)] == [
        copied.step({"sell": 1})[1] for _ in range(3)
    ]
