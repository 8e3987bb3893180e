"""Monitoring: what passes a place in the stack becomes events, and stays the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import maze
from maze.core.env.structured_env import StructuredEnv
from maze.core.errors import ConfigError, SpaceError
from maze.core.events.event import Event, measure_events
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.monitoring_wrapper import (
    ArrayAction,
    BinaryAction,
    ContinuousAction,
    DiscreteAction,
    MazeEnvMonitoringWrapper,
    ObservedValues,
    SteppedReward,
    mean,
    pooled_std,
    std,
)
from maze.core.wrappers.reward_scaling_wrapper import RewardScalingWrapper
from maze.core.wrappers.wrapper import Wrapper
from tests.contracts import WrapperContract, play, same
from tests.core_envs import market_env
from tests.envs import CountingEnv, EchoEnv, ReusedBufferEnv, TwoStepEnv, WalkEnv

PATH = "maze.core.wrappers.monitoring_wrapper.MazeEnvMonitoringWrapper"
ALL = {"observation_logging": True, "action_logging": True, "reward_logging": True}


class TestMonitoringSubSteps(WrapperContract):
    def wrap(self, env):
        return MazeEnvMonitoringWrapper(env, **ALL)


class TestMonitoringAFlatEnvironment(WrapperContract):
    def make_inner(self):
        return GymMazeEnv(WalkEnv())

    def wrap(self, env):
        return MazeEnvMonitoringWrapper(env, **ALL)


def acting(space: spaces.Space[Any]) -> StructuredEnv:
    """A monitored environment with that action space."""
    return MazeEnvMonitoringWrapper(GymMazeEnv(EchoEnv(spaces.Discrete(2), space)), False, True)


def events_of(env: StructuredEnv, *actions: Any) -> list[Event]:
    """The events of some actions, without those of rewards."""
    env.reset(seed=0)
    for action in actions:
        env.step({"action": action})
    return [event for event in env.events if not isinstance(event, SteppedReward)]


def numbers_of(events: list[Event]) -> dict[str, float]:
    return measure_events(list(enumerate(events)), n_steps=len(events)).numbers


@pytest.mark.parametrize("make", [TwoStepEnv, market_env, lambda: GymMazeEnv(WalkEnv())])
def test_monitoring_changes_nothing(make):
    plain, monitored = play(make()), play(MazeEnvMonitoringWrapper(make(), **ALL))
    assert same([s._replace(events=()) for s in plain], [s._replace(events=()) for s in monitored])
    for one, other in zip(plain, monitored, strict=True):
        assert [event for event in other.events if type(event) in map(type, one.events)] == list(
            one.events
        )


def test_observation_action_and_reward_of_a_step_have_its_time():
    steps = play(MazeEnvMonitoringWrapper(GymMazeEnv(CountingEnv(n_steps=2)), **ALL))
    first, second = (step.events for step in steps)
    assert first[0] == ObservedValues(0, 0, "observation", 0.0, 0.0, 0.0, 0.0)
    assert isinstance(first[1], DiscreteAction)
    assert first[2] == SteppedReward(0, 0, 1.0)
    # The last observation is that of the second action; nobody acts on the third.
    assert second[0] == ObservedValues(0, 0, "observation", 1.0, 0.0, 1.0, 1.0)
    assert len(first) == len(second) == 3


def test_each_kind_is_monitored_only_if_asked_for():
    for kind, name in enumerate(ALL):
        flags = {**dict.fromkeys(ALL, False), name: True}
        steps = play(MazeEnvMonitoringWrapper(GymMazeEnv(WalkEnv()), **flags))
        types = (ObservedValues, DiscreteAction, SteppedReward)
        assert {type(event) for step in steps for event in step.events} == {types[kind]}


def test_the_reward_is_that_of_its_place_in_the_stack():
    inner = MazeEnvMonitoringWrapper(GymMazeEnv(CountingEnv(1)), action_logging=False)
    outer = MazeEnvMonitoringWrapper(
        RewardScalingWrapper(GymMazeEnv(CountingEnv(1)), 0.5), action_logging=False
    )
    assert play(RewardScalingWrapper(inner, 0.5))[0].events == (SteppedReward(0, 0, 1.0),)
    assert play(outer)[0].events == (SteppedReward(0, 0, 0.5),)


def test_values_of_a_discrete_action_are_counted():
    events = events_of(acting(spaces.Discrete(3, start=-1)), -1, 1, 1)
    assert numbers_of(events) == {
        "DiscreteAction.count/0/action/-1": 1.0,
        "DiscreteAction.count/0/action/1": 2.0,
    }


def test_many_values_of_a_discrete_action_are_counted_by_ranges():
    events = events_of(acting(spaces.Discrete(1000)), 0, 49, 50, 999)
    assert numbers_of(events) == {
        "DiscreteAction.count/0/action/0..49": 2.0,
        "DiscreteAction.count/0/action/50..99": 1.0,
        "DiscreteAction.count/0/action/950..999": 1.0,
    }
    assert [event.value for event in events] == [0, 49, 50, 999]  # type: ignore[attr-defined]


@given(st.integers(1, 2**40), st.integers(-(2**40), 2**40), st.data())
def test_there_are_at_most_twenty_ranges_and_each_value_is_in_its_own(n, start, data):
    value = data.draw(st.integers(start, start + n - 1))
    env = acting(spaces.Discrete(n, start=start))
    low, *high = events_of(env, value)[0].values.split("..")  # type: ignore[attr-defined]
    assert int(low) <= value <= int(high[0] if high else low)
    readers = env._acted[0][0]  # type: ignore[attr-defined]
    assert 1 <= len(readers.ranges.labels) <= 20


def test_each_number_of_an_action_has_a_name():
    action = {"act": np.array([0, 11]), "b": np.array([[1, 0]], np.int8), "c": (0.5, 1)}
    space = spaces.Dict(
        {
            "act": spaces.MultiDiscrete([2, 3], start=[0, 10]),
            "b": spaces.MultiBinary([1, 2]),
            "c": spaces.Tuple([spaces.Box(-1.0, 1.0, ()), spaces.Discrete(2)]),
        }
    )
    env = MazeEnvMonitoringWrapper(GymMazeEnv(EchoEnv(spaces.Discrete(2), space)), False, True)
    env.reset()
    env.step(action)
    assert env.events[:-1] == [
        DiscreteAction(0, 0, "act[0]", 0, "0"),
        DiscreteAction(0, 0, "act[1]", 11, "11"),
        BinaryAction(0, 0, "b[0,0]", 1),
        BinaryAction(0, 0, "b[0,1]", 0),
        ContinuousAction(0, 0, "c.0", 0.5),
        DiscreteAction(0, 0, "c.1", 1, "1"),
    ]


def test_each_dimension_of_a_box_has_mean_spread_and_range():
    actions = [np.array([0.0, 1.0], np.float32), np.array([0.5, -1.0], np.float32)]
    events = events_of(acting(spaces.Box(-1.0, 1.0, (2,), np.float32)), *actions)
    assert numbers_of(events) == {
        "ContinuousAction.mean/0/action[0]": 0.25,
        "ContinuousAction.mean/0/action[1]": 0.0,
        "ContinuousAction.std/0/action[0]": 0.25,
        "ContinuousAction.std/0/action[1]": 1.0,
        "ContinuousAction.min/0/action[0]": 0.0,
        "ContinuousAction.min/0/action[1]": -1.0,
        "ContinuousAction.max/0/action[0]": 0.5,
        "ContinuousAction.max/0/action[1]": 1.0,
    }


def test_bits_have_the_share_of_steps_in_which_they_were_set():
    bits = [np.array(bits, np.int8) for bits in ([0, 1], [1, 1])]
    numbers = numbers_of(events_of(acting(spaces.MultiBinary(2)), *bits))
    assert numbers == {"BinaryAction.share/0/action[0]": 0.5, "BinaryAction.share/0/action[1]": 1.0}


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-9, 9, (17,)), spaces.MultiBinary(17), spaces.MultiDiscrete([2] * 17)],
    ids=type,
)
def test_an_action_of_many_numbers_is_summed_up(space):
    events = events_of(acting(space), np.array([1] + [0] * 16, space.dtype))
    expected = ArrayAction(0, 0, "action", 1 / 17, math.sqrt(16) / 17, 0.0, 1.0)
    assert isinstance(events[0], ArrayAction)
    assert len(events) == 1
    assert np.allclose(events[0].moments, expected.moments)
    assert (events[0].min, events[0].max) == (0.0, 1.0)


def test_values_that_are_no_arrays_are_left_out():
    assert events_of(acting(spaces.Text(3)), "ab") == []


def test_an_action_that_is_not_in_its_space_is_answered():
    for action in (7, "left", None):
        with pytest.raises(SpaceError, match="'action' of step key 0 cannot be monitored"):
            events_of(acting(spaces.Discrete(3)), action)


@pytest.mark.parametrize("n", [3, 100])  # by hand, and with numpy
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_observations_are_summed_up_over_all_their_numbers(n, dtype):
    class Rows(CountingEnv):
        observation_space = spaces.Box(0, 200, (2, n), dtype)

        def _observe(self):
            return np.full((2, n), self.count, dtype) * np.array([[1], [100]], dtype)

    env = MazeEnvMonitoringWrapper(GymMazeEnv(Rows(3)), True, False, False)
    seen = np.array([[0, 0], [1, 100], [2, 200]])
    numbers = numbers_of([event for step in play(env) for event in step.events])
    assert numbers == {
        "ObservedValues.mean/0/observation": pytest.approx(seen.mean()),
        "ObservedValues.std/0/observation": pytest.approx(seen.std()),
        "ObservedValues.min/0/observation": 0.0,
        "ObservedValues.max/0/observation": 200.0,
    }


def test_the_observation_is_looked_at_before_the_environment_reuses_its_buffer():
    env = MazeEnvMonitoringWrapper(GymMazeEnv(ReusedBufferEnv()), True, False, False)
    means = [event.mean for step in play(env) for event in step.events]
    assert means == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("n", [2, 100])
@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_odd_observations_do_not_end_the_episode(n, odd, recwarn):
    class Odd(CountingEnv):
        observation_space = spaces.Box(-np.inf, np.inf, (n,), np.float64)

        def _observe(self):
            return np.array([odd if self.count == 1 else 1e200] * n)

    env = MazeEnvMonitoringWrapper(GymMazeEnv(Odd(3)), True, False, False)
    numbers = numbers_of([event for step in play(env) for event in step.events])
    assert not math.isfinite(numbers["ObservedValues.mean/0/observation"])
    assert not recwarn.list


floats = st.floats(-1e6, 1e6)


@given(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_spread_over_all_arrays_is_that_of_all_their_numbers(rows):
    array = np.array(rows)
    moments = [(row.mean(), row.std()) for row in array]
    assert pooled_std(moments) == pytest.approx(array.std(), rel=1e-6, abs=1e-6)
    assert mean(rows[0]) == pytest.approx(array[0].mean(), abs=1e-6)
    assert std(rows[0]) == pytest.approx(array[0].std(), abs=1e-6)


def test_statistics_of_a_run_are_grouped_by_step_key(tmp_path):
    result = maze.rollout(
        TwoStepEnv, wrappers={PATH: ALL}, n_episodes=4, seed=3, output_dir=tmp_path / "run"
    )
    names = [name for name in result.statistics if name not in ("return", "n_steps")]
    assert "DiscreteAction.count/select/piece/0" in names
    assert "ContinuousAction.mean/place/position[1]" in names
    assert "ObservedValues.max/place/size" in names
    assert "SteppedReward.sum/place" in names
    counts = [result.statistics[f"DiscreteAction.count/select/piece/{i}"].mean for i in range(4)]
    assert sum(counts) == 3.0
    sizes = result.statistics["SteppedReward.sum/place"]
    assert sizes.mean == pytest.approx(result.statistics["return"].mean)
    log = (tmp_path / "run" / "event_logs" / "DiscreteAction.tsv").read_text().splitlines()
    assert log[0].split("\t")[2:] == ["step_key", "agent_id", "head", "value", "values"]


def test_two_of_one_stack_do_not_mix_their_statistics():
    inner = MazeEnvMonitoringWrapper(TwoStepEnv(), False, False, True)
    MazeEnvMonitoringWrapper(Wrapper(inner), True, True, False)
    with pytest.raises(ConfigError, match=r"two .* have 'reward_logging'.*Set it to false"):
        MazeEnvMonitoringWrapper(Wrapper(inner), False, True, True)


def test_a_flag_is_a_boolean():
    with pytest.raises(ConfigError, match=r"'action_logging' .* true or false, got 'no'"):
        MazeEnvMonitoringWrapper(TwoStepEnv(), action_logging="no")  # type: ignore[arg-type]
