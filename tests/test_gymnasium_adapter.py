"""The way out of Maze: what other libraries get of a structured environment."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics
from hypothesis import given
from hypothesis import strategies as st

from maze.core.env.structured_env import ActorID, StructuredEnv
from maze.core.errors import ConfigError, ContractError
from maze.core.wrappers.gymnasium_adapter import GymnasiumAdapter, fixed_member
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from maze.core.wrappers.reward_scaling_wrapper import RewardScalingWrapper
from tests.core_envs import Sold, market_env, tank_env
from tests.envs import CountingEnv, EchoEnv, Placed, TwoStepEnv


class TwoSellersEnv(TwoStepEnv):
    """The selection is made by two agents in turn."""

    def __init__(self) -> None:
        super().__init__(n_steps=4)
        self.agent_counts = {"select": 2, "place": 1}

    def actor_id(self):
        step_key, _ = super().actor_id()
        return ActorID(step_key, self._time % 2 if step_key == "select" else 0)


def cartpole() -> GymMazeEnv:
    return GymMazeEnv("CartPole-v1")


ENVS = [cartpole, tank_env, market_env, TwoStepEnv, TwoSellersEnv]

EXPECTED = (
    "Not able to test alternative render modes due to the environment not having a spec",
    # The same is said of CartPole itself.
    "A Box observation space minimum value is -infinity",
    "A Box observation space maximum value is infinity",
)


@pytest.mark.parametrize("make", ENVS)
def test_the_checker_of_gymnasium_finds_nothing(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(GymnasiumAdapter(make()))
    said = [str(warning.message) for warning in caught]
    assert [text for text in said if not any(known in text for known in EXPECTED)] == []


@pytest.mark.parametrize("mode", ["rgb_array"])
def test_the_checker_renders_too(mode):
    pytest.importorskip("matplotlib")
    env = GymnasiumAdapter(tank_env(render_mode=mode))
    check_env(env)
    assert env.render_mode == mode
    assert env.metadata["render_modes"] == ["human", "rgb_array"]
    assert env.render().shape[2] == 3


def test_dictionaries_with_one_entry_are_taken_off():
    env = GymnasiumAdapter(RewardScalingWrapper(GymMazeEnv(CountingEnv()), 0.5))
    assert env.observation_space == CountingEnv.observation_space
    assert env.action_space == CountingEnv.action_space
    assert env.reset(seed=1)[0].tolist() == [0.0]
    observation, reward, *_ = env.step(0)
    assert (observation.tolist(), reward) == ([1.0], 0.5)


def test_dictionaries_with_several_entries_stay():
    inner = tank_env()
    env = GymnasiumAdapter(inner)
    assert env.observation_space == inner.observation_spaces[0]
    assert env.action_space == spaces.Discrete(4)
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(3)})
    echo = EchoEnv(spaces.Discrete(2), space)
    env = GymnasiumAdapter(GymMazeEnv(echo))
    env.reset()
    env.step({"a": 1, "b": 2})
    assert (env.action_space, echo.last_action) == (space, {"a": 1, "b": 2})


def entries(space: spaces.Space[Any]) -> list[str]:
    assert isinstance(space, spaces.Dict)
    return list(space.spaces)


def test_sub_steps_are_entries_of_one_space():
    inner: Any = TwoStepEnv()
    env = GymnasiumAdapter(inner)
    assert env.observation_space == spaces.Dict(
        {"step_key": spaces.Discrete(2), **inner.observation_spaces}
    )
    assert env.action_space == spaces.Dict(dict(inner.action_spaces))
    observation, _ = env.reset(seed=1)
    sizes = observation["select"]["sizes"]
    assert observation["step_key"] == 0
    assert observation["place"] == {"size": np.zeros(1), "piece": 0}
    position = {"position": np.zeros(2, np.float32), "rotation": 0}
    # Of the entry that nobody asks for, nothing happens.
    observation, reward, *_ = env.step({"select": {"piece": 3}, "place": position})
    assert (observation["step_key"], reward) == (1, 0.0)
    assert observation["place"] == {"size": sizes[3:], "piece": 3}
    assert not observation["select"]["sizes"].any()
    _, reward, *_ = env.step({"place": position})
    assert reward == pytest.approx(float(sizes[3]))


def test_an_episode_is_that_of_the_environment_inside():
    inner, env = TwoStepEnv(), GymnasiumAdapter(TwoStepEnv())
    seen, _ = inner.reset(seed=5)
    observation, _ = env.reset(seed=5)
    env.action_space.seed(1)
    for _ in range(6):
        key = inner.actor_id().step_key
        assert data_equivalence(observation[str(key)], seen)
        action = env.action_space.sample()
        seen, *expected, _ = inner.step(action[key])
        observation, *ending, _ = env.step(action)
        assert ending == expected
    assert ending[1]  # terminated


def test_agents_are_told_apart_if_their_number_is_fixed():
    env: Any = GymnasiumAdapter(TwoSellersEnv())
    assert env.observation_space["agent_id"] == spaces.Discrete(2)
    observation, _ = env.reset(seed=1)
    agents = [env.step(env.action_space.sample())[0]["agent_id"] for _ in range(6)]
    agents = [observation["agent_id"], *agents]
    assert agents == [0, 0, 1, 0, 0, 0, 1]
    for make in (market_env, TwoStepEnv):  # an unknown number, and one of each
        assert "agent_id" not in entries(GymnasiumAdapter(make()).observation_space)


def test_an_agent_with_an_odd_number_is_refused():
    class Odd(TwoSellersEnv):
        def actor_id(self):
            return ActorID("select", 7)

    with pytest.raises(ContractError, match=r"agent 7 of step key 'select' .* at most 2"):
        GymnasiumAdapter(Odd()).reset()


def test_events_are_handed_out_and_do_not_pile_up():
    env = GymnasiumAdapter(tank_env())
    _, info = env.reset(seed=1)
    assert isinstance(info["events"], tuple)
    *_, info = env.step(0)
    assert [event for event in info["events"] if isinstance(event, Sold)] == [Sold(0)]
    assert env.env.events == []
    env = GymnasiumAdapter(TwoStepEnv())
    env.reset(seed=1)
    told = [env.step(env.action_space.sample())[4]["events"] for _ in range(4)]
    assert [list(map(type, events)) for events in told] == [[], [Placed], [], [Placed]]


def test_the_mask_of_the_only_action_is_in_the_info():
    env = GymnasiumAdapter(tank_env())
    observation, info = env.reset(seed=3)
    for _ in range(5):
        assert info["action_mask"].dtype == np.int8
        assert info["action_mask"].tolist() == observation["allowed"].tolist()
        action = env.action_space.sample(mask=info["action_mask"])
        observation, _, _, _, info = env.step(action)
    assert "action_mask" not in GymnasiumAdapter(market_env()).reset(seed=1)[1]


MASKED = spaces.Dict(
    {
        "bits": spaces.MultiBinary(3),
        "free": spaces.Discrete(2),
        "grid": spaces.MultiDiscrete(np.array([[2, 3], [1, 2]])),
        "one": spaces.Discrete(3),
    }
)
MASKS = spaces.Dict(
    {
        "bits_mask": spaces.MultiBinary(3),
        "grid_mask": spaces.MultiBinary(8),
        "one_mask": spaces.Box(0, 1, (3,), np.uint8),
    }
)
MASK = {
    "bits_mask": np.array([1, 0, 1], np.int8),
    "grid_mask": np.array([0, 1, 1, 0, 0, 1, 0, 1], np.int8),
    "one_mask": np.array([0, 0, 1], np.uint8),
}
DECLARED = {"bits": "bits_mask", "grid": "grid_mask", "one": "one_mask"}


class MaskedEnv(EchoEnv):
    def __init__(self) -> None:
        super().__init__(MASKS, MASKED)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return copy.deepcopy(MASK), {}


def check_masked(action: dict[str, Any]) -> None:
    assert MASKED.contains(action)
    assert action["bits"][1] == 0
    assert action["grid"].tolist() == [[1, 0], [0, 1]]
    assert action["one"] == 2


def test_masks_have_the_form_that_the_space_samples_with():
    env = GymnasiumAdapter(GymMazeEnv(MaskedEnv(), action_masks=DECLARED))
    _, info = env.reset(seed=1)
    assert info["action_mask"]["free"] is None
    assert info["action_mask"]["bits"].tolist() == [2, 0, 2]
    samples = [env.action_space.sample(mask=info["action_mask"]) for _ in range(20)]
    for sample in samples:
        check_masked(sample)
    assert {tuple(sample["bits"].tolist()) for sample in samples} > {(0, 0, 0)}


class MaskedSubSteps(TwoStepEnv):
    """Only the last piece may be selected."""

    def __init__(self) -> None:
        super().__init__()
        select = {"sizes": spaces.Box(0.0, 1.0, (4,), np.float32), "open": spaces.MultiBinary(4)}
        self.observation_spaces = {**self.observation_spaces, "select": spaces.Dict(select)}
        self.action_masks = {"select": {"piece": "open"}}

    def _observe(self):
        observation = super()._observe()
        if "sizes" in observation:
            observation["open"] = np.array([0, 0, 0, 1], np.int8)
        return observation


def test_masks_of_sub_steps_allow_all_that_nobody_asks_for():
    env = GymnasiumAdapter(MaskedSubSteps())
    check_env(env)
    _, info = env.reset(seed=1)
    assert info["action_mask"]["place"] == {"position": None, "rotation": None}
    assert info["action_mask"]["select"]["piece"].tolist() == [0, 0, 0, 1]
    action = env.action_space.sample(mask=info["action_mask"])
    assert action["select"]["piece"] == 3
    *_, info = env.step(action)
    assert info["action_mask"]["select"]["piece"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("make", [*ENVS, MaskedSubSteps])
def test_it_steps_in_a_vector_environment(make):
    vector = SyncVectorEnv([lambda: GymnasiumAdapter(make())] * 3)
    single = GymnasiumAdapter(make())
    vector.action_space.seed(4)
    observations, _ = vector.reset(seed=[7, 8, 9])
    expected, _ = single.reset(seed=8)
    for _ in range(8):
        seen = list(gym.vector.utils.iterate(vector.observation_space, observations))[1]
        assert data_equivalence(_arrays(seen), _arrays(expected))
        actions = vector.action_space.sample()
        action = list(gym.vector.utils.iterate(vector.action_space, actions))[1]
        observations, _, terminated, truncated, infos = vector.step(actions)
        expected, _, *ending, info = single.step(action)
        assert infos["events"][1] == info["events"]
        assert [terminated[1], truncated[1]] == ending
        if any(ending):
            break
    vector.close()


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(child) for key, child in sorted(value.items())}
    return np.asarray(value, dtype=np.float64)


@pytest.mark.parametrize("make", ENVS)
def test_wrappers_of_gymnasium_go_on_top(make):
    env = FlattenObservation(RecordEpisodeStatistics(GymnasiumAdapter(make())))
    observation, _ = env.reset(seed=1)
    env.action_space.seed(1)
    rewards = []
    while True:
        assert env.observation_space.contains(observation)
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        rewards.append(float(reward))
        if terminated or truncated:
            break
    assert info["episode"]["r"] == pytest.approx(sum(rewards))
    assert info["episode"]["l"] == len(rewards)


@pytest.mark.parametrize("make", ENVS)
def test_it_travels_by_pickle(make):
    env = GymnasiumAdapter(make())
    restored = pickle.loads(pickle.dumps(env))
    assert data_equivalence(restored.reset(seed=2)[0], env.reset(seed=2)[0])


def test_closing_and_rendering_pass_through():
    class Closing(CountingEnv):
        is_closed = False

        def close(self):
            self.is_closed = True

    inner = Closing(render_mode="rgb_array")
    env = GymnasiumAdapter(GymMazeEnv(inner))
    env.reset()
    env.step(0)
    assert env.render().max() == 1
    env.close()
    assert inner.is_closed
    assert env.spec is None
    assert GymnasiumAdapter(cartpole()).spec is None


@pytest.mark.parametrize("env", [CountingEnv(), "CartPole-v1"])
def test_only_a_structured_environment_is_adapted(env):
    with pytest.raises(ConfigError, match=r"makes a gymnasium\.Env of a StructuredEnv, got"):
        GymnasiumAdapter(env)


def renamed(*names: Any) -> StructuredEnv:
    env = TwoStepEnv()
    for attribute in ("observation_spaces", "action_spaces", "agent_counts"):
        by_key = getattr(env, attribute)
        setattr(env, attribute, dict(zip(names, by_key.values(), strict=True)))
    return env


@pytest.mark.parametrize("names", [(0, "0"), ("step_key", "place"), ("a", "agent_id")])
def test_step_keys_need_names_of_their_own(names):
    with pytest.raises(ConfigError, match=r"another one named '.*': rename the step key"):
        GymnasiumAdapter(renamed(*names))


def test_step_keys_may_be_numbers():
    assert entries(GymnasiumAdapter(renamed(0, 1)).action_space) == ["0", "1"]


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="there is no such observation"):
        GymnasiumAdapter(GymMazeEnv(CountingEnv(), action_masks={"action": "allowed"}))


@pytest.mark.parametrize("action", [{"place": {}}, 3, None])
def test_an_action_without_the_entry_of_the_actor_is_refused(action):
    env = GymnasiumAdapter(TwoStepEnv())
    env.reset()
    with pytest.raises(ContractError, match="turn of step key 'select'"):
        env.step(action)


bounds = st.tuples(st.integers(-5, 5), st.integers(0, 5)).map(lambda two: (two[0], sum(two)))
SPACES = st.one_of(
    st.tuples(bounds, st.sampled_from([np.int8, np.float32, np.float64])).map(
        lambda two: spaces.Box(*two[0], (2, 3), two[1])  # type: ignore[arg-type]
    ),
    st.just(spaces.Box(3.0, np.inf, (2,))),
    bounds.map(lambda two: spaces.Discrete(two[1] - two[0] + 1, start=two[0])),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.just(spaces.MultiDiscrete([2, 3], start=[-1, 4])),
    st.just(spaces.MultiBinary([2, 2])),
    st.just(spaces.Text(4, min_length=2)),
    st.just(spaces.Sequence(spaces.Discrete(3))),
    st.just(spaces.Graph(spaces.Discrete(3), spaces.Box(0, 1))),
)


@given(st.recursive(SPACES, lambda child: st.one_of(
    st.dictionaries(st.text("abc", min_size=1), child, max_size=3).map(spaces.Dict),
    st.lists(child, max_size=2).map(spaces.Tuple),
), max_leaves=4))  # fmt: skip
def test_the_fixed_member_of_a_space_is_in_it_and_fixed(space):
    member = fixed_member(space)
    assert space.contains(member)
    space.seed(9)
    space.sample()
    assert repr(fixed_member(space)) == repr(member)
