"""Policies: each keeps its contract, and random ones respect every space."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from maze.core.agent import random_policy
from maze.core.agent.callable_policy import CallablePolicy
from maze.core.agent.dummy_cartpole_policy import DummyCartPolePolicy
from maze.core.agent.flat_policies import FlatPolicies
from maze.core.agent.lunar_lander_heuristic_policy import LunarLanderHeuristicPolicy
from maze.core.agent.policy import FlatPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.env.structured_env import ActorID
from maze.core.errors import ConfigError, ContractError
from maze.core.wrappers.maze_gym_env_wrapper import GymMazeEnv
from tests.contracts import PolicyContract, play, same
from tests.envs import EchoEnv, TwoStepEnv

FLAT = ActorID(0, 0)


class RandomSelect(FlatPolicy):
    def __init__(self, n_pieces: int = 4) -> None:
        self.n_pieces = n_pieces

    def start_episode(self, seed):
        return np.random.default_rng(seed)

    def act(self, observation, memory, deterministic):
        return {"piece": int(memory.integers(self.n_pieces))}


class RandomPlace(FlatPolicy):
    def start_episode(self, seed):
        return np.random.default_rng(seed)

    def act(self, observation, memory, deterministic):
        position = memory.uniform(-1, 1, 2).astype(np.float32)
        return {"position": position, "rotation": int(memory.integers(2))}


def largest_piece_or_origin(observation):
    if "sizes" in observation:
        return {"piece": int(observation["sizes"].argmax())}
    return {"position": np.zeros(2, dtype=np.float32), "rotation": 0}


class TestRandomPolicy(PolicyContract):
    def make_policy(self, env):
        return RandomPolicy(env.action_spaces)


class TestRandomPolicyInExoticSpaces(PolicyContract):
    def make_env(self):
        parts = {
            "text": spaces.Text(4),
            "sequence": spaces.Sequence(spaces.Box(-1, 1, (2,))),
            "one_of": spaces.OneOf((spaces.Discrete(2), spaces.Discrete(5))),
        }
        return GymMazeEnv(EchoEnv(spaces.Discrete(2), spaces.Dict(parts)))

    def make_policy(self, env):
        return RandomPolicy(env.action_spaces)


class TestFlatPolicies(PolicyContract):
    def make_policy(self, env):
        return FlatPolicies({"select": RandomSelect(), "place": RandomPlace()})


class TestCallablePolicy(PolicyContract):
    def make_policy(self, env):
        return CallablePolicy(largest_piece_or_origin, env.observation_spaces, env.action_spaces)


class TestDummyCartPolePolicy(PolicyContract):
    def make_env(self):
        return GymMazeEnv("CartPole-v1")

    def make_policy(self, env):
        return DummyCartPolePolicy()


class TestLunarLanderHeuristicPolicy(PolicyContract):
    def make_env(self):
        return GymMazeEnv("LunarLander-v3")

    def make_policy(self, env):
        return LunarLanderHeuristicPolicy()


# --- RandomPolicy


def sampled(space: spaces.Space[Any], n_actions: int = 40, seed: int = 0) -> list[Any]:
    """Actions of a plain space, out of a random policy."""
    policy = RandomPolicy({0: spaces.Dict({"action": space})})
    memory = policy.start_episode(seed)
    return [policy.act({}, FLAT, memory, False)["action"] for _ in range(n_actions)]


@st.composite
def boxes(draw):
    dtype = np.dtype(
        draw(st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int64", "uint64"]))
    )
    shape = draw(numpy_strategies.array_shapes(min_dims=0, max_dims=3, max_side=3))
    if dtype.kind == "f":
        numbers = st.floats(width=dtype.itemsize * 8, allow_nan=False)
    else:
        # The largest of 64 bits is not representable in a Box.
        info = np.iinfo(dtype)
        numbers = st.integers(max(int(info.min), -(2**62)), min(int(info.max), 2**62))
    low = draw(numpy_strategies.arrays(dtype, shape, elements=numbers))
    high = draw(numpy_strategies.arrays(dtype, shape, elements=numbers))
    low, high = np.minimum(low, high), np.maximum(low, high)
    if dtype.kind == "f":
        # Not from +inf, nor up to -inf.
        low, high = np.where(low == np.inf, 0, low), np.where(high == -np.inf, 0, high)
    return spaces.Box(np.asarray(low, dtype), np.asarray(high, dtype), dtype=dtype.type)


leaves = st.one_of(
    boxes(),
    st.builds(spaces.Discrete, st.integers(1, 300), start=st.integers(-5, 300)),
    st.builds(spaces.Discrete, st.integers(1, 100), dtype=st.sampled_from([np.int32, np.uint8])),
    st.builds(
        spaces.MultiDiscrete,
        numpy_strategies.arrays(
            np.int64,
            numpy_strategies.array_shapes(max_dims=2, max_side=3),
            elements=st.integers(1, 9),
        ),
    ),
    st.builds(spaces.MultiBinary, st.lists(st.integers(1, 3), min_size=1, max_size=2)),
    st.builds(spaces.Text, st.integers(1, 4)),
    st.just(spaces.Sequence(spaces.Discrete(3))),
    st.just(spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))),
    st.just(spaces.OneOf((spaces.Discrete(2), spaces.Box(-1, 1, (1,))))),
)
any_space = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("abc"), parts, max_size=3).map(spaces.Dict),
    ),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(any_space, st.integers(0, 2**70))
def test_random_actions_are_in_their_space_with_its_types(space, seed):
    actions = sampled(space, n_actions=3, seed=seed)
    for action in actions:
        assert action in space
        assert_same_types(action, space.sample())
    assert same(sampled(space, n_actions=3, seed=seed), actions)


def assert_same_types(action: Any, sample: Any) -> None:
    if isinstance(action, np.ndarray):
        sample = np.asarray(sample)  # a Box of shape () samples scalars now and then
        assert (type(action), action.dtype, action.shape) == (
            np.ndarray,
            sample.dtype,
            sample.shape,
        )
    elif isinstance(sample, dict):
        assert list(action) == list(sample)
        for key in sample:
            assert_same_types(action[key], sample[key])
    elif isinstance(sample, np.integer):
        assert type(action) in (type(sample), int)


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (spaces.Discrete(3, start=-1), {-1, 0, 1}),
        (spaces.Discrete(3, start=2), {2, 3, 4}),
        (spaces.Discrete(256), set(range(256))),
        (spaces.Discrete(200, start=100), set(range(100, 300))),
        (spaces.Box(-128, -126, (), np.int8), {-128, -127, -126}),
        (spaces.Box(254, 255, (), np.uint8), {254, 255}),
        (spaces.Box(0, 1, (), np.bool_), {False, True}),  # type: ignore[arg-type]
        (spaces.Box(-(2**63), -(2**63) + 1, (), np.int64), {-(2**63), -(2**63) + 1}),
    ],
)
def test_every_value_of_a_small_space_comes_up(space, values):
    assert {int(action) for action in sampled(space, 4000)} == values


@pytest.mark.parametrize("n", [2, 3, 100, 255])  # with and without bytes that have to be dropped
def test_values_of_a_discrete_space_are_equally_likely(n):
    counts = np.bincount(sampled(spaces.Discrete(n), 50_000), minlength=n)
    expected = 50_000 / n
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    # Mean n - 1, standard deviation sqrt(2 (n - 1)).
    assert abs(chi_square - (n - 1)) < 5 * np.sqrt(2 * (n - 1))


@pytest.mark.parametrize(
    ("low", "high", "mean", "deviation"),
    [
        (-1.0, 3.0, 1.0, 4 / np.sqrt(12)),  # uniform
        (2.0, np.inf, 3.0, 1.0),  # exponential from below
        (-np.inf, 2.0, 1.0, 1.0),  # exponential from above
        (-np.inf, np.inf, 0.0, 1.0),  # normal
    ],
)
def test_each_kind_of_interval_has_its_distribution(low, high, mean, deviation):
    values = np.array(sampled(spaces.Box(low, high, (1,), np.float64), 20_000))
    assert values.mean() == pytest.approx(mean, abs=0.05)
    assert values.std() == pytest.approx(deviation, abs=0.05)


def test_a_box_may_have_all_kinds_of_intervals():
    low = np.array([-1.0, 2.0, -np.inf, -np.inf], dtype=np.float32)
    high = np.array([1.0, np.inf, 2.0, np.inf], dtype=np.float32)
    values = np.stack(sampled(spaces.Box(low, high), 2000))
    assert (values >= low).all()
    assert (values <= high).all()
    assert values.mean(axis=0) == pytest.approx([0.0, 3.0, 1.0, 0.0], abs=0.15)


def test_the_widest_box_does_not_overflow():
    largest = np.finfo(np.float64).max
    values = np.array(sampled(spaces.Box(-largest, largest, (1,), np.float64), 1000))
    assert np.isfinite(values).all()
    assert 0.3 < (values < 0).mean() < 0.7


def test_actions_do_not_share_memory():
    actions = sampled(spaces.Box(-1, 1, (3,)))
    before = [action.copy() for action in actions]
    actions[0][:] = 9.0
    assert same(actions[1:], before[1:])


def test_different_seeds_and_step_keys_play_different_actions():
    space = spaces.Dict({"action": spaces.Box(-1, 1, (1,))})
    policy = RandomPolicy({"first": space, "second": space})
    seeds = [0, 1, 2**31, 2**64, 2**64 + 1]
    firsts = {
        float(policy.act({}, ActorID(step_key, 0), policy.start_episode(seed), False)["action"][0])
        for seed in seeds
        for step_key in ("first", "second")
    }
    assert len(firsts) == 2 * len(seeds)


def test_an_episode_does_not_repeat_itself():
    values = [float(action[0]) for action in sampled(spaces.Box(-1, 1, (1,), np.float64), 3000)]
    assert len(set(values)) == len(values)


def test_threads_do_not_disturb_each_other():
    policy = RandomPolicy({0: spaces.Dict({"action": spaces.Box(-1, 1, (2,))})})

    def actions(seed: int) -> list[Any]:
        memory = policy.start_episode(seed)
        return [policy.act({}, FLAT, memory, False) for _ in range(2000)]

    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(actions, range(8)))
    assert same(at_once, [actions(seed) for seed in range(8)])


def test_large_actions_are_drawn_in_small_blocks(monkeypatch):
    monkeypatch.setattr(random_policy, "LARGEST_BLOCK_SIZE", 12)
    counts = []

    class Counted(spaces.Box):
        def sample(self, mask=None, probability=None):
            counts.append(1)
            return super().sample()

    sampled(Counted(-1, 1, (2, 3)), n_actions=1)
    assert len(counts) == 2


def test_the_space_of_the_environment_is_not_sampled():
    space = spaces.Text(5, seed=3)
    undisturbed = spaces.Text(5, seed=3).sample()
    sampled(space)
    assert space.sample() == undisturbed


def test_a_step_key_without_space_is_answered():
    policy = RandomPolicy(TwoStepEnv().action_spaces)
    with pytest.raises(ContractError, match=r"step key 'cut'.*'select', 'place'"):
        policy.act({}, ActorID("cut", 0), policy.start_episode(0), False)


# --- heuristics


@pytest.mark.parametrize(("angle", "push"), [(0.1, 1), (-0.1, 0), (0.0, 0)])
def test_the_cart_is_pushed_to_where_the_pole_leans(angle, push):
    observation = {"observation": np.array([0.0, 0.0, angle, 0.0], dtype=np.float32)}
    assert DummyCartPolePolicy().act(observation, FLAT, None, True) == {"action": push}


@pytest.mark.parametrize("policy", [DummyCartPolePolicy(), LunarLanderHeuristicPolicy()])
@pytest.mark.parametrize(
    ("observation", "found"),
    [
        ({"observation": np.zeros((3, 4))}, r"'observation' of shape \(3, 4\)"),
        ({"state": np.zeros(4)}, "'state'"),
        ({"observation": 3}, r"'observation' of shape \?"),
        (np.zeros(5), "type ndarray"),
    ],
)
def test_observations_of_another_game_are_refused(policy, observation, found):
    with pytest.raises(ContractError, match=found):
        policy.act(observation, FLAT, None, True)


def test_the_lander_heuristic_plays_as_gymnasium_documents_it():
    from gymnasium.envs.box2d.lunar_lander import heuristic

    env = GymMazeEnv("LunarLander-v3")
    policy = LunarLanderHeuristicPolicy()
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        is_last, total = False, 0.0
        while not is_last:
            state = observation["observation"]
            action = policy.act(observation, FLAT, None, True)
            expected = heuristic(env.gym_env, state.astype(np.float64))
            assert action["action"] == expected
            observation, reward, terminated, truncated, _ = env.step(action)
            total, is_last = total + reward, terminated or truncated
        assert total > 100.0  # landed


# --- FlatPolicies


def test_flat_policies_may_be_configs():
    policies = FlatPolicies(
        {
            "select": {"_target_": "tests.test_policies.RandomSelect", "n_pieces": 1},
            "place": RandomPlace(),
        }
    )
    steps = play(TwoStepEnv(), policies)
    assert {step.action["piece"] for step in steps if step.actor.step_key == "select"} == {0}


def test_flat_policies_are_seeded_apart():
    policies = FlatPolicies({"select": RandomSelect(), "place": RandomSelect()})
    memory = policies.start_episode(3)
    assert memory["select"].integers(2**60) != memory["place"].integers(2**60)


def test_a_step_key_without_policy_is_answered():
    policies = FlatPolicies({"select": RandomSelect()})
    with pytest.raises(ContractError, match=r"no policy for step key 'place'.*'select'"):
        play(TwoStepEnv(), policies)


def test_step_keys_may_have_become_strings_in_a_file():
    spaces_by_key: Any = {0: TwoStepEnv().action_spaces["select"]}
    select = RandomSelect()
    of_strings: Any = {"0": select, "1": 3}
    assert FlatPolicies(of_strings, spaces_by_key).policies == {0: select}
    assert FlatPolicies({0: select}, spaces_by_key).policies == {0: select}


def test_a_missing_step_key_is_told_before_anything_is_played():
    with pytest.raises(ConfigError, match=r"there is none for \['place'\], but for \['select'\]"):
        FlatPolicies({"select": RandomSelect()}, TwoStepEnv().action_spaces)


@pytest.mark.parametrize("policies", [{}, [RandomSelect()], {"select": 3}])
def test_what_is_no_mapping_to_flat_policies_is_refused(policies):
    with pytest.raises(ConfigError, match="policies"):
        FlatPolicies(policies)


# --- CallablePolicy


def lean(state):
    assert state.shape == (4,)
    return int(state[2] > 0)


@pytest.mark.parametrize("function", [lean, "tests.test_policies.lean"])
def test_a_function_gets_and_returns_plain_values_where_there_is_one(function):
    env = GymMazeEnv("CartPole-v1")
    policy = CallablePolicy(function, env.observation_spaces, env.action_spaces)
    assert same(
        [step.action for step in play(env, policy)],
        [step.action for step in play(env, DummyCartPolePolicy())],
    )


def test_what_a_function_returns_is_not_converted():
    env = GymMazeEnv("CartPole-v1")
    policy = CallablePolicy(lambda state: np.int8(1), env.observation_spaces, env.action_spaces)
    action = policy.act(env.reset(seed=1)[0], FLAT, None, True)
    assert type(action["action"]) is np.int8


def test_results_of_the_wrong_form_are_answered():
    env = TwoStepEnv()
    observation, _ = env.reset(seed=1)
    policy = CallablePolicy(lambda observation: 1, env.observation_spaces, env.action_spaces)
    with pytest.raises(ContractError, match=r"returned 1.*return a dictionary"):
        policy.act(observation, env.actor_id(), None, True)
    flat = GymMazeEnv("CartPole-v1")
    policy = CallablePolicy(
        lambda state: {"action": 1}, flat.observation_spaces, flat.action_spaces
    )
    with pytest.raises(ContractError, match="return the action itself"):
        policy.act(flat.reset(seed=1)[0], FLAT, None, True)
    with pytest.raises(ContractError, match="not made for step key 'select'"):
        policy.act(observation, env.actor_id(), None, True)


def test_only_functions_are_callable_policies():
    with pytest.raises(ConfigError, match="has to be a function"):
        CallablePolicy(3, {}, {})  # type: ignore[arg-type]
